"""Seconds of a pipeline in closed form, for any number of candidates at once (arrays over the leading axis).

1F1B with boundaries that are sent beside compute: a message and its answer close a cycle over k + 1 stages and k + 1
micro-batches, so the period is the largest mean over neighbouring stages of (F + B) + 2 k send / (k + 1). Fill and drain are
one pass through the pipeline. Zero-bubble: Qi et al. 2024, table 1.
"""

import numpy as np

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
    blocking: bool = False,
) -> np.ndarray:
    """`forward`, `backward` (with recomputation), `weight`: [..., pp] seconds of one micro-batch on each stage, all its chunks
    together; `send`: [...] seconds of a boundary; `micro_batches`: [...]. Returns [...] seconds."""
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
        send = np.zeros_like(send)
    both = forward + backward + weight
    total = both.sum(axis=-1)
    slowest = both.max(axis=-1)
    if schedule == "gpipe":
        back = backward + weight
        ends = forward.sum(axis=-1) + back.sum(axis=-1) + 2 * (pp - 1) * send
        return ends + (m - 1) * (forward.max(axis=-1) + back.max(axis=-1))
    if schedule in ("zb_h1", "zb_h2"):
        times = 1.0 if schedule == "zb_h1" else 2.0
        idle = (forward + backward - times * weight).clip(min=0.0)
        fill = idle.sum(axis=-1) - np.take_along_axis(idle, both.argmax(axis=-1)[..., None], -1)[..., 0]
        return m * slowest + fill + (4 if schedule == "zb_h1" else 2) * (pp - 1) * send
    if chunks > 1:
        return m * slowest + (total - slowest) / chunks + 2 * (pp * chunks - 1) * send
    period = slowest
    sums = np.concatenate([np.zeros_like(both[..., :1]), np.cumsum(both, axis=-1)], axis=-1)
    for length in range(2, pp + 1):
        window = (sums[..., length:] - sums[..., :-length]).max(axis=-1)
        period = np.maximum(period, (window + 2 * (length - 1) * send) / length)
    return total + 2 * (pp - 1) * send + (m - 1) * period
