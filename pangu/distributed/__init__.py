"""Training on several processes: they find each other, add up their gradients, share the optimizer's states and write
their shards.

Read in this order: `process_group` (who is there), `execution` (how a step is run), `sharded_checkpoint` (what each of
them writes) and `stored` (what it reads back), `launch` (starting, watching and restarting them).
"""
