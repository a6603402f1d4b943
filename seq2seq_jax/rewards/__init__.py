"""Text metrics as pure functions of token ids, of fixed shapes: rewards inside of a compiled training step."""
