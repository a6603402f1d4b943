"""Training objectives: each gives its players a loss."""
