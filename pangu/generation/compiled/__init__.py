"""The compiled engine: the network as numba functions over weights where they are stored, without MindSpore.

`compiled_network` is the engine. `phases` is one call of the network as a list of phases, `products` their arithmetic,
`vectors` the vectors of 16 numbers that fix the order of every sum, `threads` the helpers of a call.
"""
