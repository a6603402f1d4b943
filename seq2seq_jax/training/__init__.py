"""The loop, the jitted step, optimizer, checkpoints, telemetry."""
