"""The rows of `predict --serve`, and their table: a network on a machine, for one way to store its weights."""

from collections.abc import Sequence
from typing import Any

from parallel_strategy.cost.serving import Serving, least_parts
from parallel_strategy.report.console import console, table
from parallel_strategy.spec.cluster import ClusterSpec
from parallel_strategy.spec.model import ModelSpec

Row = dict[str, Any]


def row_of(
    model: ModelSpec,
    cluster: ClusterSpec,
    weights: str,
    *,
    prompt: int,
    context: int,
    batches: Sequence[int],
    tp: int | None = None,
) -> Row:
    """Return every figure of a network on a machine. tp: None: the fewest devices on which a row fits."""
    parts = tp or least_parts(model, cluster, weights, context)
    serving = Serving(model, cluster, weights, parts or 1)
    largest = serving.largest_batch(context) if parts else 0
    row: Row = {
        "model": model.name,
        "machine": cluster.name,
        "device": cluster.device.name,
        "weights": weights,
        "tp": parts,
        "fits": largest > 0,
        "weights_gib": serving.weight_bytes / 2**30,
        "cache_gib_per_row": context * serving.cache_bytes / 2**30,
        "context": context,
        "prompt": prompt,
        "most_rows": largest,
        "prefill_seconds": serving.prefill_seconds(prompt),
        "batches": [],
    }
    if largest:
        row["batches"] = [batch_of(serving, size, context) for size in sorted({*batches, largest}) if size <= largest]
    return row


def batch_of(serving: Serving, batch: int, context: int) -> Row:
    """Return what a batch costs, its caches half full on average."""
    seconds = serving.step_seconds(batch, context // 2)
    read = serving.weight_bytes + batch * (context // 2) * serving.cache_bytes
    return {
        "batch": batch,
        "step_seconds": seconds,
        "tokens_per_second": batch / seconds,
        "memory_gib": serving.gib(batch, context),
        "share_of_bandwidth_limit": read / serving.bytes_a_second / seconds,
        "bound": serving.bound(batch, context // 2),
    }


def rounded(number: float) -> str:
    """Return a number in three digits at least."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def print_serving(rows: Sequence[Row], batches: Sequence[int]) -> None:
    """Print a line for each row."""
    columns = ("weights", "tp", "weights GiB", "row GiB", "prompt", *(f"batch {size}" for size in batches), "most rows")
    terminal = console()
    for machine in dict.fromkeys(row["machine"] for row in rows):
        mine = [row for row in rows if row["machine"] == machine]
        terminal.print(f"{machine} ({mine[0]['device']})", style="bold", highlight=False)
        shown = table("model", *columns)
        for row in mine:
            found = {one["batch"]: one for one in row["batches"]}
            figures = [rounded(found[size]["tokens_per_second"]) if size in found else "-" for size in batches]
            cells = [row["weights"], str(row["tp"] or "-"), f"{row['weights_gib']:.3g}"]
            cells += [f"{row['cache_gib_per_row']:.3g}", f"{row['prefill_seconds']:.3g} s" if row["fits"] else "-"]
            shown.add_row(row["model"], *cells, *figures, f"{row['most_rows']:,}" if row["fits"] else "does not fit")
        terminal.print(shown)
    terminal.print(
        f"tokens/s of all rows together; prompt: to read {rows[0]['prompt']} tokens; row: keys and values of "
        f"{rows[0]['context']} tokens; tp: devices that share the weights; GiB of one device",
        style="dim",
        highlight=False,
    )
