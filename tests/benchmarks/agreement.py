"""Do the emulator, the virtual devices and MindSpore's compiler communicate the same? Layout by layout.

    python -m tests.benchmarks.agreement [--only TEXT] [--from TEXT] [--count N] [--ranks first|ends|all] [--json FILE]
    python -m tests.benchmarks.agreement --files         # the same with the splits out of MindSpore's own files

For each layout and checked rank: how many collectives of how many bytes the emulator lists for the framework preset
`mindspore-2.10`; the same of the virtual devices' log (layouts of at most 16 devices are executed, and their weights
compared with one device's); the same of MindSpore's compiled graphs. `equal` is count, bytes, type and group of every
collective. No virtual device runs a fine-tuning. --files: what `export` writes for MindSpore (operator strategies by
place and by parameter, the parameter strategy protobuf) is loaded back in the place of our splits, and gives the same
layouts and collectives. Exit code 1 where something differs.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from pangu.foundation.errors import UserError
from parallel_strategy.mindspore.dryrun.difference import (
    CollectiveKind,
    as_compiled,
    differences,
    emulated,
    fused_differences,
    of_mindspore,
)
from parallel_strategy.mindspore.dryrun.fine_tuning import FineTuning
from parallel_strategy.mindspore.dryrun.job import compile_rank, write_skeleton
from parallel_strategy.mindspore.dryrun.stand_in import why_not
from parallel_strategy.mindspore.limits import check_propagated
from parallel_strategy.mindspore.strategy_file import (
    operator_strategy_json,
    parameter_named_json,
    parameter_strategy_protobuf,
)
from parallel_strategy.spec.strategy import Setup

MODEL = {
    "num_layers": 4,
    "hidden_size": 64,
    "num_heads": 8,
    "ffn_hidden_size": 256,
    "seq_length": 32,
    "vocab_size": 512,
    "query_layer": True,
    "dropout_rate": 0.0,
}
SHARDED = {"optimizer_shard": True, "threshold_kb": 0}
AS_RELEASED = SHARDED | {"whole": ["*layernorm*", "*.projection.bias", "*embedding_table"]}
FULL = {"mode": "full"}
SEQUENCE = {"sequence_parallel": True}


def layout(sequences: int, micro: int = 1, model: dict | None = None, **sections) -> dict:
    """A strategy file's fields. The mesh and `sequences` a step are said; the rest is the default. `tuning`: of a
    fine-tuning."""
    return {
        "batch": {"global": sequences, "micro": micro},
        "model_fields": MODEL | (model or {}),
        **sections,
    }


# As many places as tokens: the virtual devices drop none.
SWITCH = {"experts": {"count": 4, "routing": "switch", "capacity_factor": 4.0}}
TOP_2 = {"experts": {"count": 4, "routing": "top_k", "capacity_factor": 2.0, "layers": [1, 2]}}
LORA, LORA_ALL = FineTuning("lora", rank=4), FineTuning("lora", rank=4, modules=("all",))
ADAPTER, BITFIT = FineTuning("adapter", bottleneck=16), FineTuning("bitfit")
WIDE = {"hidden_size": 1024, "num_heads": 128, "ffn_hidden_size": 4096, "vocab_size": 4000}
WIDER = {"hidden_size": 256, "ffn_hidden_size": 1024}  # gradients of about a megabyte
LAYOUTS: dict[str, dict] = {
    "dp8": layout(16, 2, mesh={"dp": 8}),
    "mp8": layout(4, 4, mesh={"tp": 8}),
    "dp2 mp4": layout(4, 2, mesh={"dp": 2, "tp": 4}),
    "dp4 mp2, vocabulary whole": layout(8, 2, mesh={"dp": 4, "tp": 2}, tensor={"vocab": "whole"}),
    "dp2 mp4, dropout": layout(4, 2, {"dropout_rate": 0.1}, mesh={"dp": 2, "tp": 4}),
    "dp2 mp4, fp32": layout(4, 2, {"compute_dtype": "fp32"}, mesh={"dp": 2, "tp": 4}),
    "dp2 mp2, no query layer": layout(4, 2, {"query_layer": False}, mesh={"dp": 2, "tp": 2}),
    "dp2 mp2, norm after the query layer": layout(4, 2, {"final_norm": "after_query"}, mesh={"dp": 2, "tp": 2}),
    "dp8, hsdp": layout(16, 2, mesh={"dp": 8}, zero=SHARDED),
    "dp4 mp2, hsdp": layout(8, 2, mesh={"dp": 4, "tp": 2}, zero=SHARDED),
    "dp4 mp2, hsdp from 8 KB": layout(8, 2, mesh={"dp": 4, "tp": 2}, zero=SHARDED | {"threshold_kb": 8}),
    "dp4 mp2, hsdp as released": layout(8, 2, mesh={"dp": 4, "tp": 2}, zero=AS_RELEASED),
    "dp2 mp4, recompute": layout(4, 2, mesh={"dp": 2, "tp": 4}, recompute=FULL),
    "dp4 mp2, hsdp, recompute": layout(8, 2, mesh={"dp": 4, "tp": 2}, zero=SHARDED, recompute=FULL),
    "dp2 mp2, 4 parts accumulated": layout(16, 2, mesh={"dp": 2, "tp": 2}),
    "dp2 mp2, 4 parts accumulated, hsdp": layout(16, 2, mesh={"dp": 2, "tp": 2}, zero=SHARDED),
    "pp2 dp2 mp2": layout(16, 2, mesh={"pp": 2, "dp": 2, "tp": 2}),
    "pp2 dp2 mp2, hsdp": layout(16, 2, mesh={"pp": 2, "dp": 2, "tp": 2}, zero=SHARDED),
    "dp4 mp2, hsdp in twos": layout(8, 2, mesh={"dp": 4, "tp": 2}, zero=SHARDED | {"weight_shard_size": 2}),
    "dp2 mp2, Adam on the host": layout(4, 2, mesh={"dp": 2, "tp": 2}, offload={"optimizer": True}),
    "dp2 mp2, selective recompute": layout(4, 2, mesh={"dp": 2, "tp": 2}, recompute={"mode": "selective"}),
    "dp2 mp4, recompute without collectives": layout(
        4, 2, mesh={"dp": 2, "tp": 4}, recompute=FULL | {"mp_comm": False}
    ),
    "pp2 dp2 mp2, GPipe": layout(8, 1, mesh={"pp": 2, "dp": 2, "tp": 2}, pipeline={"schedule": "gpipe"}),
    "pp2 dp2 mp2, 2 chunks a stage": layout(
        8, 1, mesh={"pp": 2, "dp": 2, "tp": 2}, pipeline={"schedule": "mindspore_vpp", "vpp": 2}
    ),
    "pp2 dp2 mp2, zero bubble V": layout(8, 1, mesh={"pp": 2, "dp": 2, "tp": 2}, pipeline={"schedule": "zb_v"}),
    "dp4 mp2, hsdp level 2": layout(8, 2, mesh={"dp": 4, "tp": 2}, zero=SHARDED | {"level": 2}),
    "dp2 mp2, 4 parts accumulated, hsdp level 2": layout(16, 2, mesh={"dp": 2, "tp": 2}, zero=SHARDED | {"level": 2}),
    "dp4 mp2, hsdp level 3": layout(8, 2, mesh={"dp": 4, "tp": 2}, zero=SHARDED | {"level": 3}),
    "dp4 mp2, hsdp level 3, recompute": layout(
        8, 2, mesh={"dp": 4, "tp": 2}, zero=SHARDED | {"level": 3}, recompute=FULL
    ),
    "dp2 mp2, 4 parts accumulated, hsdp level 3": layout(16, 2, mesh={"dp": 2, "tp": 2}, zero=SHARDED | {"level": 3}),
    "pp2 dp2 mp2, hsdp level 3": layout(16, 2, mesh={"pp": 2, "dp": 2, "tp": 2}, zero=SHARDED | {"level": 3}),
    "dp2 mp4, sequence": layout(2, 1, mesh={"dp": 2, "tp": 4}, tensor=SEQUENCE),
    "dp2 mp4, sequence, dropout": layout(2, 1, {"dropout_rate": 0.1}, mesh={"dp": 2, "tp": 4}, tensor=SEQUENCE),
    "dp2 mp4, sequence, vocabulary whole, recompute": layout(
        2, 1, mesh={"dp": 2, "tp": 4}, tensor=SEQUENCE | {"vocab": "whole"}, recompute=FULL
    ),
    "pp2 dp2 mp2, sequence, hsdp, recompute": layout(
        8, 1, mesh={"pp": 2, "dp": 2, "tp": 2}, tensor=SEQUENCE, zero=SHARDED, recompute=FULL
    ),
    "dp8, width 256, fused to 1 MB": layout(8, 1, WIDER, mesh={"dp": 8}, zero={"bucket_mb": 1}),
    "dp4 mp2, width 256, fused to 2 MB": layout(4, 1, WIDER, mesh={"dp": 4, "tp": 2}, zero={"bucket_mb": 2}),
    "dp4 mp2, hsdp, fused to 4 MB": layout(8, 2, mesh={"dp": 4, "tp": 2}, zero=SHARDED | {"bucket_mb": 4}),
    "experts: dp4": layout(8, 2, SWITCH, mesh={"dp": 4}),
    "experts: dp4 ep2": layout(8, 2, SWITCH, mesh={"dp": 4, "ep": 2}),
    "experts: dp4 ep4": layout(8, 2, SWITCH, mesh={"dp": 4, "ep": 4}),
    "experts: dp4 ep4, top 2": layout(8, 2, TOP_2, mesh={"dp": 4, "ep": 4}),
    "experts: dp2 ep2 mp2": layout(4, 2, SWITCH, mesh={"dp": 2, "ep": 2, "tp": 2}),
    "experts: dp4 ep2 mp2": layout(8, 2, SWITCH, mesh={"dp": 4, "ep": 2, "tp": 2}),
    "experts: dp4 ep2, hsdp": layout(8, 2, SWITCH, mesh={"dp": 4, "ep": 2}, zero=SHARDED),
    "experts: dp4 ep2 mp2, hsdp": layout(8, 2, SWITCH, mesh={"dp": 4, "ep": 2, "tp": 2}, zero=SHARDED),
    "experts: dp2 ep2, 4 parts accumulated": layout(16, 2, SWITCH, mesh={"dp": 2, "ep": 2}),
    "experts: pp2 dp2 ep2": layout(8, 1, SWITCH, mesh={"pp": 2, "dp": 2, "ep": 2}),
    "experts: pp2 dp4 ep4, hsdp": layout(16, 1, SWITCH, mesh={"pp": 2, "dp": 4, "ep": 4}, zero=SHARDED),
    "experts: pp2 dp2 ep2 mp2, hsdp": layout(8, 1, SWITCH, mesh={"pp": 2, "dp": 2, "ep": 2, "tp": 2}, zero=SHARDED),
    "experts: pp2 dp4 ep2, recompute": layout(16, 1, SWITCH, mesh={"pp": 2, "dp": 4, "ep": 2}, recompute=FULL),
    "experts: pp2 dp2 ep2, 2 chunks a stage": layout(
        8, 1, SWITCH, mesh={"pp": 2, "dp": 2, "ep": 2}, pipeline={"schedule": "mindspore_vpp", "vpp": 2}
    ),
    "experts: pp4 dp2 ep2, top 2": layout(8, 1, TOP_2, mesh={"pp": 4, "dp": 2, "ep": 2}),
    "fine-tuning: full, pp2 dp2 mp2, hsdp": layout(
        16, 2, mesh={"pp": 2, "dp": 2, "tp": 2}, zero=SHARDED, tuning=FineTuning("full")
    ),
    "fine-tuning: LoRA, dp2 mp4": layout(4, 2, mesh={"dp": 2, "tp": 4}, tuning=LORA),
    "fine-tuning: LoRA everywhere, dp4 mp2, hsdp, recompute": layout(
        8, 2, mesh={"dp": 4, "tp": 2}, zero=SHARDED, recompute=FULL, tuning=LORA_ALL
    ),
    "fine-tuning: LoRA everywhere, dp2 mp4, sequence": layout(
        2, 1, mesh={"dp": 2, "tp": 4}, tensor=SEQUENCE, tuning=LORA_ALL
    ),
    "fine-tuning: LoRA everywhere, pp2 dp2 mp2, recompute": layout(
        16, 2, mesh={"pp": 2, "dp": 2, "tp": 2}, recompute=FULL, tuning=LORA_ALL
    ),
    "fine-tuning: LoRA, dp2 mp2, 4 parts accumulated, hsdp level 2": layout(
        16, 2, mesh={"dp": 2, "tp": 2}, zero=SHARDED | {"level": 2}, tuning=LORA
    ),
    "fine-tuning: adapter, dp2 mp4, recompute": layout(4, 2, mesh={"dp": 2, "tp": 4}, recompute=FULL, tuning=ADAPTER),
    "fine-tuning: adapter, dp2 mp4, sequence": layout(2, 1, mesh={"dp": 2, "tp": 4}, tensor=SEQUENCE, tuning=ADAPTER),
    "fine-tuning: adapter, pp2 dp2 mp2, hsdp": layout(
        16, 2, mesh={"pp": 2, "dp": 2, "tp": 2}, zero=SHARDED, tuning=ADAPTER
    ),
    "fine-tuning: BitFit, dp4 mp2, hsdp": layout(8, 2, mesh={"dp": 4, "tp": 2}, zero=SHARDED, tuning=BITFIT),
    "fine-tuning: BitFit, dp2 cp2": layout(2, 1, mesh={"dp": 2, "cp": 2}, tuning=BITFIT),
    "fine-tuning: LoRA, pp2 dp2 cp2": layout(8, 1, mesh={"pp": 2, "dp": 2, "cp": 2}, tuning=LORA),
    "context: dp2 cp2": layout(2, 1, mesh={"dp": 2, "cp": 2}),
    "context: cp4": layout(1, 1, mesh={"cp": 4}),
    "context: dp2 cp2, hsdp": layout(2, 1, mesh={"dp": 2, "cp": 2}, zero=SHARDED),
    "context: dp2 cp2, dropout": layout(2, 1, {"dropout_rate": 0.1}, mesh={"dp": 2, "cp": 2}),
    "context: dp2 cp2, fp32, recompute": layout(
        2, 1, {"compute_dtype": "fp32"}, mesh={"dp": 2, "cp": 2}, recompute=FULL
    ),
    "context: dp2 cp2, 2 parts accumulated": layout(4, 1, mesh={"dp": 2, "cp": 2}),
    "context: pp2 dp2 cp2, hsdp level 3": layout(8, 1, mesh={"pp": 2, "dp": 2, "cp": 2}, zero=SHARDED | {"level": 3}),
    "pp4 mp2": layout(8, 1, mesh={"pp": 4, "tp": 2}),
    "pp2 dp2 mp2, hsdp, recompute": layout(16, 2, mesh={"pp": 2, "dp": 2, "tp": 2}, zero=SHARDED, recompute=FULL),
    "pp4 dp2 mp2, recompute": layout(8, 1, mesh={"pp": 4, "dp": 2, "tp": 2}, recompute=FULL),
    "released: dp64 mp8": layout(
        64, 1, mesh={"dp": 64, "tp": 8}, tensor={"vocab": "whole"}, zero=AS_RELEASED, recompute=FULL
    )
    | {"model_fields": MODEL | {"hidden_size": 512, "ffn_hidden_size": 2048}},
    "200B: pp16 dp16 mp8, width 1024": layout(
        512,
        1,
        mesh={"pp": 16, "dp": 16, "tp": 8},
        tensor={"vocab": "whole"},
        zero=AS_RELEASED,
        recompute=FULL,
    )
    | {"model_fields": MODEL | WIDE | {"num_layers": 64}},
}
VIRTUAL_DEVICES = 16


def write(fields: dict, folder: Path) -> Path:
    """The layout as a strategy file beside its model file."""
    (folder / "model.yaml").write_text(yaml.safe_dump(fields["model_fields"]))
    strategy = {name: value for name, value in fields.items() if name not in ("model_fields", "tuning")}
    path = folder / "strategy.yaml"
    path.write_text(yaml.safe_dump({"model": {"file": "model.yaml"}, **strategy}))
    return path


def ranks_of(setup: Setup, which: str) -> list[int]:
    """The first rank; of a pipeline the last stage's too; or one of each stage."""
    mesh = setup.strategy.mesh
    stages = range(mesh.pp) if which == "all" else sorted({0, mesh.pp - 1} if which == "ends" else {0})
    return [stage * (mesh.devices // mesh.pp) for stage in stages]


@dataclass(frozen=True)
class Amount:
    """Of one step."""

    count: int
    bytes: int

    @classmethod
    def of(cls, kinds: Counter[CollectiveKind]) -> "Amount":
        return cls(sum(kinds.values()), sum(kind.bytes * times for kind, times in kinds.items()))

    def __str__(self) -> str:
        return f"{self.count:,} / {self.bytes / 2**20:.2f}"


@dataclass(frozen=True)
class Row:
    """One rank of one layout. `differs`: what the compiled graph has otherwise than the emulator's list."""

    layout: str
    devices: int
    rank: int
    emulator: Amount
    virtual: str
    mindspore: Amount
    differs: tuple[str, ...]
    seconds: float
    cpu_seconds: float


def virtual_log(setup: Setup) -> str:
    """What the virtual devices say of the emulator's list."""
    from parallel_strategy.virtual.downsizing import check_provable
    from parallel_strategy.virtual.proof import prove

    if setup.strategy.mesh.devices > VIRTUAL_DEVICES:
        return "not run"
    try:
        check_provable(setup.model, setup.strategy)
    except UserError:
        return "not run"
    proof = prove(as_compiled(setup), steps=1)
    return proof.problem or ("equal" if proof.equal else f"apart by {proof.largest:.1e}")


def check(name: str, ranks: str) -> list[Row]:
    """All three on the wanted ranks of a layout."""
    rows, tuning = [], LAYOUTS[name].get("tuning")
    with tempfile.TemporaryDirectory() as scratch:
        path = write(LAYOUTS[name], Path(scratch))
        setup = Setup.load(path)
        virtual = "not run" if tuning else virtual_log(setup)
        for rank in ranks_of(setup, ranks):
            begun = time.perf_counter()
            compiled = compile_rank(path, setup, rank, flags=tuning.flags() if tuning else ())
            expected, found = emulated(setup, rank, tuning=tuning), of_mindspore(compiled.collectives)
            apart = differences(expected, found)
            if tuning is None:
                apart += fused_differences(setup, rank, compiled.collectives)
            differs = tuple(map(str, apart))
            seconds = time.perf_counter() - begun
            amounts = Amount.of(expected), virtual, Amount.of(found)
            devices = setup.strategy.mesh.devices
            rows.append(Row(name, devices, rank, *amounts, differs, seconds, compiled.cpu_seconds))
            say(rows[-1])
    return rows


def check_files(name: str) -> list[Row]:
    """MindSpore's files of a layout's first rank, each loaded back. `virtual` says which file."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        path = write(LAYOUTS[name], folder)
        setup = Setup.load(path)
        (folder / "strategy_0.ckpt").write_bytes(parameter_strategy_protobuf(setup, 0))
        (folder / "by_parameter_0.json").write_bytes(parameter_named_json(setup, 0))
        files = ["strategy_0.ckpt", "by_parameter_0.json"]
        try:
            check_propagated(setup)
            write_skeleton(path, setup, folder / "skeleton.json")
            filled = operator_strategy_json((folder / "skeleton.json").read_bytes(), setup)
            (folder / "operator_strategy.json").write_bytes(filled)
            files.append("operator_strategy.json")
        except UserError as error:
            print(f"{name}: {error}", file=sys.stderr)
        ours = compile_rank(path, setup, 0)
        for file in files:
            begun = time.perf_counter()
            compiled = compile_rank(path, setup, 0, load=folder / file)
            expected = emulated(setup, 0, whole_batch=compiled.whole_batch)
            found = of_mindspore(compiled.collectives)
            differs = [str(one) for one in differences(expected, found)]
            differs += [f"layout of {p}" for p in ours.parameters if ours.parameters[p] != compiled.parameters.get(p)]
            seconds = time.perf_counter() - begun
            amounts = Amount.of(expected), file, Amount.of(found)
            devices = setup.strategy.mesh.devices
            rows.append(Row(name, devices, 0, *amounts, tuple(differs), seconds, compiled.cpu_seconds))
            say(rows[-1])
    return rows


def say(row: Row) -> None:
    verdict = f"{len(row.differs)} differ" if row.differs else "equal"
    about = f"{row.layout}, rank {row.rank}, {row.virtual}"
    print(f"{about}: {verdict} ({row.emulator.count} collectives, {row.seconds:.0f} s)", file=sys.stderr)
    for one in row.differs:
        print(f"    {one}", file=sys.stderr)


def chosen(arguments: argparse.Namespace) -> list[str]:
    """Names of layouts in their order."""
    names = list(LAYOUTS)
    if arguments.begin:
        first = next((index for index, name in enumerate(names) if arguments.begin in name), len(names))
        names = names[first:]
    names = [name for name in names if arguments.only in name]
    if arguments.files:  # a fine-tuning has none
        names = [name for name in names if "tuning" not in LAYOUTS[name]]
    return names[: arguments.count] if arguments.count else names


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="layouts with this in their name")
    parser.add_argument("--from", dest="begin", default="", help="begin with the first layout with this in its name")
    parser.add_argument("--count", type=int, default=0, help="so many layouts; 0: all")
    parser.add_argument("--ranks", choices=["first", "ends", "all"], default="ends")
    parser.add_argument("--files", action="store_true", help="load MindSpore's own files back")
    parser.add_argument("--jobs", type=int, default=1, help="layouts at a time; MindSpore compiles on one core")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    if reason := why_not():
        sys.exit(reason)
    names, begun = chosen(arguments), time.perf_counter()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        run = check_files if arguments.files else lambda name: check(name, arguments.ranks)
        rows = [row for found in pool.map(run, names) for row in found]
    second = "file" if arguments.files else "virtual devices"
    table = Table("layout", "devices", "rank", "emulator", second, "MindSpore", "", title="collectives: count / MiB")
    for row in rows:
        verdict = f"[red]{len(row.differs)} differ" if row.differs else "[green]equal"
        cells = str(row.devices), str(row.rank), str(row.emulator), row.virtual, str(row.mindspore), verdict
        table.add_row(row.layout, *cells)
    Console(width=140).print(table)
    cpu = sum(row.cpu_seconds for row in rows)
    seconds = time.perf_counter() - begun
    print(f"{len(names)} layouts, {len(rows)} compilations, {cpu:.0f} s in the compiler, {seconds:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    wrong = [row for row in rows if row.differs]
    if not arguments.files:
        wrong += [row for row in rows if row.virtual not in ("equal", "not run")]
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
