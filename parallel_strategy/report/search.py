"""What a search found, as a table and as data."""

from dataclasses import asdict
from typing import Any

from parallel_strategy.predict import Prediction
from parallel_strategy.search.find import Found
from parallel_strategy.search.operators import Sharding


def _row(prediction: Prediction) -> dict[str, Any]:
    strategy = prediction.question.strategy
    mesh = strategy.mesh
    return {
        "seconds": prediction.seconds,
        "gib": prediction.gib,
        "tp": mesh.tp,
        "pp": mesh.pp,
        "dp": mesh.dp,
        "cp": mesh.cp,
        "ep": mesh.ep,
        "order": [axis for axis in mesh.axes if getattr(mesh, axis) > 1],
        "micro": strategy.batch.micro,
        "schedule": strategy.pipeline.schedule,
        "vpp": strategy.pipeline.vpp,
        "stages": strategy.pipeline.stages,
        "sequence_parallel": strategy.tensor.sequence_parallel,
        "zero": strategy.zero.stage,
        "recompute": strategy.recompute.mode,
        "recompute_per_stage": strategy.recompute.per_stage,
        "optimizer_on_host": strategy.offload.optimizer,
        "model_flops_utilisation": prediction.model_flops_utilisation,
    }


def found_data(found: Found, elapsed: float) -> dict[str, Any]:
    return {
        "candidates": found.candidates,
        "fitting": found.fitting,
        "seconds": elapsed,
        "best": [_row(p) for p in found.best],
        "pareto": [
            {"seconds": s, "gib": g, "strategy": strategy.model_dump(mode="json", by_alias=True, exclude_none=True)}
            for s, g, strategy in found.front
        ],
        "why_not": [
            {"change": n.change, "seconds": n.seconds, "gib": n.gib, "reason": n.reason} for n in found.neighbours
        ],
        "sensitivity": [
            {"change": name, "step_time": change if change < 1e9 else None} for name, change in found.sensitivity
        ],
        "operators": None if found.sharding is None else asdict(found.sharding),
    }


def print_found(found: Found, elapsed: float) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    console.print(
        f"{found.candidates:,} strategies in {elapsed:.1f} s, {found.fitting:,} fit; the first are replayed "
        f"event by event"
    )
    if not found.best:
        console.print("[red]none fits[/]; the smallest:")
        for seconds, gib, strategy in found.front[-3:]:
            mesh = strategy.mesh
            console.print(
                f"  {gib:.1f} GiB, {seconds:.4g} s: tp {mesh.tp} pp {mesh.pp} dp {mesh.dp}, "
                f"{strategy.recompute.mode} recomputation"
            )
        return
    table = Table(
        "step s", "GiB", "MFU", "tp", "pp", "dp", "order", "micro", "schedule", "sp", "zero", "recompute", "stages"
    )
    for prediction in found.best:
        row = _row(prediction)
        table.add_row(
            f"{row['seconds']:.4g}",
            f"{row['gib']:.1f}",
            f"{row['model_flops_utilisation']:.1%}",
            str(row["tp"]),
            str(row["pp"]),
            str(row["dp"]),
            " ".join(row["order"]),
            str(row["micro"]),
            row["schedule"] + (f" x{row['vpp']}" if row["vpp"] > 1 else ""),
            "yes" if row["sequence_parallel"] else "no",
            f"{row['zero']}" + (" host" if row["optimizer_on_host"] else ""),
            row["recompute"] + (f" {_runs(row['recompute_per_stage'])}" if row["recompute_per_stage"] else ""),
            "even" if row["stages"] is None else _runs(row["stages"]),
        )
    console.print(table)
    console.print("[bold]why not[/]")
    for neighbour in found.neighbours[:24]:
        console.print(f"  {neighbour.change}: {neighbour.reason}", highlight=False)
    console.print("[bold]what would change the best step time[/]")
    for name, change in found.sensitivity:
        console.print(f"  {name}: " + (f"{change:+.1%}" if change < 1e9 else "nothing fits"), highlight=False)
    if found.sharding is not None:
        print_sharding(found.sharding, console)
    console.print(
        f"[bold]Pareto front[/]: {len(found.front)} strategies from {found.front[0][0]:.4g} s at "
        f"{found.front[0][1]:.1f} GiB to {found.front[-1][0]:.4g} s at {found.front[-1][1]:.1f} GiB"
    )


def print_sharding(sharding: Sharding, console: Any) -> None:
    """The operators of one layer of the winner, each with MindSpore's in_strategy."""
    from rich.table import Table

    matrix = " x ".join(f"{name} {size}" for name, size in zip(sharding.axes, sharding.device_matrix, strict=True))
    gain = 1.0 - sharding.seconds / sharding.mesh_seconds
    console.print(
        f"[bold]operators of one layer[/], best of {sharding.choices:.2g} combinations on the device matrix {matrix}: "
        f"{sharding.seconds * 1e3:.3g} ms a micro-batch"
        + (f", {gain:.1%} less than the mesh's own sharding" if gain > 0.001 else ", which is the mesh's own sharding"),
        highlight=False,
    )
    table = Table("operator", "primitive", "in_strategy", "tensor map", "ms")
    for one in sharding.operators:
        table.add_row(one.name, one.primitive, str(one.in_strategy), str(one.tensor_map), f"{one.seconds * 1e3:.3f}")
    console.print(table)


def _runs(numbers: list[int]) -> str:
    """4,4,4,5 as 3x4 5."""
    words: list[list[int]] = []
    for number in numbers:
        if words and words[-1][1] == number:
            words[-1][0] += 1
        else:
            words.append([1, number])
    return " ".join(f"{count}x{number}" if count > 1 else str(number) for count, number in words)
