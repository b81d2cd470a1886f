"""Which nodes of a block a recomputation may leave out."""

from parallel_strategy.graph.operator import Block, Collective, Kernel

# a layer's backward begins with what these make; what follows them only makes the next layer's input, which is kept
LAST_NEEDED = ("feed_forward.activation", "experts.unpermute")


def skipped_again(block: Block) -> list[Kernel | Collective]:
    """The forward nodes at the end of a layer that no gradient reads: its last product, its sum and the addition."""
    for index, node in enumerate(block.forward):
        if node.name in LAST_NEEDED:
            return block.forward[index + 1 :]
    return []
