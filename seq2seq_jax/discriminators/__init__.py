"""Discriminators: functions of a source and a text that tell references from samples, one file each."""
