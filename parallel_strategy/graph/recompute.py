"""Which nodes of a block a recomputation may leave out."""

from parallel_strategy.graph.operator import Block, Collective, Kernel

# a layer's backward begins with what these make; what follows them only makes the next layer's input, which is kept
LAST_NEEDED = ("feed_forward.activation", "experts.unpermute")
# of the query layer's block, but in front of the layer itself: what they make is kept as the layer's input is
IN_FRONT = ("final.norm", "query_embedding")


def skipped_again(block: Block) -> list[Kernel | Collective]:
    """Return the forward nodes that a pruned recomputation does not repeat: those in front of the layer, and those at
    its end that no gradient reads, its last product, its sum and the addition."""
    front = [node for node in block.forward if node.name in IN_FRONT]
    for index, node in enumerate(block.forward):
        if node.name in LAST_NEEDED:
            return front + block.forward[index + 1 :]
    return front
