"""Where the seconds of a step go."""

from parallel_strategy.predict import Prediction


def parts_of(prediction: Prediction) -> dict[str, float]:
    """Where the seconds of a step go, on the busiest stage: sums to the step."""
    program, price = prediction.program, prediction.price
    m = prediction.question.strategy.micro_batches
    busy = [
        sum(price.chunks[c.index].forward + price.chunks[c.index].backward for c in program.stage_chunks(s))
        for s in range(program.pp)
    ]
    stage = max(range(program.pp), key=lambda index: busy[index])
    device = tensor = again = host = 0.0
    for chunk in program.stage_chunks(stage):
        for piece in chunk.pieces:
            forward, back, weight = price.piece(piece)
            cost = price.block(piece.block)
            mode = prediction.question.strategy.recompute.mode
            rerun = cost.recompute_full if mode == "full" else cost.recompute_selective
            extra = rerun.times(piece.recomputed if mode != "none" else 0)
            whole = forward + back + weight
            traffic = max(0.0, whole.tensor - extra.tensor)  # two halves hide some of both
            device += whole.device - extra.device
            tensor += traffic
            again += whole.tensor - traffic + extra.device
        times = price.chunks[chunk.index]
        host += times.forward + times.backward
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
    parts["pipeline idle and sends"] = max(0.0, prediction.closed_form_seconds - sum(parts.values()))
    return parts
