"""Twelve hours' worth of steps by a tiny model, with faults at random: it must end with the bits of an undisturbed run.

    python -m tests.benchmarks.soak --steps 43200 --minutes 60 --seed 1

43,200 steps are those of a run that takes a step a second for twelve hours. One run is left alone. Another, on a
small disk, is killed (SIGKILL, SIGTERM, SIGHUP, SIGINT), its disk is filled, its files meet a size limit, its
TensorBoard folder is removed, its newest checkpoint is damaged, its directory and its model file move. After each fault
the same command goes on. Said at the end: faults of each kind, whether anything hung, whether every line that was said
is of a known form, and whether metrics, weights and moments are equal byte for byte. A disk of its own needs root.
"""

import argparse
import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from pangu.checkpoint import open as checkpoint
from pangu.config import TrainConfig
from tests.conftest import REPOSITORY
from tests.pangu import packed_corpus

# Seconds after which a process that was asked to end, or whose disk is full, counts as hung.
PATIENCE = 120
DISK = "size=64M"  # metrics of 43,200 steps alone are 5 MB
# Every line that a run may say on standard error here.
KNOWN_LINES = [
    re.compile(pattern)
    for pattern in (
        r"(model |data  |run   |rate  |engine) .*",
        r"(train|step \d+): .*",
        r"warning: .*(samples|tokens a parameter|read \d+ times|behind the schedule|never trained).*",
        r"warning: .*: cannot be written: .*; the work goes on without it",
        r"warning: .*loss\.png: cannot be drawn: .*",
        r".*: is written again; nothing is missing in it",
        r"warning: .*(is damaged|is missing|damaged or missing).*; using step-\d+, which is whole",
        r"interrupted after step \d+; saved .*",
        r"the same command goes on from there",
        r"error: .*the checkpoint cannot be written: .*earlier checkpoints are untouched",
        r"error: .*: (cannot be written: )?(No space left on device|File too large)",
        r"\[WARNING\] .*",
        r"",
    )
]


