"""Seconds of a pipeline in closed form, for any number of candidates at once (arrays over the leading axis).

1F1B with boundaries that are sent beside compute: a message and its answer close a cycle over k + 1 stages and k + 1
micro-batches, so the pace is the largest mean over neighbouring stages of (F + B) + 2 k send / (k + 1). Fill and
drain are one pass through the pipeline. Zero-bubble: the bound
of each stage, which for equal stages is table 1 of Qi et al. 2024.
"""

import numpy as np

# What slow chunks and what sends add to the fill and the drain of chunks overlaps in part: sum^(1/p) of p-th powers, by
# simulations of uneven chunks
OVERLAP = 1.8
CLOSED = ("gpipe", "1f1b", "interleaved", "mindspore_vpp", "zb_h1", "zb_h2")


def stage_finish(
    schedule: str,
    forward: np.ndarray,
    backward: np.ndarray,
    weight: np.ndarray,
    micro_batches: np.ndarray,
    send: np.ndarray,
    *,
    chunks: int = 1,
    paced: np.ndarray | None = None,
    blocking: bool = False,
) -> np.ndarray:
    """Return [..., pp] seconds from the start of the step to each stage's last task.

    `forward`, `backward` (with recomputation), `weight`: [..., pp] seconds of one micro-batch on each stage, all its
    chunks together; `send`: [...] seconds of a boundary; `micro_batches`: [...]; `paced`: [...] seconds of a
    micro-batch whose every chunk goes at the pace of its slowest stage, needed with more than one chunk.
    """
    pp = forward.shape[-1]
    m = np.asarray(micro_batches, dtype=np.float64)
    send = np.asarray(send, dtype=np.float64)
    if pp == 1:
        return m[..., None] * (forward + backward + weight)
    if blocking:
        # the sender waits: a boundary is part of its forward (but for the last chunk) and backward (but for the first)
        outgoing = np.full(pp, float(chunks))
        outgoing[-1] -= 1
        forward = forward + outgoing * send[..., None]
        backward = backward + outgoing[::-1] * send[..., None]
        if paced is not None:
            paced = paced + (2 * chunks - (pp == 2)) * send
        send = np.zeros_like(send)
    both = forward + backward + weight
    total = both.sum(axis=-1)
    slowest = both.max(axis=-1)
    if schedule in ("zb_h1", "zb_h2"):
        return _zero_bubble(forward, backward, weight, m, send, wide=schedule == "zb_h2")
    if schedule == "gpipe":
        seconds = total + 2 * (pp - 1) * send + (m - 1) * (forward.max(axis=-1) + (backward + weight).max(axis=-1))
    elif chunks > 1:
        assert paced is not None
        # a stage that is slow in one chunk only is waited for while the pipeline fills and drains, and never between
        slow_chunks = (pp - 1 / chunks) * (paced - slowest).clip(min=0.0)
        ends = (slow_chunks**OVERLAP + (2 * (pp * chunks - 1) * send) ** OVERLAP) ** (1 / OVERLAP)
        seconds = m * slowest + (total - slowest) / chunks + ends
    else:
        seconds = _one_forward_one_backward(forward, backward + weight, m, send)
    # stages finish in turn, the first one last
    drain = (backward + weight) / chunks
    return seconds[..., None] - (np.cumsum(drain, axis=-1) - drain) - np.arange(pp) * send[..., None]


def _steady(both: np.ndarray, send: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return the seconds that the last stage needs for `count` micro-batches of forward and backward in turn.

    A message and its answer over the last stages close a cycle of as many micro-batches; what is left over goes at the
    last stage's own pace.
    """
    lengths = np.arange(1, both.shape[-1] + 1)
    windows = np.cumsum(both[..., ::-1], axis=-1) + 2 * (lengths - 1) * send[..., None]
    cycles, rest = np.divmod(count[..., None], lengths)
    return (cycles * windows + rest * both[..., -1:]).max(axis=-1)


def _one_forward_one_backward(forward: np.ndarray, backward: np.ndarray, m: np.ndarray, send: np.ndarray) -> np.ndarray:
    """Return the seconds of 1F1B. Either the last stage sets the pace from its first forward on, or another one is
    never idle after its first gradient has come."""
    pp = forward.shape[-1]
    stages, link = np.arange(pp), send[..., None]
    both = forward + backward
    through = both.sum(axis=-1) + 2 * (pp - 1) * send
    start = np.cumsum(forward, axis=-1) - forward + stages * link
    way_back = np.cumsum(backward[..., ::-1], axis=-1)[..., ::-1] - backward + (pp - 1 - stages) * link
    first_gradient = (forward.sum(axis=-1) + (pp - 1) * send)[..., None] + way_back
    warm = np.minimum(m[..., None], pp - stages)
    idle = (first_gradient - start - warm * forward).clip(min=0.0)
    drain = np.cumsum(backward, axis=-1) - backward + stages * link
    busy = start + idle + m[..., None] * both + drain
    return np.maximum(through + _steady(both, send, m - 1), busy.max(axis=-1))


def _zero_bubble(
    forward: np.ndarray, backward: np.ndarray, weight: np.ndarray, m: np.ndarray, send: np.ndarray, *, wide: bool
) -> np.ndarray:
    """Return the ends of the stages by their bounds: wait for the first forward, idle until the first gradient, all
    work but the late weight gradients, and then either those or what the stages after it still send back."""
    pp = forward.shape[-1]
    stages = np.arange(pp)
    link = send[..., None]

    def before(values: np.ndarray) -> np.ndarray:
        return np.cumsum(values, axis=-1) - values

    def after(values: np.ndarray) -> np.ndarray:
        return values.sum(axis=-1, keepdims=True) - np.cumsum(values, axis=-1)

    warm = np.minimum(m[..., None], 2 * (pp - stages) - 1 if wide else pp - stages)
    late = np.minimum(m[..., None], (2 * stages if wide else stages) + 1)
    start = before(forward) + stages * link
    first_gradient = start + forward + after(forward) + after(backward) + 2 * (pp - 1 - stages) * link
    idle = (first_gradient - start - warm * forward).clip(min=0.0)
    work = m[..., None] * (forward + backward + weight)
    last_backward = start + idle + work - late * weight
    if not wide:  # until its weight gradients begin, the last stage runs like 1F1B
        both, count = forward + backward, np.minimum(m - 1, pp)
        waits = (_steady(both, send, count) - count * both.max(axis=-1)).clip(min=0.0)
        last_backward = last_backward + waits[..., None]
    # a stage's last backward follows those of all stages after it; its own last weight gradient follows that
    way = before(backward) + stages * link
    behind = np.maximum.accumulate((last_backward + way)[..., ::-1], axis=-1)[..., ::-1] - way
    return np.maximum(last_backward + late * weight, behind + weight)
