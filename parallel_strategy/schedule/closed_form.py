"""Seconds of a pipeline in closed form, for any number of candidates at once (arrays over the leading axis).

1F1B with boundaries that are sent beside compute: a message and its answer close a cycle over k + 1 stages and k + 1
micro-batches, so the period is the largest mean over neighbouring stages of (F + B) + 2 k send / (k + 1). Fill and drain are
one pass through the pipeline. Zero-bubble: the bound
of each stage, which for equal stages is table 1 of Qi et al. 2024.
"""

import numpy as np

# share of a chunk that micro-batches in flight cover; from simulations of uneven chunks, where it leaves less than 2 %
COVERED = 0.5
CLOSED = ("gpipe", "1f1b", "interleaved", "mindspore_vpp", "zb_h1", "zb_h2")


def pipeline_seconds(
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
    """`forward`, `backward` (with recomputation), `weight`: [..., pp] seconds of one micro-batch on each stage, all its chunks
    together; `send`: [...] seconds of a boundary; `micro_batches`: [...]; `paced`: [...] seconds of a micro-batch whose every
    chunk goes at the pace of its slowest stage, needed with more than one chunk. Returns [...] seconds."""
    pp = forward.shape[-1]
    m = np.asarray(micro_batches, dtype=np.float64)
    send = np.asarray(send, dtype=np.float64)
    if pp == 1:
        return m * (forward + backward + weight)[..., 0]
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
    if schedule == "gpipe":
        back = backward + weight
        ends = forward.sum(axis=-1) + back.sum(axis=-1) + 2 * (pp - 1) * send
        return ends + (m - 1) * (forward.max(axis=-1) + back.max(axis=-1))
    if schedule in ("zb_h1", "zb_h2"):
        return _zero_bubble(forward, backward, weight, m, send, wide=schedule == "zb_h2")
    if chunks > 1:
        assert paced is not None
        # a stage that is slow in one chunk only is waited for, unless the micro-batches in flight cover it
        covered = COVERED * (pp - 1) / pp * both.min(axis=-1) / chunks
        period = slowest + (paced - slowest - covered).clip(min=0.0)
        return m * period + (total - slowest) / chunks + 2 * (pp * chunks - 1) * send
    return total + 2 * (pp - 1) * send + (m - 1) * _period(both, send)


def _period(both: np.ndarray, send: np.ndarray) -> np.ndarray:
    """Seconds per micro-batch of forward and backward in turn, where messages close cycles between neighbours."""
    period = both.max(axis=-1)
    sums = np.concatenate([np.zeros_like(both[..., :1]), np.cumsum(both, axis=-1)], axis=-1)
    for length in range(2, both.shape[-1] + 1):
        window = (sums[..., length:] - sums[..., :-length]).max(axis=-1)
        period = np.maximum(period, (window + 2 * (length - 1) * send) / length)
    return period


def _zero_bubble(
    forward: np.ndarray, backward: np.ndarray, weight: np.ndarray, m: np.ndarray, send: np.ndarray, *, wide: bool
) -> np.ndarray:
    """The longest of the stages' own bounds: wait for the first forward, idle until the first gradient, all work, and after
    its last backward either its late weight gradients or the backward of the stages before it."""
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
    drain = before(backward) + stages * link + late[..., :1] * weight[..., :1]
    ends = start + idle + work - late * weight + np.maximum(late * weight, drain)
    total = ends.max(axis=-1)
    if wide:
        return total
    # until its weight gradients begin, the last stage runs like 1F1B
    both = forward + backward
    return total + pp * (_period(both, send) - both.max(axis=-1))
