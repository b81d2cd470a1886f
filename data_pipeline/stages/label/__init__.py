"""Give documents the scores of published classifiers."""