class Soak:
    """One disturbed run beside an undisturbed one."""

    def __init__(self, folder: Path, steps: int, seed: int) -> None:
        self.folder, self.steps, self.random = folder, steps, random.Random(seed)
        self.corpus = packed_corpus.write(folder / "packed")
        self.model = folder / "model.yaml"
        self.model.write_text(packed_corpus.MODEL)
        self.disk = folder / "disk"
        self.disk.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", str(self.disk)]
        self.has_disk = subprocess.run(words, capture_output=True).returncode == 0
        self.run = self.disk / "run"
        self.every = max(50, steps // 86)  # steps between checkpoints
        self.faults: Counter[str] = Counter()
        self.problems: list[str] = []

    def config(self, out: Path) -> TrainConfig:
        fields = {
            "data": str(self.corpus),
            "out": str(out),
            "model": str(self.model),
            "steps": self.steps,
            "batch_size": 4,
            "evaluate_every": 4 * self.every,
            "checkpoint_every": self.every,
            "keep_last": 3,
            "learning_rate": {"peak": 1e-3, "warmup_steps": 100},
        }
        return TrainConfig.from_fields(fields, "soak")

    def start(self, out: Path) -> subprocess.Popen:
        file = self.folder / "train.yaml"
        file.write_text(self.config(out).dump(), encoding="utf-8")
        words = [sys.executable, "-m", "pangu", "train", str(file)]
        self.errors = (self.folder / "errors.txt").open("w+")
        return subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=self.errors)

    def finish(self, process: subprocess.Popen, fault: str, *codes: int) -> None:
        """Wait for the end and look at what was said."""
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.problems.append(f"{fault}: hung")
            process.kill()
            process.wait()
        if process.returncode not in codes and not (process.returncode == 0 and self.is_done):
            self.problems.append(f"{fault}: exit code {process.returncode}")
        self.errors.seek(0)
        lines = self.errors.read().splitlines()
        if self.problems:
            self.problems += lines[-3:]
        for line in lines:
            if not any(pattern.fullmatch(line) for pattern in KNOWN_LINES):
                self.problems.append(f"{fault}: said {line[:300]!r}")
        self.errors.close()

    @property
    def is_done(self) -> bool:
        return checkpoint.step_directory(self.run, self.steps).is_dir()

    def size(self) -> int:
        with contextlib.suppress(OSError):
            return (self.run / "metrics.jsonl").stat().st_size
        return 0

    def let_run(self, process: subprocess.Popen) -> None:
        """Wait for some hundred new lines of metrics, or the end."""
        begin, wanted = self.size(), self.random.randrange(40 * self.every, 300 * self.every)
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and self.size() - begin < wanted and time.monotonic() < deadline:
            time.sleep(0.02)

    def signal_fault(self, process: subprocess.Popen, number: signal.Signals) -> None:
        process.send_signal(number)
        self.finish(process, number.name, -9 if number == signal.SIGKILL else 130)

    def fill_disk(self, process: subprocess.Popen) -> None:
        fill = self.disk / "fill"
        with contextlib.suppress(OSError), fill.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        if self.random.random() < 0.5:  # room comes back before a checkpoint is due, or does not
            time.sleep(self.random.random())
            fill.unlink()
            self.signal_fault(process, signal.SIGTERM)
            return
        self.finish(process, "full disk", 2)
        fill.unlink()

    def limit_files(self, process: subprocess.Popen) -> None:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (self.size() + 500, resource.RLIM_INFINITY))
            time.sleep(self.random.random())
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        self.signal_fault(process, signal.SIGTERM)

    def remove_tensorboard(self, process: subprocess.Popen) -> None:
        shutil.rmtree(self.run / "tensorboard", ignore_errors=True)
        self.let_run(process)
        self.signal_fault(process, signal.SIGTERM)

    def damage(self, process: subprocess.Popen) -> None:
        self.signal_fault(process, signal.SIGKILL)
        directories = checkpoint.step_directories(self.run)
        if len(directories) < 2:
            return
        victim = self.random.choice([path for path in directories[0].iterdir() if path.is_file()])
        content = bytearray(victim.read_bytes())
        how = self.random.randrange(3)
        if how == 0:
            victim.unlink()
        elif how == 1:
            victim.write_bytes(content[: len(content) // 2])
        else:
            content[self.random.randrange(len(content))] ^= 1 << self.random.randrange(8)
            victim.write_bytes(content)

    def move(self, process: subprocess.Popen) -> None:
        self.signal_fault(process, signal.SIGTERM)
        number = sum(self.faults.values())
        moved = self.disk / f"run-{number}"
        self.run.rename(moved)
        self.run = moved
        if self.random.random() < 0.5:
            self.run = self.disk / f"link-{number}"
            self.run.symlink_to(moved)
        model = self.folder / f"model-{number}.yaml"
        self.model.rename(model)
        self.model = model

    def disturb(self, minutes: float) -> None:
        """Start, disturb and start again until the run is done, or the time is over: then it is left alone."""
        faults = {
            "SIGKILL": lambda process: self.signal_fault(process, signal.SIGKILL),
            "SIGTERM": lambda process: self.signal_fault(process, signal.SIGTERM),
            "SIGHUP": lambda process: self.signal_fault(process, signal.SIGHUP),
            "SIGINT": lambda process: self.signal_fault(process, signal.SIGINT),
            "file size limit": self.limit_files,
            "TensorBoard removed": self.remove_tensorboard,
            "damaged checkpoint": self.damage,
            "moved": self.move,
        } | ({"full disk": self.fill_disk} if self.has_disk else {})
        names = list(faults)
        end = time.monotonic() + 60 * minutes
        while not self.is_done and not self.problems:
            process = self.start(self.run)
            if time.monotonic() > end:
                process.wait()
                self.finish(process, "the end", 0)
                continue
            self.let_run(process)
            if process.poll() is not None:
                self.finish(process, "no fault", 0)
                continue
            # Each kind once before any comes twice.
            least = min(self.faults[name] for name in names)
            name = self.random.choice([name for name in names if self.faults[name] == least])
            self.faults[name] += 1
            faults[name](process)

    def differences(self, expected: Path) -> list[str]:
        last = f"checkpoints/step-{self.steps:08d}"
        files = ["metrics.jsonl", *(f"{last}/{name}" for name in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER))]
        return [name for name in files if (self.run / name).read_bytes() != (expected / name).read_bytes()]

    def close(self) -> None:
        if self.has_disk:
            subprocess.run(["umount", "-l", str(self.disk)], check=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=43_200)
    parser.add_argument("--minutes", type=float, default=60, help="of faults; after them the run is left alone")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        soak = Soak(Path(name), arguments.steps, arguments.seed)
        try:
            began = time.monotonic()
            alone = soak.folder / "alone"
            process = soak.start(alone)
            process.wait()
            undisturbed = time.monotonic() - began
            if process.returncode:
                soak.errors.seek(0)
                print(f"undisturbed, it ended with code {process.returncode}: {soak.errors.read()}", file=sys.stderr)
                return 1
            began = time.monotonic()
            soak.disturb(arguments.minutes)
            report = {
                "steps": arguments.steps,
                "seed": arguments.seed,
                "cores": os.cpu_count(),
                "undisturbed_seconds": round(undisturbed, 1),
                "disturbed_seconds": round(time.monotonic() - began, 1),
                "faults": dict(sorted(soak.faults.items())),
                "all_faults": sum(soak.faults.values()),
                "problems": soak.problems,
                "files_that_differ": soak.differences(alone) if soak.is_done else ["not finished"],
            }
        finally:
            soak.close()
    print(json.dumps(report, indent=1))
    return 1 if report["problems"] or report["files_that_differ"] else 0


if __name__ == "__main__":
    sys.exit(main())
