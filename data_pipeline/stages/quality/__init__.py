"""Score documents with classifiers and language models."""
