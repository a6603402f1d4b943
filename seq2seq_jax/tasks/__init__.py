"""What the columns of examples mean: one file per task."""
