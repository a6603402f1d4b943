"""The parts that encoders and decoders are built of."""
