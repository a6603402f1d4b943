"""Measurements: training steps timed side by side, beside other libraries and with other ways to make batches."""
