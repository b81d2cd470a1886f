"""Count what the server does, in Prometheus's text format (version 0.0.4)."""

from dataclasses import dataclass, field

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Histogram:
    """Seconds in buckets."""

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        place = next((place for place, bound in enumerate(SECONDS) if seconds <= bound), len(SECONDS))
        self.counts[place] += 1
        self.sum += seconds

    def lines(self, name: str) -> list[str]:
        """Return the histogram's lines."""
        total, lines = 0, []
        for bound, count in zip([*map(str, SECONDS), "+Inf"], self.counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*lines, f"{name}_sum {self.sum:.6f}", f"{name}_count {total}"]


@dataclass
class Statistics:
    """Figures since the start; the engine's thread and the server's write each its own."""

    running: int = 0
    waiting: int = 0
    tokens_in: int = 0
    tokens_shared: int = 0
    tokens_out: int = 0
    rejected: int = 0
    ended: int = 0
    calls: int = 0
    answers: dict[int, int] = field(default_factory=dict)
    first_token: Histogram = field(default_factory=Histogram)
    next_token: Histogram = field(default_factory=Histogram)

    def text(self) -> str:
        """Return every figure as Prometheus reads it."""
        lines: list[str] = []

        def add(name: str, kind: str, told: str, values: list[str]) -> None:
            lines.extend([f"# HELP pangu_{name} {told}", f"# TYPE pangu_{name} {kind}", *values])

        for name, told in (("running", "sequences in a row"), ("waiting", "sequences that wait for a row")):
            add(name, "gauge", told, [f"pangu_{name} {getattr(self, name)}"])
        for name, told in (
            ("tokens_in", "tokens of prompts that were read"),
            ("tokens_shared", "tokens of prompts that a row held already"),
            ("tokens_out", "tokens that were generated"),
            ("rejected", "requests that were turned away because the queue was full"),
            ("ended", "sequences that ended"),
            ("calls", "calls of the engine"),
        ):
            add(f"{name}_total", "counter", told, [f"pangu_{name}_total {getattr(self, name)}"])
        answers = [
            f'pangu_answers_total{{status="{status}"}} {count}' for status, count in sorted(self.answers.items())
        ]
        add("answers_total", "counter", "HTTP answers", answers)
        for name, told in (
            ("first_token", "from the request to its first token"),
            ("next_token", "between two tokens"),
        ):
            add(f"{name}_seconds", "histogram", told, getattr(self, name).lines(f"pangu_{name}_seconds"))
        return "\n".join(lines) + "\n"
