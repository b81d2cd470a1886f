"""Compiles the training step of one rank in a process of its own, and reads what came of it."""

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pangu.foundation.directory import make_directory
from pangu.foundation.errors import UserError
from parallel_strategy.mindspore.dryrun.compiled_collectives import KINDS, CompiledCollective, read_collectives
from parallel_strategy.mindspore.dryrun.environment import environment
from parallel_strategy.mindspore.dryrun.graph_file import read_graph
from parallel_strategy.mindspore.dryrun.stand_in import installed_cann, why_not
from parallel_strategy.mindspore.limits import check_propagated, check_read, check_supported
from parallel_strategy.mindspore.skeleton import skeleton_setup
from parallel_strategy.spec.strategy import Setup

# The program that has the network: started with a strategy and the place for its answer.
PROGRAM = ("-m", "pangu", "compile")
LONGEST_SECONDS = 3600
CURRENT_STAGE = b"\x08"  # the key of the first field of MindSpore's protobuf, which is followed by the stage


@dataclass(frozen=True)
class CompiledParameter:
    """As MindSpore has it: tensor_map counts axes of the device matrix from the right, -1 is not split."""

    device_matrix: tuple[int, ...]
    tensor_map: tuple[int, ...]
    shape: tuple[int, ...]  # whole
    local_shape: tuple[int, ...]  # what this rank holds
    optimizer_sharded: bool


@dataclass(frozen=True)
class CompiledRank:
    """One rank's compiled step."""

    rank: int
    parameters: dict[str, CompiledParameter]
    collectives: list[CompiledCollective]
    recomputed: dict[str, int]  # operators that run again in backward, with how often in a step
    seconds: float  # in MindSpore's compiler
    cpu_seconds: float  # of that, on a processor
    process_seconds: float  # with starting and importing
    peak_memory_gib: float
    whole_batch: bool  # every rank is given all rows
    fusion_mb: dict[str, int]  # as MindSpore's compiler is told: kind of collective -> megabytes of a fused one


