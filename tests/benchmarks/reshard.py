"""Changing the layout of checkpoints: rate and memory, beside a plain copy and MindSpore's own function.

    python -m tests.benchmarks.reshard [--layers 3] [--hidden 2560] [--rounds 3] [--folder DIR]

Random fp32 weights of some layers of the 2.6B model in the released layout (data parallel x tensor parallel, optimizer
sharding over all data-parallel ranks). Every row runs in a process of its own, and right before it `cp` and fsync of as
many bytes: what the disk gives at that moment. Times are medians; `of cp` is the median of the ratios of the pairs'
rates. `memory`: how far the process's peak lies above what it was before the work, in largest parameters. A training
checkpoint has sha256 sums, which are checked and made: its `cp` is followed by two runs of sha256sum, side by side.
MindSpore's own function runs once. The last table is what a rank does when a run goes on.
"""

import argparse
import importlib.metadata
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from pangu.checkpoint.open import TrainingState
from pangu.checkpoint.save import save_checkpoint
from pangu.config import ModelConfig
from tests.conftest import REPOSITORY
from tests.pangu.convert_files import random_weights, released_layouts, write_strategy
from tests.pangu.test_reshard import ours, write_shards

FRAME = """
import json, os, re, shutil, time
{imports}
def peak():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\\\s+(\\\\d+)", status.read())[1]) * 1024
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before, start = peak(), time.perf_counter()
{program}
print(json.dumps([time.perf_counter() - start, peak() - before]))
"""
COPY = """
import subprocess
subprocess.run(["cp", {source!r}, {target!r}], check=True)
with open({target!r}) as target:
    os.fsync(target.fileno())
if {checked}:
    sums = [subprocess.Popen(["sha256sum", name], stdout=subprocess.DEVNULL) for name in ({source!r}, {target!r})]
    assert not any(process.wait() for process in sums)
"""
LOAD = """
saved = open_checkpoint(Path({source!r}), verify=False)
layouts = read_stages([Path({layout!r})])[0]
with StoredCheckpoint(saved, 5) as stored:
    weights = saved.weights() if {whole} else stored.weights
    held = {{name: part_of(layouts[name], 5, weights[name]) for name in weights}}
"""
LOAD_IMPORTS = """
from pathlib import Path
from pangu.checkpoint.open import open_checkpoint
from pangu.formats.strategy_checkpoint import read_stages
from pangu.distributed.sharded_checkpoint import part_of
from pangu.distributed.stored import StoredCheckpoint
import pangu.formats.shards
"""
OURS = "assert main(['reshard', {source!r}, *{to}, '--out', {out!r}]) == 0"
IMPORTS = "from pangu.cli import main\nimport pangu.checkpoint.reshard, pangu.commands.reshard"


def run(imports: str, program: str) -> tuple[float, int]:
    """Seconds and bytes of memory of a program in a process of its own."""
    text = FRAME.replace("\\\\", "\\").format(imports=imports, program=program)
    done = subprocess.run([sys.executable, "-c", text], cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, memory = json.loads(done.stdout.splitlines()[-1])
    return seconds, memory


def read_by_one_rank(folder: Path) -> None:
    """What rank 5 of 4x2 takes to read its part of a training checkpoint, of whatever layout that is."""
    whole, layout = folder / "run/checkpoints/step-00000001", str(folder / "4x2.ckpt")
    places = {"one file": whole}
    for shape in ("4x2", "2x4"):
        places[f"{shape} shards"] = folder / f"training-{shape}"
        words = [str(whole), "--to", str(folder / f"{shape}.ckpt"), "--out", str(places[f"{shape} shards"])]
        run("from pangu.cli import main", f"assert main({['reshard', *words]!r}) == 0")
    print(f"\n{'rank 5 of 4x2 reads its part of':34}{'seconds':>9}{'MB':>8}{'everything, then cut':>24}{'MB':>8}")
    for name, place in places.items():
        seen: list[float] = []
        for reads_all in (False, True):
            seen += run(LOAD_IMPORTS, LOAD.format(source=str(place), layout=layout, whole=reads_all))
        print(f"{name:34}{seen[0]:9.2f}{seen[1] / 1e6:8.0f}{seen[2]:24.2f}{seen[3] / 1e6:8.0f}", flush=True)


def write_training(run: Path, weights: dict[str, np.ndarray]) -> None:
    """Weights as a whole training checkpoint, without moments: as many bytes as the other rows."""
    tables = {n.split(".")[1]: w for n, w in weights.items() if n.endswith("embedding_table")}
    model = ModelConfig(
        num_layers=sum(name.endswith("layernorm1.gamma") for name in weights),
        hidden_size=weights["backbone.layernorm.gamma"].size,
        num_heads=1,
        ffn_hidden_size=next(w.shape[1] for n, w in weights.items() if n.endswith("output.mapping.weight")),
        seq_length=len(tables["position_embedding"]),
        vocab_size=len(tables["word_embedding"]),
    )
    save_checkpoint(run, TrainingState(1, 1.0, 0, 0, 0, None), weights, {}, model, {})


def size_of(path: Path) -> int:
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
    )


