"""Data-parallel training on the processes of this computer: seconds a step, beside what the emulator predicts.

    python -m tests.benchmarks.distributed [--workers 1 2] [--steps 20] [--folder DIR]

A small model is trained by one process on one core, and by more, a core each, through `pangu launch`; the emulator is
given the cluster file that `parallel_strategy measure` wrote on one core just before. `measure` times collectives over
shared memory; MindSpore's on a CPU go through sockets and are many times slower, so they are timed here, between as
many processes, and stand in the file in place of the others (`as measured` is the prediction without that). `loss` is
the largest relative difference to the losses of one process.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from tests.conftest import REPOSITORY
from tests.pangu import packed_corpus

MODEL = {"num_layers": 6, "hidden_size": 256, "num_heads": 8, "ffn_hidden_size": 1024, "seq_length": 256}
VOCABULARY, BATCH, PARAMETERS = 2000, 8, 5_382_144


def write(folder: Path, steps: int) -> None:
    """Corpus, model and train.yaml."""
    packed_corpus.SEQ_LENGTH = MODEL["seq_length"]
    packed_corpus.write(folder / "packed", samples=64, vocab_size=VOCABULARY)
    model = MODEL | {"vocab_size": VOCABULARY, "query_layer": True, "compute_dtype": "fp32", "dropout_rate": 0.0}
    (folder / "model.yaml").write_text(yaml.safe_dump(model))
    train = {
        "data": str(folder / "packed"),
        "out": str(folder / "run"),
        "model": str(folder / "model.yaml"),
        "steps": steps,
        "batch_size": BATCH,
        "evaluate_every": 10_000,
        "checkpoint_every": 10_000,
        "evaluate_samples": 8,
        "learning_rate": {"peak": 1e-3, "end": 1e-4, "warmup_steps": 2},
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(train))


# Medians of AllReduce between the processes that msrun started: bytes and seconds, as the first of them sees them.
PROBE = """
import json, os, statistics, time
from pangu.network import use_device
from pangu.distributed.world import join, share_cores
share_cores()
use_device("CPU")
world = join()
import mindspore as ms, numpy as np
from mindspore import nn, ops
class Sum(nn.Cell):
    def __init__(self):
        super().__init__()
        self.all_reduce = ops.AllReduce()
    def construct(self, x):
        return self.all_reduce(x)
net, found = Sum(), []
for size in SIZES:
    x, times = ms.Tensor(np.ones(size // 4, np.float32)), []
    for _ in range(8):
        start = time.perf_counter()
        net(x).asnumpy()
        times.append(time.perf_counter() - start)
    found.append((size, statistics.median(times[2:])))
print("PROBE", json.dumps(found), flush=True)
world.wait()
"""


def socket_level(folder: Path, workers: int, size: int) -> dict:
    """The cluster file's only level, as MindSpore's AllReduce of about `size` bytes has it."""
    (folder / "probe.py").write_text(PROBE.replace("SIZES", str((size // 8, size))))
    logs = folder / f"probe-{workers}"
    words = [str(Path(sys.executable).with_name("msrun")), f"--worker_num={workers}", f"--local_worker_num={workers}"]
    words += ["--master_port=8131", f"--log_dir={logs}", "--join=True", str(folder / "probe.py")]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PANGU_LOCAL_WORKERS": str(workers)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    subprocess.run(words, cwd=folder, env=environment, capture_output=True, check=True)
    line = next(line for line in (logs / "worker_0.log").read_text().splitlines() if line.startswith("PROBE"))
    (small, fast), (large, slow) = json.loads(line.removeprefix("PROBE"))
    rate = (large - small) / max(slow - fast, 1e-9)  # bytes/s of the whole tensor
    start = max(0.0, slow - large / rate)
    for size, seconds in ((small, fast), (large, slow)):
        print(f"AllReduce between {workers} processes: {size / 1e6:.1f} MB in {seconds * 1e3:.0f} ms")
    bus = 2 * (workers - 1) / workers * rate / 1e9
    return {
        "level": "server",
        "size": workers,
        "kind": "shared_memory",
        "bus_gbps": {workers: bus},
        "start_us": start * 1e6,
        "latency_us": 1.0,
    }


def strategy(folder: Path, workers: int, sharded: bool) -> Path:
    path = folder / f"{workers}{'-sharded' if sharded else ''}.yaml"
    fields = {
        "model": {"file": "model.yaml", "dtype": "fp32"},
        "cluster": {"file": "machine.yaml"},
        "framework": "pangu-cpu",
        "batch": {"global": BATCH, "micro": BATCH // workers},
        "mesh": {"dp": workers},
        "zero": {"optimizer_shard": sharded, "threshold_kb": 0},
    }
    path.write_text(yaml.safe_dump(fields))
    return path


def python(*words: object, cores: set[int] | None = None) -> str:
    """The output of a module run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--folder", help="where to work (default: the system's temporary directory)")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        write(folder, arguments.steps)
        devices = max(arguments.workers)
        words = ("measure", "--seconds", 20, "--devices", devices, "--out", folder / "machine.yaml")
        print(python("parallel_strategy", *words, cores={cores[0]}))
        measured = yaml.safe_load((folder / "machine.yaml").read_text())
        print(f"{'processes':>16}{'s/step':>9}{'predicted':>11}{'error':>8}{'as measured':>13}{'loss':>10}")
        for workers in arguments.workers:
            level = socket_level(folder, workers, 4 * PARAMETERS) if workers > 1 else measured["topology"][0]
            for sharded in (False, True) if workers > 1 else (False,):
                file, run = strategy(folder, workers, sharded), folder / f"run-{workers}-{sharded}"
                used = set(cores[:workers]) if workers < len(cores) else None
                told = python("pangu", "launch", folder / "train.yaml", "--strategy", file, "--out", run, cores=used)
                speed = float(re.search(r"speed ([\d,.]+) tokens/s", told)[1].replace(",", ""))
                seconds = BATCH * MODEL["seq_length"] / speed
                guesses = []
                for topology in (measured["topology"], [level]):
                    (folder / "machine.yaml").write_text(yaml.safe_dump(measured | {"topology": topology}))
                    answer = json.loads(python("parallel_strategy", "predict", file, "--json"))
                    guesses.append(answer["step_seconds"])
                first = losses(folder / f"run-{arguments.workers[0]}-False")
                worst = max(abs(a - b) / b for a, b in zip(losses(run), first, strict=True))
                label = f"{workers}{', sharded' if sharded else ''}"
                print(
                    f"{label:>16}{seconds:9.3f}{guesses[1]:11.3f}{guesses[1] / seconds - 1:8.0%}{guesses[0]:13.3f}"
                    f"{worst:10.1e}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
