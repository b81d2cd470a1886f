"""Prompts continued by several processes, each with the whole model: every process gets its share of the prompts.

The directory of the logs holds what is known so far, so that a call that was cut off goes on where it was:

    request.json             digests of weights, network, tokenizer, prompts and options; another request begins anew
    done.jsonl               {"index", "answer"}: what earlier starts have answered
    start-NNN/prompts_R.txt, answers_R.jsonl, worker_R.log, shares.json
                             one start: what process R was given and what it has said

Texts do not depend on how prompts are shared out, for a prompt's text is a function of the seed and of the prompt.
"""

import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import FrameType

import psutil

from pangu.checkpoint.description import digest_of
from pangu.checkpoint.open import MOMENTS, STATE, meant_checkpoint, open_checkpoint
from pangu.checkpoint.weights import open_weights, tokenizer_of
from pangu.distributed.launch import Check, check_device, check_modules
from pangu.distributed.process_group import cores_of
from pangu.distributed.supervise import without_complaint
from pangu.foundation.atomic_file import write_whole
from pangu.foundation.best_effort import reason_of, warn
from pangu.foundation.directory import make_directory
from pangu.foundation.errors import UserError
from pangu.foundation.interrupts import Handlers
from pangu.foundation.lock import Lock
from pangu.foundation.processes import Child, last_error
from pangu.foundation.small_file import read_small

POLL_SECONDS = 0.1
USER_MISTAKE, INTERRUPTED = 2, 130
# Options that name files: what is in them counts, not their names. A draft changes no text.
CONTENT_OPTIONS = ("--model=", "--tokenizer=", "--adapter=", "--draft=", "--draft-tokens=")
# By which each kind of device is told which one of it a process may see.
VISIBLE = {"Ascend": "ASCEND_RT_VISIBLE_DEVICES", "GPU": "CUDA_VISIBLE_DEVICES"}


@dataclass(frozen=True)
class PredictionRequest:
    """What is asked. options: `pangu generate`'s words, without the prompts. logs: where the parts come to lie."""

    checkpoint: Path
    prompts: list[str]
    options: list[str]
    device: str
    workers: int
    out: Path
    logs: Path
    suffix: str = ".txt"  # of the files of prompts: a prompt a line, or .jsonl
    # Called for digests of what the answers depend on beside prompts and options: {"weights": …, "tokenizer": …}.
    contents: Callable[[], dict[str, str]] = dict

    def fingerprint(self) -> dict[str, str]:
        """Return a digest of each thing asked: equal where every text is; no path, no number of processes."""
        options = [word for word in self.options if not word.startswith(CONTENT_OPTIONS)]
        return self.contents() | {"prompts": digest_of(self.prompts), "options": digest_of(options)}

    def command(self, prompts: Path) -> list[str]:
        """Return what one process runs."""
        words = ["-m", "pangu", "generate", str(self.checkpoint), "--file", str(prompts), "--json"]
        return [sys.executable, *words, *self.options]


