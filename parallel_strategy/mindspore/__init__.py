"""A strategy carried out by MindSpore: applied to a serial network, written as MindSpore's files, compiled, read back.

Read in this order: `pangu_network` (the one table of names, shapes and splits), `operator_splits` (the table under a
strategy, overrides applied), `device_matrix` and `layouts` (where parameters then lie), `pipeline_stages`; no MindSpore
needed. Then `apply` (the same decisions set on a network), `strategy_file` (written for MindSpore to load), `dryrun`
(its compiler asked what it makes of them).
"""
