"""Search over a model's start and step: from sources to texts."""
