"""Generation from sources to texts, with a model's `start` and `step`."""
