"""The ways to run a step, behind one interface: `one_device` (and the interface), `one_cpu`, `data_parallel`,
`semi_auto`.

`reduction` and `sharded_optimizer` are what data-parallel ranks exchange in a step.
"""
