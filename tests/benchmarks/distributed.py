"""Data-parallel training on the processes of this computer: seconds a step, beside what the emulator predicts.

    python -m tests.benchmarks.distributed [--workers 2 4] [--models small wide] [--steps 12]
    python -m tests.benchmarks.distributed --machine machine.yaml --models long     # measured before: in short turns

Small models are trained by several processes through `pangu launch`, each with its share of the cores, with every
moment on every process and with the moments shared out (`sharded`). The emulator is given the cluster file that
`parallel_strategy measure --workers` wrote: kernels on one process, what they lose when all compute at once, and
MindSpore's collectives over sockets. No step was timed for it. `loss` is the largest relative difference to the losses
of the first run of that model.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from parallel_strategy.measure.timed_kernels import undisturbed
from tests.conftest import REPOSITORY
from tests.pangu import packed_corpus

# layers, hidden size, heads, sequence, vocabulary, batch over all processes
MODELS = {
    "small": (6, 256, 8, 256, 2000, 8),
    "wide": (3, 512, 8, 256, 8000, 8),
    "long": (4, 256, 8, 512, 4000, 4),
}


def write(folder: Path, name: str, steps: int) -> None:
    """Corpus, model and train.yaml."""
    layers, hidden, heads, sequence, vocabulary, batch = MODELS[name]
    packed_corpus.SEQ_LENGTH = sequence
    packed_corpus.write(folder / "packed", samples=64, vocab_size=vocabulary)
    model = {
        "num_layers": layers,
        "hidden_size": hidden,
        "num_heads": heads,
        "ffn_hidden_size": 4 * hidden,
        "seq_length": sequence,
        "vocab_size": vocabulary,
        "query_layer": True,
        "compute_dtype": "fp32",
        "dropout_rate": 0.0,
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(model))
    train = {
        "data": str(folder / "packed"),
        "out": str(folder / "run"),
        "model": str(folder / "model.yaml"),
        "steps": steps,
        "batch_size": batch,
        "evaluate_every": 10_000,
        "checkpoint_every": 10_000,
        "evaluate_samples": 8,
        "learning_rate": {"peak": 1e-3, "end": 1e-4, "warmup_steps": 2},
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(train))


def strategy(folder: Path, name: str, workers: int, sharded: bool, machine: Path) -> Path:
    path, batch = folder / f"{workers}{'-sharded' if sharded else ''}.yaml", MODELS[name][-1]
    fields = {
        "model": {"file": "model.yaml", "dtype": "fp32"},
        "cluster": {"file": str(machine)},
        "framework": "pangu-cpu",
        "batch": {"global": batch, "micro": batch // workers},
        "mesh": {"dp": workers},
        "zero": {"optimizer_shard": sharded, "threshold_kb": 0},
    }
    path.write_text(yaml.safe_dump(fields))
    return path


def python(*words: object) -> str:
    """The output of a module run in a process of its own."""
    command = [sys.executable, "-m", *map(str, words)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def step_seconds(run: Path) -> float:
    """Lower quartile of the times between two losses that the first rank wrote, the first two steps left out."""
    from tensorboardX.proto.event_pb2 import Event

    times: dict[int, float] = {}
    for path in sorted((run / "tensorboard").iterdir()):
        data, position = path.read_bytes(), 0
        while position < len(data):  # length, its checksum, the event, its checksum
            (length,) = struct.unpack_from("<Q", data, position)
            event = Event.FromString(data[position + 12 : position + 12 + length])
            position += length + 16
            if any(value.tag == "loss" for value in event.summary.value):
                times[event.step] = event.wall_time
    steps = sorted(times)[2:]
    return undisturbed([times[b] - times[a] for a, b in itertools.pairwise(steps)])


def processor_seconds(run: Path, workers: int, process: subprocess.Popen) -> float:
    """Processor time of a step while training runs, summed over the processes that share a core.

    It is the step's wall time where nobody else computes, but for waits: the slope of the processes' time over the
    number of losses written.
    """
    seen: dict[int, float] = {}  # steps done -> processor seconds of all workers
    while process.poll() is None:
        time.sleep(0.1)
        metrics = run / "metrics.jsonl"
        steps = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
        if steps > 2 and steps not in seen:
            seen[steps] = sum(map(processor_time, workers_of(run)))
    counts = sorted(seen)[:-1]  # the last one is followed by a checkpoint
    slope = np.polyfit(counts, [seen[count] for count in counts], 1)[0]
    return float(slope) / workers * max(1.0, workers / len(os.sched_getaffinity(0)))


def workers_of(run: Path) -> list[int]:
    """The processes that train into `run`; msrun's scheduler among them, which does nothing."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"train" in words and str(run).encode() in words and b"msrun" not in words[1]:
                    found.append(int(entry.name))
    return found


def processor_time(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["small", "wide"])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument(
        "--processor-time", action="store_true", help="compare processor time: where others use the machine too"
    )
    parser.add_argument("--machine", type=Path, help="cluster file to use; written first if it is not there")
    parser.add_argument("--folder", help="where to work (default: the system's temporary directory)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        machine = (arguments.machine or Path(temporary) / "machine.yaml").absolute()
        print(f"load {os.getloadavg()[0]:.2f} on {len(os.sched_getaffinity(0))} cores")
        if not machine.exists():
            words = ["measure", "--seconds", 15, "--workers", *arguments.workers, "--out", machine]
            print(python("parallel_strategy", *words, *["--processor-time"] * arguments.processor_time))
        errors = []
        print(f"{'model, processes':>24}{'s/step':>9}{'predicted':>11}{'error':>8}{'loss':>10}")
        for name in arguments.models:
            folder, first = Path(temporary) / name, None
            folder.mkdir()
            write(folder, name, arguments.steps)
            for workers in arguments.workers:
                for sharded in (False, True):
                    file, run = strategy(folder, name, workers, sharded, machine), folder / f"run-{workers}-{sharded}"
                    command = ["launch", str(folder / "train.yaml"), "--strategy", str(file), "--out", str(run)]
                    log = folder / "launch.log"
                    with log.open("w") as said:
                        process = subprocess.Popen(
                            [sys.executable, "-m", "pangu", *command], cwd=REPOSITORY, stdout=said, stderr=said
                        )
                    busy = processor_seconds(run, workers, process)
                    if process.wait():
                        raise SystemExit(f"{log.read_text()}{' '.join(command)}: exit code {process.returncode}")
                    seconds = busy if arguments.processor_time else step_seconds(run)
                    guess = json.loads(python("parallel_strategy", "predict", file, "--json"))["step_seconds"]
                    first = first or losses(run)
                    worst = max(abs(a - b) / b for a, b in zip(losses(run), first, strict=True))
                    errors.append(guess / seconds - 1)
                    label = f"{name}, {workers}{', sharded' if sharded else ''}"
                    print(f"{label:>24}{seconds:9.3f}{guess:11.3f}{errors[-1]:+8.1%}{worst:10.1e}", flush=True)
        print(f"mean {statistics.mean(map(abs, errors)):.1%}, worst {max(map(abs, errors)):.1%}")


if __name__ == "__main__":
    main()
