"""Tables on the terminal, drawn with rich; and the same content as plain data for --json."""

from typing import Any

from parallel_strategy.predict import Prediction


def summary(prediction: Prediction) -> dict[str, Any]:
    """Everything `predict` says, as data."""
    question, strategy = prediction.question, prediction.question.strategy
    mesh = strategy.mesh
    usable = prediction.memory.usable_gib()
    return {
        "model": question.model.name,
        "parameters": prediction.program.total_parameters,
        "cluster": question.cluster.name,
        "framework": question.framework.name,
        "devices": mesh.devices,
        "mesh": {axis: getattr(mesh, axis) for axis in (*mesh.axes, "ep")},
        "schedule": strategy.pipeline.schedule,
        "micro_batches": strategy.micro_batches,
        "step_seconds": prediction.seconds,
        "closed_form_seconds": prediction.closed_form_seconds,
        "tokens_per_second": prediction.tokens_per_second,
        "model_flops_utilisation": prediction.model_flops_utilisation,
        "bubble": prediction.replayed.bubble,
        "memory_gib": prediction.gib,
        "usable_gib": usable,
        "out_of_memory": prediction.out_of_memory,
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


def print_prediction(prediction: Prediction) -> None:
    from rich.console import Console
    from rich.table import Table

    data = summary(prediction)
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
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
    verdict = "[red]does not fit[/]" if data["out_of_memory"] else "[green]fits[/]"
    console.print(f"memory [bold]{data['memory_gib']:.1f} GiB[/] of {data['usable_gib']:.1f} usable: {verdict}")
    table = Table(
        "stage",
        "layers",
        "forward ms",
        "backward ms",
        "tail ms",
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "total GiB",
        "margin",
    )
    for column in table.columns:
        column.justify = "right"
    rows = data["stages"]
    shown = rows if len(rows) <= 12 else [*rows[:5], None, *rows[-5:]]
    for row in shown:
        if row is None:
            table.add_row(*["..."] * 11)
            continue
        table.add_row(
            str(row["stage"]),
            str(row["layers"]),
            f"{row['forward_ms']:.2f}",
            f"{row['backward_ms']:.2f}",
            f"{row['tail_ms']:.1f}",
            *(
                f"{row[key]:.2f}"
                for key in (
                    "weights_gib",
                    "gradients_gib",
                    "optimizer_gib",
                    "activations_gib",
                    "total_gib",
                    "margin_gib",
                )
            ),
        )
    console.print(table)
