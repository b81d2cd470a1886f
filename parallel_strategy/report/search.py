"""What a search found, as a table and as data."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from parallel_strategy.predict import Prediction
from parallel_strategy.search.find import Found
from parallel_strategy.search.layer_sharding import Sharding
from parallel_strategy.spec.strategy import StrategySpec

SHOWN = 3  # values of one choice; --json has all


def _row(prediction: Prediction) -> dict[str, Any]:
    return {
        "seconds": prediction.seconds,
        "gib": prediction.gib,
        **_choices(prediction.setup.strategy),
        "model_flops_utilisation": prediction.model_flops_utilisation,
    }


def _choices(strategy: StrategySpec) -> dict[str, Any]:
    mesh = strategy.mesh
    return {
        "tp": mesh.tp,
        "pp": mesh.pp,
        "dp": mesh.dp,
        "cp": mesh.cp,
        "ep": mesh.ep,
        "etp": mesh.etp,
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
        "activations_on_host": strategy.offload.activation,
        "interleave": strategy.tensor.interleave,
        "bucket_mb": strategy.zero.bucket_mb,
        "ranks_that_share_states": strategy.zero.weight_shard_size if strategy.zero.weight_shard_size > 0 else None,
        "vocab": strategy.tensor.vocab,
    }


def found_data(found: Found, elapsed: float) -> dict[str, Any]:
    return {
        "candidates": found.candidates,
        "fitting": found.fitting,
        "refinements": found.refinements,
        "seconds": elapsed,
        "best": [_row(p) for p in found.best],
        "nearest": None if found.nearest is None else _row(found.nearest),
        "pareto": [
            {"seconds": s, "gib": g, "strategy": strategy.model_dump(mode="json", by_alias=True, exclude_none=True)}
            for s, g, strategy in found.front
        ],
        "why_not": [
            {"change": n.change, "seconds": n.seconds, "gib": n.gib, "reason": n.reason} for n in found.neighbours
        ],
        "sensitivity": [
            {"change": name, "step_time_change": change if change < 1e9 else None} for name, change in found.sensitivity
        ],
        "operators": None if found.sharding is None else asdict(found.sharding),
    }


def print_found(found: Found, elapsed: float) -> None:
    from parallel_strategy.report.console import console as terminal
    from parallel_strategy.report.console import lines, table

    console = terminal()
    console.print(
        f"{found.candidates:,} strategies in {elapsed:.1f} s, {found.fitting:,} fit; the first are replayed "
        f"event by event, and {found.refinements} steps from them beside the space",
        highlight=False,
    )
    if not found.best:
        console.print("[red]none fits[/]; the smallest of those priced:")
        for seconds, gib, strategy in found.front[-3:]:
            console.print(f"  {gib:.2f} GiB, {seconds:.4g} s: {one_line(strategy)}", highlight=False)
        return
    words = ("mesh", "schedule", "ZeRO", "on host", "recompute")
    best = table("step s", "GiB", "MFU", "mesh", "micro", "schedule", "ZeRO", "on host", "recompute", left=words)
    for prediction in found.best:
        row = _row(prediction)
        best.add_row(
            f"{row['seconds']:.4g}",
            f"{row['gib']:.1f}",
            f"{row['model_flops_utilisation']:.1%}",
            _mesh(row),
            str(row["micro"]) + (" in halves" if row["interleave"] > 1 else ""),
            row["schedule"] + (f" x{row['vpp']}" if row["vpp"] > 1 else ""),
            _sharing(row),
            " ".join(_on_host(row)) or "-",
            row["recompute"] + (f" {_runs(row['recompute_per_stage'])}" if row["recompute_per_stage"] else ""),
        )
    console.print(best)
    console.print("[bold]why not[/]")
    why_not = []
    for choice in dict.fromkeys(neighbour.choice for neighbour in found.neighbours):
        why_not += [(n.change, n.reason) for n in found.neighbours if n.choice == choice][:SHOWN]
    console.print(lines(why_not), highlight=False)
    console.print("[bold]what would change the best step time[/]")
    moved = [(name, f"{change:+.1%}" if change < 1e9 else "nothing fits") for name, change in found.sensitivity]
    console.print(lines(moved), highlight=False)
    if found.sharding is not None:
        print_sharding(found.sharding, console)
    console.print(
        f"[bold]Pareto front[/]: {len(found.front)} strategies from {found.front[0][0]:.4g} s at "
        f"{found.front[0][1]:.1f} GiB to {found.front[-1][0]:.4g} s at {found.front[-1][1]:.1f} GiB"
    )


def one_line(strategy: StrategySpec) -> str:
    """Return a strategy in words, for a message."""
    row = _choices(strategy)
    return (
        f"{_mesh(row)}, micro-batch {row['micro']}, recompute {row['recompute']}, ZeRO {_sharing(row)}, on the host: "
        f"{' '.join(_on_host(row)) or 'nothing'}"
    )


def _mesh(row: dict[str, Any]) -> str:
    """Return the axes from the outermost to the innermost, and what else shapes a stage."""
    words = [f"{axis}{row[axis]}" for axis in row["order"]]
    words += [f"ep{row['ep']}"] if row["ep"] > 1 else []
    words += [f"etp{row['etp']}"] if row["etp"] not in (None, row["tp"]) else []
    words += ["sp"] if row["sequence_parallel"] else []
    words += ["whole vocabulary"] if row["vocab"] == "whole" and row["tp"] > 1 else []
    words += [f"stages {_runs(row['stages'])}"] if row["stages"] else []
    return " ".join(words) or "one device"


def _sharing(row: dict[str, Any]) -> str:
    words = [str(row["zero"])]
    words += [f"by {row['ranks_that_share_states']}"] if row["ranks_that_share_states"] else []
    words += [f"buckets {row['bucket_mb']:g} MiB"] if row["bucket_mb"] else []
    return " ".join(words)


def _on_host(row: dict[str, Any]) -> list[str]:
    words = ["adam"] if row["optimizer_on_host"] else []
    return words + ([f"{row['activations_on_host']:.0%} act."] if row["activations_on_host"] else [])


def print_sharding(sharding: Sharding, console: Any) -> None:
    """Print the operators of one layer of the winner, each with MindSpore's in_strategy."""
    from parallel_strategy.report.console import table

    matrix = " x ".join(f"{name} {size}" for name, size in zip(sharding.axes, sharding.device_matrix, strict=True))
    gain = 1.0 - sharding.seconds / sharding.mesh_seconds
    console.print(
        f"[bold]operators of one layer[/], best of {sharding.choices:.2g} combinations on the device matrix {matrix}: "
        f"{sharding.seconds * 1e3:.3g} ms a micro-batch"
        + (f", {gain:.1%} less than the mesh's own sharding" if gain > 0.001 else ", which is the mesh's own sharding"),
        highlight=False,
    )
    words = ("primitive", "in_strategy", "tensor map")
    rows = table("operator", "primitive", "in_strategy", "tensor map", "ms", left=words)
    for one in sharding.operators:
        rows.add_row(
            one.name, one.primitive, _tuples(one.in_strategy), _tuples(one.tensor_map), f"{one.seconds * 1e3:.3f}"
        )
    console.print(rows)


def _tuples(numbers: Iterable[Iterable[int]]) -> str:
    """Return ((16, 1), (1, 4)) as (16,1) (1,4)."""
    return " ".join("(" + ",".join(map(str, inner)) + ")" for inner in numbers)


def _runs(numbers: list[int]) -> str:
    """Write 4,4,4,5 as 3x4 5."""
    words: list[list[int]] = []
    for number in numbers:
        if words and words[-1][1] == number:
            words[-1][0] += 1
        else:
            words.append([1, number])
    return " ".join(f"{count}x{number}" if count > 1 else str(number) for count, number in words)
