"""From text to batches: sources, tokenizer, token store, packing, pipeline."""
