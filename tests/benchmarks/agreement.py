"""Do the emulator, the virtual devices and MindSpore's compiler communicate the same? Layout by layout.

    python -m tests.benchmarks.agreement [--only TEXT] [--ranks first|ends|all] [--no-virtual] [--json FILE]

For each layout: the number of collectives of the checked ranks; whether the virtual devices' log equals the
emulator's list (count, bytes, type and group of every collective; layouts of at most 16 devices are executed); and
whether MindSpore's compiled graphs hold exactly what the emulator lists for the framework preset `mindspore-2.10`.
Exit code 1 where something differs.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from parallel_strategy.mindspore.dryrun.difference import as_compiled, differences, emulated, of_mindspore
from parallel_strategy.mindspore.dryrun.job import compile_rank
from parallel_strategy.mindspore.dryrun.stand_in import why_not
from parallel_strategy.spec.strategy import Question

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


def layout(sequences: int, micro: int = 1, model: dict | None = None, **sections) -> dict:
    """A strategy file's fields. The mesh and `sequences` a step are said; the rest is the default."""
    return {
        "batch": {"global": sequences, "micro": micro},
        "model_fields": MODEL | (model or {}),
        **sections,
    }


WIDE = {"hidden_size": 1024, "num_heads": 128, "ffn_hidden_size": 4096, "vocab_size": 4000}
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
    strategy = {name: value for name, value in fields.items() if name != "model_fields"}
    path = folder / "strategy.yaml"
    path.write_text(yaml.safe_dump({"model": {"file": "model.yaml"}, **strategy}))
    return path


def ranks_of(question: Question, which: str) -> list[int]:
    """The first rank; of a pipeline the last stage's too; or one of each stage."""
    mesh = question.strategy.mesh
    stages = range(mesh.pp) if which == "all" else sorted({0, mesh.pp - 1} if which == "ends" else {0})
    return [stage * (mesh.devices // mesh.pp) for stage in stages]


def virtual_log(question: Question) -> str:
    """What the virtual devices say of the emulator's list."""
    from parallel_strategy.virtual.proof import prove

    if question.strategy.mesh.devices > VIRTUAL_DEVICES:
        return "not run"
    proof = prove(as_compiled(question), steps=1)
    if proof.problem.startswith("no virtual kernel"):
        return "not run"
    return proof.problem or ("equal" if proof.equal else f"apart by {proof.largest:.1e}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="layouts with this in their name")
    parser.add_argument("--ranks", choices=["first", "ends", "all"], default="ends")
    parser.add_argument("--no-virtual", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    if reason := why_not():
        sys.exit(reason)
    table = Table("layout", "devices", "rank", "collectives", "virtual devices", "MindSpore", "seconds")
    results, failed = [], False
    for name, fields in LAYOUTS.items():
        if arguments.only not in name:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            path = write(fields, Path(scratch))
            question = Question.load(path)
            virtual = "" if arguments.no_virtual else virtual_log(question)
            for rank in ranks_of(question, arguments.ranks):
                begun = time.perf_counter()
                compiled = compile_rank(path, question, rank)
                expected = emulated(question, rank)
                found = differences(expected, of_mindspore(compiled.collectives))
                count, seconds = sum(expected.values()), time.perf_counter() - begun
                verdict = f"{len(found)} kinds differ" if found else "equal"
                failed = failed or bool(found) or virtual not in ("", "equal", "not run")
                devices = question.strategy.mesh.devices
                table.add_row(name, str(devices), str(rank), str(count), virtual, verdict, f"{seconds:.0f}")
                results.append({"layout": name, "rank": rank, "collectives": count, "virtual": virtual})
                results[-1] |= {"differences": [str(one) for one in found], "compile_seconds": compiled.seconds}
                results[-1] |= {"compile_cpu_seconds": compiled.cpu_seconds}
                print(f"{name}, rank {rank}: {verdict} ({count} collectives, {seconds:.0f} s)", file=sys.stderr)
                for one in found:
                    print(f"    {one}", file=sys.stderr)
    Console(width=140).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
