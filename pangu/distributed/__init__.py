"""Training on several processes: they find each other, add up their gradients, share the optimizer's states and write
their shards.

Read in this order: `world` (who is there), `reduction` and `sharded_optimizer` (what they exchange in a step), `shards`
(what each of them writes and reads back), `launch` (starting, watching and restarting them).
"""
