"""Meshes, the mapping of logical axes to them, and process start-up."""
