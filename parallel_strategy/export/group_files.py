"""MindSpore's group file of a rank: its communication groups, and the ranks whose checkpoint is the same as its own.

Protobuf, as `set_group_ckpt_save_file` writes it and `restore_group_info_list` reads it:

    ParallelGroupMap {1 parallel_group_item {1 group_name, 2 parallel_group_ranks {1 dim}},
                      2 ckpt_restore_rank_list {1 dim}}
"""

from pangu.foundation.protobuf import encode_message, encode_numbers
from parallel_strategy.placement import group_ranks
from parallel_strategy.spec.strategy import Setup


def groups_of(setup: Setup, rank: int) -> dict[str, list[int]]:
    """Return {axis: ranks} of the groups in which a rank communicates."""
    mesh = setup.strategy.mesh
    return {axis: group_ranks(mesh, axis, rank) for axis in mesh.axes if getattr(mesh, axis) > 1}


def same_checkpoint(setup: Setup, rank: int) -> list[int]:
    """Return the ranks that hold the same parameters as this one, itself among them."""
    strategy = setup.strategy
    replicas = group_ranks(strategy.mesh, "dp", rank)
    if not strategy.zero.optimizer_shard:
        return replicas
    size = strategy.zero.weight_shard_size
    if size in (-1, len(replicas)):
        return [rank]
    # Copies are held by runs of `size` ranks: those at the same place in each run are alike.
    place = replicas.index(rank) % size
    return replicas[place::size]


def group_file(setup: Setup, rank: int) -> bytes:
    """Return the file of one rank."""
    content = b""
    for axis, ranks in groups_of(setup, rank).items():
        group = encode_message(1, f"{axis}-{ranks[0]}") + encode_message(2, encode_numbers(ranks))
        content += encode_message(1, group)
    return content + encode_message(2, encode_numbers(same_checkpoint(setup, rank)))
