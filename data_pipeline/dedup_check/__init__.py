"""A check of deduplication on documents with known duplicates."""
