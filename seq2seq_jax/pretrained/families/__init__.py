"""The architectures of other projects, one file per group."""