def compile_rank(
    strategy: Path,
    setup: Setup,
    rank: int,
    *,
    keep: Path | None = None,
    load: Path | None = None,
    flags: tuple[str, ...] = (),
    tell: Callable[[float], None] | None = None,
) -> CompiledRank:
    """Compile `strategy` for one rank. `keep`: a folder that gets the graph's text; `load`: a file of MindSpore's with
    the splits; `flags`: for the program; `tell`: is called every second with the seconds so far.

    Raises UserError with MindSpore's own complaint where it does not compile.
    """
    mesh = setup.strategy.mesh
    check_compilation(setup, rank)
    if load is not None:
        flags = (*flags, *load_flags(load, rank * mesh.pp // mesh.devices))
    with tempfile.TemporaryDirectory(prefix="compile-") as scratch:
        folder = Path(scratch)
        answer = folder / "answer.json"
        variables = environment(rank, mesh.devices, folder / "graphs")
        begun = time.perf_counter()
        command = [sys.executable, *PROGRAM, str(strategy.resolve()), "--out", str(answer), *flags]
        try:
            result = _run(command, variables, folder, tell)
        except subprocess.TimeoutExpired:
            raise UserError(f"{strategy}: MindSpore has not compiled rank {rank} in {LONGEST_SECONDS} s") from None
        if result.returncode or not answer.is_file():
            raise UserError(f"{strategy}: rank {rank} does not compile: {complaint(result.stderr, result.returncode)}")
        process_seconds = time.perf_counter() - begun
        fields = json.loads(answer.read_text(encoding="utf-8"))
        texts = sorted(folder.glob("graphs/rank_*/*_validate_*.ir"))
        if not texts:
            raise UserError(f"{strategy}: MindSpore wrote no graph for rank {rank}")
        text = texts[-1]
        if keep is not None:
            make_directory(keep)
            (keep / f"rank-{rank}.ir").write_bytes(text.read_bytes())
        graph = read_graph(text, frozenset(KINDS))
    recomputed: dict[str, int] = {}
    for node in graph.recomputed:
        recomputed[node.operator] = recomputed.get(node.operator, 0) + graph.runs[node.function]
    return CompiledRank(
        rank,
        {name: _layout(fields["parameters"][name]) for name in fields["parameters"]},
        read_collectives(graph, rank, setup.model.num_layers, fields["groups"]),
        recomputed,
        fields["seconds"],
        fields["cpu_seconds"],
        process_seconds,
        fields["peak_memory_gib"],
        fields["whole_batch"],
        fields["fusion_mb"],
    )


def check_compilation(setup: Setup, rank: int, load: Path | None = None, keep: Path | None = None) -> None:
    """Raise UserError for what cannot be compiled, here or at all, or kept in this folder, before anything is begun."""
    check_supported(setup)
    mesh = setup.strategy.mesh
    if not 0 <= rank < mesh.devices:
        raise UserError(f"rank {rank}: the strategy has ranks 0 to {mesh.devices - 1}")
    if installed_cann() is None and (reason := why_not()):
        raise UserError(reason)
    if load is not None:
        flag, _ = load_flags(load, rank * mesh.pp // mesh.devices)
        (check_propagated if flag == "--load-operators" else check_read)(setup)
    if keep is not None:
        make_directory(keep)


def expected_seconds(setup: Setup, rank: int) -> float:
    """Return about how long a rank's compilation takes on a quiet core.

    Starting takes 6 s. Each layer of the rank's stage is compiled for every micro-batch of a pipeline, 0.22 s each; a
    billion weights of the stage take 2 s. Seen on 64 layers over 16 stages with 32 micro-batches: 35 s at a width of
    1,024, 41 s at 8,192 (docs/compile.md).
    """
    strategy, model = setup.strategy, setup.model
    stage = rank * strategy.mesh.pp // strategy.mesh.devices
    layers = strategy.layers_of_stages(model.num_layers)[stage]
    times = strategy.micro_batches if strategy.mesh.pp > 1 else 1
    weights = layers * (4 * model.hidden_size + 2 * model.ffn_hidden_size) * model.hidden_size
    return 6.0 + 0.22 * layers * times + 2.0 * weights / 1e9


def _run(
    command: list[str], variables: dict[str, str], folder: Path, tell: Callable[[float], None] | None
) -> "subprocess.CompletedProcess[str]":
    """Run the program to its end. Raises TimeoutExpired after LONGEST_SECONDS; the process ends with us."""
    begun = time.perf_counter()
    with subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
    ) as process:
        try:
            while True:
                try:
                    said, errors = process.communicate(timeout=1.0)
                    return subprocess.CompletedProcess(command, process.returncode, said, errors)
                except subprocess.TimeoutExpired:
                    elapsed = time.perf_counter() - begun
                    if elapsed > LONGEST_SECONDS:
                        raise
                    if tell is not None:
                        tell(elapsed)
        except BaseException:
            process.kill()
            raise


def write_skeleton(strategy: Path, setup: Setup, out: Path) -> int:
    """Have MindSpore name the operators of the strategy's step; how many there are."""
    check_supported(setup)
    small = skeleton_setup(setup)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from None
    compile_rank(strategy, small, 0, flags=("--save-skeleton", str(out.resolve())))
    return len(json.loads(out.read_bytes())["operators"])


def check_stage(file: Path, found: int, wanted: int) -> None:
    if found != wanted:
        raise UserError(f"{file}: is of pipeline stage {found}, this rank is on stage {wanted}")


def load_flags(file: Path, stage: int) -> tuple[str, str]:
    """Return which of MindSpore's strategy files it is, by what is in it. Raises UserError for none, or one of another
    stage, which MindSpore would take for one that says nothing."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None
    if not content.lstrip().startswith(b"{"):
        if content[:1] != CURRENT_STAGE:
            raise UserError(f"{file}: is no strategy file of MindSpore's, neither protobuf nor JSON")
        check_stage(file, content[1], stage)
        return "--load-strategy", str(file.resolve())
    try:
        document = json.loads(content)
        names = document["parallel_strategy_item"].keys()
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{file}: is no strategy file of MindSpore's: it has no parallel_strategy_item") from None
    check_stage(file, document.get("current_stage", stage), stage)
    if file.suffix != ".json":
        raise UserError(f"{file}: MindSpore reads this file under a name that ends in .json")
    by_place = any(name.startswith("Default/") for name in names)
    return "--load-operators" if by_place else "--load-strategy", str(file.resolve())


def _layout(fields: dict) -> CompiledParameter:
    return CompiledParameter(
        tuple(fields["device_matrix"]),
        tuple(fields["tensor_map"]),
        tuple(fields["shape"]),
        tuple(fields["local_shape"]),
        fields["optimizer_sharded"],
    )


def complaint(stderr: str, code: int) -> str:
    """Return the line that says what is wrong: ours, or the last exception's first."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("error: ")]
    if ours:
        return ours[-1].removeprefix("error: ")
    errors = [line for line in lines if re.match(r"^\w*(Error|Exception): ", line)]
    details = [line.split("] ", 3)[-1] for line in lines if line.startswith("[ERROR] PARALLEL")]
    if errors:
        return "; ".join([errors[-1], *details[:1]])[:500]
    if code < 0:
        reason = ", as it is where memory is short" if code == -signal.SIGKILL else ""
        return f"the process was ended by signal {-code}{reason}"
    return lines[-1][:500] if lines else f"the process ended with code {code}"
