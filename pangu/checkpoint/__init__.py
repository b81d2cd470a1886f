"""Checkpoints of a run: saved, opened, laid out anew."""
