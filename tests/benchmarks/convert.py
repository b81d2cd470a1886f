"""Converting weights: rate and memory, beside a plain copy of the same bytes and MindSpore's own functions.

    python -m tests.benchmarks.convert [--layers 4] [--hidden 2560] [--rounds 3] [--folder DIR]

Random weights of some layers of the 2.6B model (the query layer counted), in 512 shards as released and in 8. Every row
runs in a process of its own, and right before it a copy of the output's bytes (shutil.copyfile and fsync): what the
disk gives at that moment. Times are medians; `of copy` is the median of the ratios of the pairs. `CPU s/GB` are the
processor's seconds, which a busy machine does not stretch.
`memory`: how far the process's peak lies above what it was before the work, in largest parameters.
"""

import argparse
import importlib.metadata
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.conftest import REPOSITORY
from tests.pangu.convert_files import released_layouts, shapes_of, write_ckpt, write_released, write_strategy

MAIN = "main(['convert', '{%s}', '--to', '%s', '--out', '{out}.%s', *%s])"
COPY = ("", "copy('{safetensors}', '{out}.bin')")
# {row: the imports, which come before the measurement, and the program that does it}
PROGRAMS = {
    "512 shards -> safetensors": ("", MAIN % ("many", "safetensors", "safetensors", [])),
    "8 shards -> safetensors": ("", MAIN % ("few", "safetensors", "safetensors", [])),
    "8 shards, MindSpore transform_checkpoints": (
        "import mindspore as ms",
        "ms.transform_checkpoints('{ranks}', '{out}', 'm', '{few}/strategy.ckpt', None)",
    ),
    ".ckpt -> safetensors": ("", MAIN % ("ckpt", "safetensors", "safetensors", [])),
    ".ckpt -> safetensors, MindSpore": (
        "import mindspore as ms",
        "ms.save_checkpoint(ms.load_checkpoint('{ckpt}'), '{out}.safetensors', format='safetensors')",
    ),
    "safetensors -> .ckpt": ("", MAIN % ("safetensors", "mindspore", "ckpt", [])),
    "safetensors -> PyTorch names": ("", MAIN % ("safetensors", "pytorch", "safetensors", [])),
    "safetensors -> bf16": ("", MAIN % ("safetensors", "safetensors", "safetensors", ["--dtype", "bf16"])),
}
FRAME = """
import os, re, shutil, time, json
{imports}
from pangu.cli import main
import pangu.commands.convert, pangu.formats.released
def copy(source, target):
    shutil.copyfile(source, target)
    with open(target) as file:
        os.fsync(file)
def peak():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1]) * 1024
# Sets the peak back to what is used now.
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before, processor, started = peak(), time.process_time(), time.perf_counter()
{work}
seconds = time.perf_counter() - started
print()
print(json.dumps([seconds, peak() - before, time.process_time() - processor]))
"""


def make_inputs(folder: Path, layers: int, hidden: int) -> dict[str, str]:
    shapes = shapes_of(layers - 1, hidden, 4 * hidden, 1024, 4000)
    generator = np.random.default_rng(0)
    weights = {name: generator.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    for name, data, model in (("many", 64, 8), ("few", 4, 2)):
        write_released(folder / name, weights, data, model)
        write_strategy(folder / name / "strategy.ckpt", released_layouts(shapes, data, model))
    for rank in range(8):
        (folder / "ranks" / f"rank_{rank}").mkdir(parents=True)
        (folder / "ranks" / f"rank_{rank}" / "s.ckpt").symlink_to(folder / "few" / f"filerted_{rank}.ckpt")
    save_file(weights, folder / "in.safetensors")
    write_ckpt(folder / "in.ckpt", weights)
    places = {"many": "many", "few": "few", "ranks": "ranks", "safetensors": "in.safetensors", "ckpt": "in.ckpt"}
    return {key: str(folder / name) for key, name in places.items()}


def measure(program: tuple[str, str], places: dict[str, str], folder: Path) -> tuple[float, int, float]:
    """Seconds, bytes of memory beyond the start and processor seconds of one run in its own process."""
    folder.mkdir()
    imports, work = program
    code = FRAME.format(imports=imports, work=work.format(out=folder / "out", **places))
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    shutil.rmtree(folder)
    if run.returncode:
        sys.exit(run.stderr)
    seconds, memory, processor = json.loads(run.stdout.splitlines()[-1])
    return seconds, memory, processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=2560, help="a multiple of 512")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files go (default: the system's temporary directory)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        places = make_inputs(folder, arguments.layers, arguments.hidden)
        results: dict[str, list[tuple[float, int, float, float]]] = {row: [] for row in PROGRAMS}
        for _ in range(arguments.rounds):
            for row, program in PROGRAMS.items():
                copied, _, _ = measure(COPY, places, folder / "work")
                seconds, memory, processor = measure(program, places, folder / "work")
                results[row].append((seconds, memory, processor, copied / seconds))
    shapes = shapes_of(arguments.layers - 1, arguments.hidden, 4 * arguments.hidden, 1024, 4000)
    total, largest = (4 * f(math.prod(shape) for shape in shapes.values()) for f in (sum, max))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("mindspore", "numpy", "safetensors"))
    print(f"{total / 1e9:.2f} GB of weights, largest parameter {largest / 1e6:.0f} MB; {versions}")
    print(f"{'':42} {'s':>7} {'MB/s':>7} {'of copy':>8} {'CPU s/GB':>9} {'memory':>8}")
    for row, runs in results.items():
        seconds, processor, ratio = (statistics.median(run[column] for run in runs) for column in (0, 2, 3))
        memory = max(run[1] for run in runs)
        rates = f"{total / 1e6 / seconds:7.0f} {ratio:8.0%} {processor / total * 1e9:9.2f}"
        print(f"{row:42} {seconds:7.2f} {rates} {memory / largest:7.2f}×")


if __name__ == "__main__":
    main()
