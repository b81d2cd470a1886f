"""The table of `explain --profile`: kernels of a profile, predicted beside measured."""

from collections.abc import Sequence

from parallel_strategy.profiles.compare import KernelPair
from parallel_strategy.profiles.seen import Seen
from parallel_strategy.report.console import console, table


def print_pairs(pairs: Sequence[KernelPair], seen: Seen, most: int) -> None:
    """Print the kernels that took longest, what all of them sum to, and what each file was."""
    terminal = console()
    rows = table("kernel", "shape", "times", "measured ms", "predicted ms", "difference", "in this strategy",
        left=("shape", "in this strategy"))  # fmt: skip
    for pair in pairs[:most]:
        rows.add_row(
            pair.kind,
            pair.shape,
            f"{pair.count:,}",
            f"{pair.measured_seconds * 1e3:.4f}",
            f"{pair.predicted_seconds * 1e3:.4f}",
            f"{pair.difference:+.1%}",
            pair.operator,
        )
    terminal.print(rows)
    measured = sum(pair.measured_seconds * pair.count for pair in pairs)
    predicted = sum(pair.predicted_seconds * pair.count for pair in pairs)
    if measured:
        terminal.print(
            f"{len(pairs)} shapes: measured {measured * 1e3:.4g} ms, predicted {predicted * 1e3:.4g} ms "
            f"({predicted / measured - 1:+.1%}); {sum(bool(pair.operator) for pair in pairs)} are this strategy's own",
            highlight=False,
        )
    for step in seen.steps:
        total = step.computing + step.exposed + step.free
        if total:
            terminal.print(
                f"rank {step.rank}: computing {step.computing / total:.1%}, communication that nothing hides "
                f"{step.exposed / total:.1%}, neither {step.free / total:.1%} of {total:.4g} s",
                highlight=False,
            )
    for note in seen.notes:
        terminal.print(note, style="dim", highlight=False, markup=False)
