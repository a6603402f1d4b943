"""A run: its directory, the system that computes, its training, and the use of what it has learned."""
