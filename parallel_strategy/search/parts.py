"""Where the seconds of a step go."""

import numpy as np

from parallel_strategy.cost.stage_time import DEVICE, TENSOR
from parallel_strategy.predict import Prediction

ROUNDING = 1e-12  # of the step: less is what is left of sums of floats


def parts_of(prediction: Prediction) -> dict[str, float]:
    """Return where the seconds of a step go, on the busiest stage: sums to the step."""
    phases, m = prediction.phases, prediction.setup.strategy.micro_batches
    seconds = prediction.stage_seconds
    busy = seconds.forward[0] + seconds.backward[0]
    stage = int(np.argmax(busy))
    host = float(busy[stage])
    device = tensor = again = 0.0
    for place in prediction.places.index[stage]:
        whole = (phases.forward + phases.backward_input + phases.backward_weight)[0, :, place]
        extra = phases.again[0, :, place]
        traffic = max(0.0, float(whole[TENSOR] - extra[TENSOR]))  # two halves hide some of both
        device += float(whole[DEVICE] - extra[DEVICE])
        tensor += traffic
        again += float(whole[TENSOR]) - traffic + float(extra[DEVICE])
    device, tensor, again = (value * m for value in (device, tensor, again))
    tail = prediction.tails[stage]
    parts = {
        "kernels": device,
        "tensor-parallel traffic": tensor,
        "recomputation": again,
        "host and slowest rank": max(0.0, host * m - device - tensor - again),
        "gradient traffic": tail.gradient_reduce + tail.weight_gather + tail.embedding_reduce,
        "optimizer": tail.optimizer + tail.fixed,
    }
    parts = {name: seconds * prediction.factor for name, seconds in parts.items()}
    rest = prediction.closed_form_seconds - sum(parts.values())
    parts["pipeline idle and sends"] = rest if rest > ROUNDING * prediction.closed_form_seconds else 0.0
    return parts
