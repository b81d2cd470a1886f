"""Training on several processes: they find each other, add up their gradients, share the optimizer's states and write
their shards.

Read in this order: `process_group` (who is there), `execution` (how a step is run: by one device, `data_parallel` or
`semi_auto`), `reduction` and `sharded_optimizer` (what they exchange in a step), `shards` (what each of them writes and
reads back), `launch` (starting, watching and restarting them).
"""
