"""Profiles of real steps (Ascend's tables, PyTorch's traces): measured kernels and collectives for the cluster file."""
