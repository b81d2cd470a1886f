"""Micro-benchmarks of a machine: kernels, copies, collectives, timed through a backend and fitted to a cluster file."""
