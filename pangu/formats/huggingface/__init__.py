"""Directories that Hugging Face's transformers loads: config.json, model.safetensors, tokenizer, card."""