def shares_of(indices: Sequence[int], workers: int) -> list[list[int]]:
    """Return every index once, in runs of neighbours whose lengths differ by one at most; no share is empty."""
    workers = min(workers, len(indices))
    ends = [len(indices) * share // workers for share in range(workers + 1)]
    return [list(indices[first:last]) for first, last in pairwise(ends)]


def check_all(asked: PredictionRequest) -> list[Check]:
    """Return everything that can be looked at without starting anything. Raises UserError where there is no
    checkpoint."""
    checks = [
        Check(f"checkpoint {asked.checkpoint}"),
        check_tokenizer(asked),
        Check(f"{len(asked.prompts)} prompts"),
        check_modules(),
        check_device(asked.device, asked.workers),
        check_output(asked.out),
    ]
    if asked.device == "CPU":
        checks.append(check_memory(asked))
    return checks


def check_tokenizer(asked: PredictionRequest) -> Check:
    given = next((word.partition("=")[2] for word in asked.options if word.startswith("--tokenizer=")), None)
    place = Path(given) if given else tokenizer_of(asked.checkpoint)
    found = place is not None and place.exists()
    return Check(
        f"tokenizer {place or 'of the weights'}", None if found else "no such file or directory: give --tokenizer"
    )


def check_output(out: Path) -> Check:
    what = f"answers go to {out}"
    if out.is_dir():
        return Check(what, "is a directory")
    if not out.parent.is_dir():
        return Check(what, f"{out.parent}: no such directory")
    return Check(what, None if os.access(out.parent, os.W_OK) else f"{out.parent} cannot be written")


def check_memory(asked: PredictionRequest) -> Check:
    """Return whether the weights, fp32 or as --dtype says, fit into memory once for each process."""
    size = weight_bytes(asked.checkpoint)
    if {"--dtype=fp16", "--dtype=bf16"} & set(asked.options):
        size //= 2
    free = psutil.virtual_memory().available
    what = f"memory: {asked.workers} x {size / 1e9:.1f} GB of weights, {free / 1e9:.1f} GB free"
    return Check(what, None if asked.workers * size < free else "not enough: fewer --workers, or --dtype fp16")


def weight_bytes(path: Path) -> int:
    """Return bytes of the weights of a checkpoint in fp32; an adapter has as many as its base."""
    from pangu.tuning import adapter_file

    if adapter_file.is_adapter(path):
        path = meant_checkpoint(adapter_file.base_of(path))
    if not (path / STATE).is_file():
        source = open_weights(path)
        return 4 * sum(info.size for name, info in source.tensors.items() if not name.startswith(MOMENTS))
    return 4 * open_checkpoint(path, verify=False).model.num_parameters


def processes_of(strategy_file: str | None, workers: int | None) -> int:
    """Return how many share the prompts: a strategy's data-parallel ranks. Raises UserError for what splits the
    model."""
    if strategy_file is None:
        return workers or 1
    from pangu.distributed.strategy import load_strategy

    strategy = load_strategy(strategy_file)
    if not strategy.splits_only_the_batch:
        raise UserError(f"{strategy_file}: only mesh.dp may be larger than 1: every process has the whole model")
    if workers not in (None, strategy.devices):
        raise UserError(f"{strategy_file}: is for {strategy.devices} devices, --workers says {workers}: leave one out")
    return strategy.devices


class Start:
    """The processes of one start, from the first moment until none is left."""

    def __init__(self, asked: PredictionRequest, folder: Path, left: Sequence[int], lock: int) -> None:
        """left: the prompts without an answer. lock: held by every process as long as it lives."""
        self.folder, self.shares = folder, shares_of(left, asked.workers)
        folder.mkdir(parents=True)
        write_whole(folder / "shares.json", json.dumps(self.shares).encode())
        self.processes: list[Child] = []
        for rank, share in enumerate(self.shares):
            prompts = folder / f"prompts_{rank}{asked.suffix}"
            prompts.write_text("".join(f"{asked.prompts[index]}\n" for index in share), encoding="utf-8")
            process = Child(
                asked.command(prompts),
                log=folder / f"worker_{rank}.log",
                output=folder / f"answers_{rank}.jsonl",
                environment={VISIBLE[asked.device]: str(rank)} if asked.device in VISIBLE else {},
                pass_fds=(lock,),
            )
            self.processes.append(process)
            if len(self.shares) > 1 and asked.device == "CPU":
                # Before it starts its threads, as many as it may use cores.
                psutil.Process(process.pid).cpu_affinity(cores_of(rank, len(self.shares)))

    def failure(self) -> int | None:
        """Return the exit code of a process that ended badly."""
        return next((process.returncode for process in self.processes if process.poll()), None)

    def is_running(self) -> bool:
        return any(process.poll() is None for process in self.processes)

    def end(self) -> None:
        """Leave nothing running."""
        for process in self.processes:
            process.ask(signal.SIGKILL)
        for process in self.processes:
            process.wait()

    def complaint(self) -> str | None:
        """Return the line by which a process named a mistake of the user."""
        for rank in range(len(self.shares)):
            found = last_error(self.folder / f"worker_{rank}.log")
            if found is not None:
                return found
        return None


def answers_of(folder: Path) -> dict[int, str]:
    """Return {prompt: JSON line} of what the processes of one start have said; a line that was cut off is left out."""
    try:
        shares = json.loads(read_small(folder / "shares.json"))
    except FileNotFoundError:  # cut off before anything was started
        return {}
    found = {}
    for rank, share in enumerate(shares):
        path = folder / f"answers_{rank}.jsonl"
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        for index, line in zip(share, lines, strict=False):
            found[index] = line.decode("utf-8")
    return found


class Predictor:
    """Starts until every prompt has its answer, the user interrupts, or `restarts` have failed without a new answer."""

    def __init__(
        self, asked: PredictionRequest, restarts: int, advance: Callable[[int], None] = lambda _: None
    ) -> None:
        """advance: called with the number of prompts that have been answered."""
        self.asked, self.restarts, self.advance = asked, restarts, advance
        self.interrupted = False

    def run(self) -> int:
        """Write `out` and return 0; 130 after an interrupt. Raises UserError for a mistake, and when it gives up."""
        logs = self.asked.logs
        make_directory(logs)
        busy = f"{logs}: processes of another call are still at work there"
        try:
            with Handlers(self.interrupt), Lock(logs, busy) as lock:
                return self.starts(lock.descriptor)
        except OSError as error:
            place = error.filename or logs
            raise UserError(f"{place}: {reason_of(error)}; the answers so far stay, the same call goes on") from None

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True

    def starts(self, lock: int) -> int:
        done, failures = self.known(), 0
        while left := [index for index in range(len(self.asked.prompts)) if index not in done]:
            if failures and self.asked.fingerprint() != self.request:
                raise UserError(
                    f"{self.asked.checkpoint}: the weights, their network or the tokenizer changed during this call; "
                    "call again: it begins anew"
                )
            start = Start(self.asked, self.next_folder(), left, lock)
            try:
                while start.is_running() and start.failure() is None and not self.interrupted:
                    time.sleep(POLL_SECONDS)
                    self.advance(len(done) + len(answers_of(start.folder)))
            finally:
                code = start.failure()
                start.end()
            new = answers_of(start.folder)
            done |= new
            self.remember(done)
            if self.interrupted:
                return INTERRUPTED
            if code == USER_MISTAKE:
                raise UserError(start.complaint() or without_complaint(start.folder))
            if code is None:
                if len(new) < len(left):
                    raise UserError(
                        f"{start.folder}: {len(left) - len(new)} prompts have no answer, and nothing failed"
                    )
                continue
            failures = 1 if new else failures + 1
            warn(f"a process ended with code {code} (logs in {start.folder}); all are stopped")
            if failures > self.restarts:
                raise UserError(
                    f"{self.asked.out}: gave up after {failures} failures without a new answer; the last logs are in "
                    f"{start.folder}"
                )
            warn(f"starting again: {len(done)} of {len(self.asked.prompts)} prompts are answered")
        write_whole(self.asked.out, "".join(f"{done[index]}\n" for index in sorted(done)).encode())
        (self.asked.logs / "done.jsonl").unlink(missing_ok=True)
        (self.asked.logs / "request.json").unlink(missing_ok=True)
        return 0

    def known(self) -> dict[int, str]:
        """Return what earlier calls have answered of the same request."""
        logs, request = self.asked.logs, self.asked.fingerprint()
        self.request = request
        done: dict[int, str] = {}
        before = read_request(logs / "request.json")
        if before == request:
            if (logs / "done.jsonl").exists():
                done = read_done(logs / "done.jsonl")
            for folder in sorted(logs.glob("start-*")):
                done |= answers_of(folder)
            warn(f"going on: {len(done)} of {len(self.asked.prompts)} prompts are answered")
        else:
            if before is not None:
                changed = [name for name in request if before.get(name) != request[name]]
                warn(f"{logs}: holds answers to another request ({', '.join(changed)} differ): beginning anew")
            for folder in logs.glob("start-*"):
                shutil.rmtree(folder)
            (logs / "done.jsonl").unlink(missing_ok=True)
            write_whole(logs / "request.json", json.dumps(request).encode())
        return done

    def remember(self, done: dict[int, str]) -> None:
        rows = (json.dumps({"index": index, "answer": done[index]}, ensure_ascii=False) for index in sorted(done))
        write_whole(self.asked.logs / "done.jsonl", "".join(f"{row}\n" for row in rows).encode())

    def next_folder(self) -> Path:
        number = 1
        while (self.asked.logs / f"start-{number:03d}").exists():
            number += 1
        return self.asked.logs / f"start-{number:03d}"


def read_done(path: Path) -> dict[int, str]:
    """Return the answers of earlier starts. Raises UserError for a damaged file."""
    try:
        rows = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
        return {row["index"]: row["answer"] for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is damaged: {reason_of(error)}; remove it to begin anew") from None


def read_request(path: Path) -> dict | None:
    """Return what an earlier call was asked; None where there was none, {} where the file is damaged."""
    try:
        request = json.loads(read_small(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return request if isinstance(request, dict) else {}


def described(asked: PredictionRequest) -> str:
    """Return the command of the first process, for people."""
    return shlex.join(asked.command(asked.logs / f"start-NNN/prompts_0{asked.suffix}"))
