"""Hold the version of the three packages, which are released together."""

__version__ = "0.2.0"