def clear(path: Path) -> None:
    subprocess.run(["rm", "-rf", str(path)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=2560)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where to work (default: the system's temporary directory)")
    arguments = parser.parse_args()
    weights = random_weights(arguments.layers - 1, arguments.hidden, 4 * arguments.hidden)
    largest = max(array.nbytes for array in weights.values())
    total = sum(array.nbytes for array in weights.values())
    print(
        f"{total / 1e9:.2f} GB in {len(weights)} parameters, the largest {largest / 1e6:.0f} MB; "
        f"{arguments.rounds} rounds"
    )
    print(f"mindspore {importlib.metadata.version('mindspore')}, numpy {np.__version__}")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        for data, model in ((4, 2), (2, 4), (8, 1)):
            write_strategy(folder / f"{data}x{model}.ckpt", released_layouts(weights, data, model))
        shards = folder / "shards"
        write_shards(shards, weights, ours(released_layouts(weights, 4, 2), moments=False), "ckpt")
        save_file(weights, folder / "whole.safetensors")
        write_training(folder / "run", weights)
        del weights
        to = {shape: ["--to", str(folder / f"{shape}.ckpt")] for shape in ("2x4", "8x1")}
        out = folder / "out"
        mindspore = f"ms.transform_checkpoints({str(shards)!r}, {str(out)!r}, 'm', {str(shards / 'strategy.ckpt')!r}, "
        rows = {
            "4x2 -> 2x4": (IMPORTS, OURS.format(source=str(shards), to=to["2x4"], out=str(out)), out),
            "4x2 -> 8x1": (IMPORTS, OURS.format(source=str(shards), to=to["8x1"], out=str(out)), out),
            "4x2 -> one file": (
                IMPORTS,
                OURS.format(source=str(shards), to=[], out=f"{out}.safetensors"),
                out.with_name("out.safetensors"),
            ),
            "one file -> 8x1": (
                IMPORTS,
                OURS.format(source=str(folder / "whole.safetensors"), to=to["8x1"], out=str(out)),
                out,
            ),
            "training, one -> 8x1": (
                IMPORTS,
                OURS.format(source=str(folder / "run/checkpoints/step-00000001"), to=to["8x1"], out=str(out)),
                out,
            ),
            "4x2 -> 2x4, MindSpore": ("import mindspore as ms", f"{mindspore}{to['2x4'][1]!r})", out),
            "4x2 -> one file, MindSpore": ("import mindspore as ms", f"{mindspore}None)", out),
        }
        print(f"\n{'':28}{'seconds':>9}{'MB/s':>8}{'of cp':>9}{'memory':>8}")
        for row, (imports, program, result) in rows.items():
            times, ratios, memory, size = [], [], 0, 0
            for _ in range(1 if "MindSpore" in row else arguments.rounds):
                source, target = folder / "whole.safetensors", folder / "copy"
                checked = row.startswith("training")
                copied, _ = run("", COPY.format(source=str(source), target=str(target), checked=checked))
                seconds, memory = run(imports, program)
                size = size_of(result)
                times.append(seconds)
                ratios.append(copied / size_of(source) * size / seconds)
                clear(result)
                clear(target)
            seconds = statistics.median(times)
            rate = f"{size / 1e6 / seconds:8.0f}{statistics.median(ratios):9.2f}"
            print(f"{row:28}{seconds:9.2f}{rate}{memory / largest:8.2f}", flush=True)
        read_by_one_rank(folder)


if __name__ == "__main__":
    main()
