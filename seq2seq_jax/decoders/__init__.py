"""Decoders, one file per family."""
