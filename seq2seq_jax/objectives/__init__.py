"""Training objectives: each defines the losses of its players."""
