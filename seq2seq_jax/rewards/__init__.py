"""Text metrics as pure functions of token ids with fixed shapes: rewards inside a compiled training step."""
