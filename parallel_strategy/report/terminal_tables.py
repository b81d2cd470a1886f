"""Tables on the terminal, drawn with rich; and the same content as plain data for --json."""

from typing import Any

from parallel_strategy.export.own_format import unsaid
from parallel_strategy.predict import Prediction

LEGEND = (
    "of a stage: forward, backward: ms of one micro-batch; end: ms of what follows the last one (gradients, update); "
    "weights, grads, adam, kept (activations), other (buffers, runtime), total, free: GiB"
)


def summary(prediction: Prediction) -> dict[str, Any]:
    """Return everything `predict` says, as data."""
    setup, strategy = prediction.setup, prediction.setup.strategy
    mesh = strategy.mesh
    usable = prediction.usable_gib
    return {
        "model": setup.model.name,
        "parameters": round(prediction.program.total_parameters),
        "cluster": setup.cluster.name,
        "framework": setup.framework.name,
        "devices": mesh.devices,
        "mesh": {axis: getattr(mesh, axis) for axis in (*mesh.axes, "ep")},
        "schedule": strategy.pipeline.schedule,
        "micro_batches": strategy.micro_batches,
        "step_seconds": prediction.seconds,
        "closed_form_seconds": prediction.closed_form_seconds,
        "four_of_five_within_seconds": [
            prediction.seconds / prediction.interval,
            prediction.seconds * prediction.interval,
        ],
        "tokens_per_second": prediction.tokens_per_second,
        "model_flops_utilisation": prediction.model_flops_utilisation,
        "bubble": prediction.replayed.bubble,
        "memory_gib": prediction.gib,
        "usable_gib": usable,
        "host_gib": prediction.host_gib,
        "host_usable_gib": setup.cluster.host.dram_gb,
        "out_of_memory": prediction.out_of_memory,
        "unsaid": unsaid(setup, with_model=True),
        "stages": [
            {
                "stage": stage.stage,
                "layers": stage.layers,
                "forward_ms": stage.forward * 1e3,
                "backward_ms": stage.backward * 1e3,
                "tail_ms": stage.tail.exposed * 1e3,
                "weights_gib": stage.memory.weights,
                "gradients_gib": stage.memory.gradients,
                "optimizer_gib": stage.memory.optimizer,
                "activations_gib": stage.memory.activations + stage.memory.recompute,
                "other_gib": stage.memory.buffers + stage.memory.context,
                "total_gib": stage.memory.total,
                "margin_gib": usable - stage.memory.total,
            }
            for stage in prediction.stages
        ],
    }


def memory_in_words(gib: float, usable: float, is_out: bool) -> str:
    """Return whether a strategy fits, with as many digits as it takes to see by how much."""
    difference = abs(usable - gib)
    digits = next((digits for digits in (1, 2, 3) if difference >= 10**-digits), 4)
    if is_out:
        return (
            f"memory: needs [bold]{gib:.{digits}f} GiB[/], {usable:.{digits}f} usable: "
            f"[red]{difference:.{digits}f} too much, does not fit[/]"
        )
    return f"memory [bold]{gib:.{digits}f} GiB[/] of {usable:.{digits}f} usable: [green]fits[/]"


def print_prediction(prediction: Prediction) -> None:
    from parallel_strategy.report.console import console as terminal
    from parallel_strategy.report.console import table

    data = summary(prediction)
    console = terminal()
    mesh = " x ".join(f"{axis} {size}" for axis, size in data["mesh"].items() if size > 1) or "one device"
    console.print(
        f"[bold]{data['model']}[/] ({data['parameters'] / 1e9:.2f} billion parameters) on {data['devices']} "
        f"devices of {data['cluster']}"
    )
    console.print(f"{mesh}; {data['schedule']}, {data['micro_batches']} micro-batches; framework {data['framework']}")
    console.print(
        f"step [bold]{data['step_seconds']:.4g} s[/], {data['tokens_per_second']:,.0f} tokens/s, "
        f"{data['model_flops_utilisation']:.1%} of peak in model FLOPs, pipeline idle {data['bubble']:.1%}"
    )
    least, most = data["four_of_five_within_seconds"]
    console.print(f"measured steps lie between {least:.4g} and {most:.4g} s in 4 of 5 cases")
    console.print(memory_in_words(data["memory_gib"], data["usable_gib"], data["memory_gib"] > data["usable_gib"]))
    if data["host_gib"]:
        verdict = "[red]does not fit[/]" if data["host_gib"] > data["host_usable_gib"] else "fits"
        console.print(f"a server's own memory {data['host_gib']:.1f} GiB of {data['host_usable_gib']:g}: {verdict}")
    if data["unsaid"]:
        console.print(
            f"{data['framework']}'s own configuration cannot say, so nobody obeys: {', '.join(data['unsaid'])}",
            highlight=False,
        )
    console.print(LEGEND, style="dim", highlight=False)
    columns = ("layers", "forward", "backward", "end", "weights", "grads", "adam", "kept", "other", "total", "free")
    rows = table("stage", *columns, gap=1)
    keys = ("weights", "gradients", "optimizer", "activations", "other", "total", "margin")
    stages = data["stages"]
    shown = stages if len(stages) <= 12 else [*stages[:5], None, *stages[-5:]]
    for stage in shown:
        if stage is None:
            rows.add_row(*["..."] * (1 + len(columns)))
            continue
        rows.add_row(
            str(stage["stage"]),
            str(stage["layers"]),
            f"{stage['forward_ms']:.2f}",
            f"{stage['backward_ms']:.2f}",
            f"{stage['tail_ms']:.1f}",
            *(f"{stage[key + '_gib']:.2f}" for key in keys),
        )
    console.print(rows)
