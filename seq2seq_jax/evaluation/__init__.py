"""Corpus scores and plots."""
