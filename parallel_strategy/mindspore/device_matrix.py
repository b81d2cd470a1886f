"""The device matrix that MindSpore makes of an operator's split, and where a parameter's dimensions lie on it.

MindSpore gives every operator a matrix of its own: an axis for each dimension that is split, in the order of the
operands, and what is left of the devices as copies, innermost. Where a lookup splits the rows of its table, the copies
are outermost; else its ids come before its table. A test compares this with layouts that MindSpore's compiler made.
"""

import math

from parallel_strategy.mindspore.pangu_network import EXPERT_LETTERS, Row

Split = tuple[tuple[int, ...], ...]
COPIES = ""  # the axis along which devices do the same


def device_axes(row: Row, split: Split, devices: int) -> list[tuple[str, int]]:
    """Return the axes of the device matrix, outermost first: (word of the dimension, parts)."""
    parts: dict[str, int] = {}
    lookup = row.kind == "Gather"
    order = (1, 0) if lookup else range(len(row.operands))
    for operand in order:
        for dimension, number in zip(row.operands[operand], split[operand], strict=True):
            parts[dimension.size] = max(number, parts.get(dimension.size, 1))
    axes = [(word, number) for word, number in parts.items() if number > 1]
    letters = {dimension.size: dimension.letter for operand in row.operands for dimension in operand}
    if len({letters[word] for word, _ in axes} & set(EXPERT_LETTERS)) == len(EXPERT_LETTERS):
        # `apply` says this order of devices itself
        order_of = [*EXPERT_LETTERS, *(letters[word] for word, _ in axes)]
        axes.sort(key=lambda axis: order_of.index(letters[axis[0]]))
    copies = devices // math.prod(number for _, number in axes)
    if copies > 1 or not axes:
        axes.insert(0 if lookup and split[0][0] > 1 else len(axes), (COPIES, copies))
    return axes


def operand_layout(row: Row, split: Split, operand: int, devices: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return MindSpore's (device_matrix, tensor_map) of one operand: axes counted from the right, -1 not split."""
    axes = device_axes(row, split, devices)
    place = {word: len(axes) - 1 - index for index, (word, _) in enumerate(axes)}
    words = zip(row.operands[operand], split[operand], strict=True)
    tensor_map = tuple(place[dimension.size] if number > 1 else -1 for dimension, number in words)
    return tuple(number for _, number in axes), tensor_map


def shard_step(device_matrix: tuple[int, ...], tensor_map: tuple[int, ...]) -> int:
    """Return the distance in rank of neighbours that hold the same part; the mean, where there are several."""
    strides = [math.prod(device_matrix[index + 1 :]) for index in range(len(device_matrix))]
    used = {len(device_matrix) - 1 - axis for axis in tensor_map if axis >= 0}
    free = [(strides[i], size) for i, size in enumerate(device_matrix) if i not in used]
    members = math.prod(size for _, size in free)
    return sum(stride * (size - 1) for stride, size in free) // (members - 1) if members > 1 else 0
