"""MindSpore's own parallel compiler as a judge: for Ascend, for any rank of any world, on a machine without one.

`stand_in` builds what MindSpore's dry-run needs and this machine lacks, `environment` is the process that it runs in,
`job` compiles one rank there, `graph_file` reads the compiled graph, `compiled_collectives` names what it communicates,
and `difference` compares that with the emulator's program.
"""
