"""Seconds to prove a strategy on virtual devices: one process, float64, two updates, everything compared.

    python -m tests.benchmarks.virtual_proof

There is no peer that runs here: PyTorch's fake process group computes no numbers, MindSpore has no virtual devices, and
JAX's host devices run other programs. The goal is 10 s for 8 devices and a tiny model, and seconds for 64.
"""

import time

from rich.console import Console
from rich.table import Table

from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.virtual.downsizing import reduced
from parallel_strategy.virtual.proof import prove
from tests.parallel_strategy.strategies import setup_of

CASES: list[tuple[str, str, dict]] = [
    ("8 devices", "pangu-alpha-13b", {"batch": {"global": 16}, "mesh": {"dp": 8}}),
    ("8 devices", "pangu-alpha-13b", {"batch": {"global": 16}, "mesh": {"dp": 2, "tp": 4}}),
    ("8 devices", "pangu-alpha-13b", {"batch": {"global": 16}, "mesh": {"pp": 2, "dp": 2, "tp": 2}}),
    (
        "8 devices, ZB-V",
        "pangu-alpha-13b",
        {"batch": {"global": 16}, "mesh": {"pp": 2, "dp": 2, "tp": 2}, "pipeline": {"schedule": "zb_v"}},
    ),
    ("64 devices", "pangu-alpha-13b", {"batch": {"global": 64}, "mesh": {"dp": 64}}),
    ("64 devices", "pangu-alpha-13b", {"batch": {"global": 64}, "mesh": {"pp": 4, "dp": 4, "tp": 4}}),
    ("64 devices, experts", "mixtral-8x7b", {"batch": {"global": 64}, "mesh": {"dp": 16, "tp": 4, "ep": 8}}),
    ("the paper's 200B", "pangu-alpha-200b", {"batch": {"global": 512}, "mesh": {"pp": 16, "dp": 16, "tp": 8}}),
]


def main() -> None:
    table = Table("case", "mesh proved", "equal", "largest difference", "collectives", "seconds", "of CPU")
    for name, preset, fields in CASES:
        asked = setup_of(
            ModelSpec.preset(preset),
            "cloudbrain2-2048",
            "mindspore",
            recompute={"mode": "full"},
            zero={"optimizer_shard": True},
            **fields,
        )
        small = reduced(asked).setup
        start, busy = time.perf_counter(), time.process_time()
        proof = prove(small)
        mesh = small.strategy.mesh
        sizes = " x ".join(f"{axis} {getattr(mesh, axis)}" for axis in ("pp", "dp", "tp") if getattr(mesh, axis) > 1)
        seconds = time.perf_counter() - start
        busy = time.process_time() - busy
        largest, count = f"{proof.largest:.1e}", str(proof.collectives)
        table.add_row(name, sizes, str(proof.equal), largest, count, f"{seconds:.2f}", f"{busy:.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
