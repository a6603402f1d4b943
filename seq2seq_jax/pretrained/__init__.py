"""Checkpoints of other projects in and out: declarative tables that are read in both directions."""
