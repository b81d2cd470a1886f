"""Changing the layout of checkpoints: rate and memory, beside a plain copy and MindSpore's own function.

    python -m tests.benchmarks.reshard [--layers 3] [--hidden 2560] [--rounds 3] [--folder DIR]

Random fp32 weights of some layers of the 2.6B model in the released layout (data parallel x tensor parallel, optimizer
sharding over all data-parallel ranks). Every row runs in a process of its own, and right before it a copy of the bytes
that it writes (shutil.copyfile and fsync): what the disk gives at that moment. Times are medians; `of copy` is the
median of the ratios of the pairs. `memory`: how far the process's peak lies above what it was before the work, in
largest parameters.
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
with open({target!r}, "wb") as target:
    with open({source!r}, "rb") as source:
        left = {size}
        while left > 0:
            source.seek(0)
            block = source.read(min(left, os.path.getsize({source!r})))
            target.write(block)
            left -= len(block)
    target.flush()
    os.fsync(target.fileno())
"""
OURS = "assert main(['reshard', {source!r}, *{to}, '--out', {out!r}]) == 0"
IMPORTS = "from pangu.cli import main\nimport pangu.reshard, pangu.commands.reshard"


def run(imports: str, program: str) -> tuple[float, int]:
    """Seconds and bytes of memory of a program in a process of its own."""
    text = FRAME.replace("\\\\", "\\").format(imports=imports, program=program)
    done = subprocess.run([sys.executable, "-c", text], cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, memory = json.loads(done.stdout.splitlines()[-1])
    return seconds, memory


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
            "4x2 -> 2x4, MindSpore": ("import mindspore as ms", f"{mindspore}{to['2x4'][1]!r})", out),
            "4x2 -> one file, MindSpore": ("import mindspore as ms", f"{mindspore}None)", out),
        }
        print(f"\n{'':28}{'seconds':>9}{'MB/s':>8}{'of copy':>9}{'memory':>8}")
        for row, (imports, program, result) in rows.items():
            times, ratios, memory, size = [], [], 0, total
            for _ in range(arguments.rounds):
                source, target = folder / "whole.safetensors", folder / "copy"
                copied, _ = run("", COPY.format(source=str(source), target=str(target), size=size))
                seconds, memory = run(imports, program)
                size = size_of(result)
                times.append(seconds)
                ratios.append(copied / seconds)
                clear(result)
                clear(target)
            seconds = statistics.median(times)
            rate = f"{size / 1e6 / seconds:8.0f}{statistics.median(ratios):9.2f}"
            print(f"{row:28}{seconds:9.2f}{rate}{memory / largest:8.2f}", flush=True)


if __name__ == "__main__":
    main()
