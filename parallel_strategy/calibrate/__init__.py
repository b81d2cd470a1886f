"""Measured runs: reading them, predicting them, fitting the few figures that may be fitted, and scoring."""
