"""What data-parallel processes add up in a step: gradients, loss, and whether one of them was asked to stop.

A collective over the processes of a CPU takes milliseconds however small it is, so everything goes into one buffer, or
into a few where the model is large.
"""

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

# Elements of a buffer: 64 MiB of fp32. More would only hold more memory.
BUCKET = 16 << 20


class SumOverRanks(nn.Cell):
    """Gradients and loss of this rank's samples -> those of all samples, the same bits on every rank.

    loss: a scalar, or [n] numbers that add up as it does.

    asked: 1 where this process was asked to stop; after a step `stop` is the number of those that were.
    """

    def __init__(self, shapes: list[tuple[int, ...]]) -> None:
        super().__init__(auto_prefix=False)
        self.shapes = shapes
        self.sizes = [int(np.prod(shape)) for shape in shapes]
        self.buckets = buckets(self.sizes)
        self.asked = Parameter(Tensor(np.zeros(1, np.float32)), name="asked_to_stop", requires_grad=False)
        self.stop = Parameter(Tensor(np.zeros(1, np.float32)), name="ranks_asked_to_stop", requires_grad=False)
        self.all_reduce = ops.AllReduce()

    def construct(self, gradients: tuple[Tensor, ...], loss: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        words = self.all_reduce(ops.concat((loss.reshape((-1,)), self.asked)))
        ops.assign(self.stop, words[loss.size :])
        summed: tuple[Tensor, ...] = ()
        for first, last in self.buckets:
            parts: tuple[Tensor, ...] = ()
            for index in range(first, last):
                parts = (*parts, gradients[index].reshape((-1,)))
            buffer = self.all_reduce(ops.concat(parts))
            start = 0
            for index in range(first, last):
                size = self.sizes[index]
                summed = (*summed, buffer[start : start + size].reshape(self.shapes[index]))
                start = start + size
        return summed, words[: loss.size].reshape(loss.shape)

    def ask(self, asked: bool) -> None:
        """Tell the other ranks, in the coming step, whether this one was asked to stop."""
        self.asked.set_data(Tensor(np.array([float(asked)], np.float32)))

    def asked_by_any(self) -> bool:
        """Return whether some rank was asked to stop, as all ranks have learnt in the last step."""
        return bool(self.stop.asnumpy()[0] > 0)


def buckets(sizes: list[int], largest: int = BUCKET) -> list[tuple[int, int]]:
    """Return runs of neighbouring tensors [first, last) that fit into `largest` elements; one that is larger goes
    alone."""
    runs: list[tuple[int, int]] = []
    first, held = 0, 0
    for index, size in enumerate(sizes):
        if index > first and held + size > largest:
            runs.append((first, index))
            first, held = index, 0
        held += size
    if first < len(sizes):
        runs.append((first, len(sizes)))
    return runs
