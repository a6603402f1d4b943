"""Measurements: training steps timed side by side, beside other libraries and with other ways to make batches."""

MIN_ROUNDS = 5
"""Rounds below which a median says little."""
