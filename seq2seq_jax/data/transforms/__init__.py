"""Transforms of examples, one per file."""
