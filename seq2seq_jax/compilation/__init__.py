"""A step compiled for chips that are not there, and what the compiled program says of memory, work and time."""
