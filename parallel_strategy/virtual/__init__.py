"""A strategy's program executed on virtual devices in one process, to prove that it computes what one device computes.

Read in this order: `serial` (one device, the reference), `operators` (the arithmetic of both), `weights` (whose part of
a weight a rank holds), `kernels` and `exchange` (what the program's nodes do), `state`, `machine` (the interpreter),
`proof`.
"""
