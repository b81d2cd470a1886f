"""A strategy carried out by MindSpore: applied to a serial network, written as MindSpore's files, compiled, read back.

Read in this order: `placement` (which operator and which parameter is split how: no MindSpore needed), `apply` (the
same decisions set on a network), `strategy_file` (written for MindSpore to load), `dryrun` (its compiler asked what it
makes of them).
"""
