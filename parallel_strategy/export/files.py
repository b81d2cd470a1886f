"""Everything that a strategy is exported to, as files of one directory."""

from dataclasses import dataclass
from pathlib import Path

from pangu.foundation.errors import UserError
from parallel_strategy.export import group_files, megatron, mindformers, msrun, own_format, rank_table
from parallel_strategy.report.output import write_whole
from parallel_strategy.spec.strategy import Setup

RANK_TABLE = "rank_table.json"


@dataclass(frozen=True)
class Exported:
    """What is to be written. files: {path below the directory: content}. notes: what to know of them."""

    files: dict[str, bytes]
    notes: list[str]


def export(setup: Setup, strategy_file: str, hosts: Path | None, skeleton: Path | None) -> Exported:
    """Return everything that can be said of this strategy; what cannot is a note.

    hosts: the servers' addresses (`rank_table.read_hosts`). skeleton: the operator strategy file that MindSpore wrote
    for the network, whose operators' names are in no other place. Raises UserError for what the user can mend.
    """
    _, a_server = rank_table.devices_used(setup)
    known = rank_table.read_hosts(hosts, a_server) if hosts else None
    files: dict[str, str | bytes] = {
        "msrun.sh": msrun.script(setup, RANK_TABLE if known else None, strategy_file),
        "mindformers.yaml": mindformers.text(setup),
        "megatron.txt": megatron.text(setup),
    }
    notes: list[str] = []
    if msrun.is_ascend(setup):
        files[RANK_TABLE] = rank_table.rank_table(setup, known)
        if known is None:
            notes.append(f"{RANK_TABLE}: addresses are missing, give them by --hosts; msrun needs no rank table")
    for rank in range(setup.strategy.mesh.devices):
        files[f"groups/rank_{rank}.pb"] = group_files.group_file(setup, rank)
    try:
        files |= mindspore_files(setup)
    except UserError as error:
        notes.append(f"no files for MindSpore: {error}")
    if skeleton is not None:
        files["operator_strategy.json"] = operator_strategy(setup, skeleton)
    else:
        notes.append(
            "operator_strategy.json needs the names that MindSpore gives to operators: compile once with "
            "`python -m parallel_strategy compile strategy.yaml --skeleton FILE` and give --skeleton FILE"
        )
    if lost := own_format.unsaid(setup, with_model=True):
        notes.append(f"nobody will obey, for {setup.framework.name}'s configuration cannot say: {', '.join(lost)}")
    encoded = {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}
    return Exported(encoded, notes)


def operator_strategy(setup: Setup, skeleton: Path) -> bytes:
    """Return strategies of operators under MindSpore's names. Raises UserError for a file that is no skeleton of this
    network, and for a strategy that MindSpore reads in no such file."""
    from parallel_strategy.mindspore.limits import check_supported
    from parallel_strategy.mindspore.strategy_file import operator_strategy_json

    check_supported(setup)
    try:
        content = skeleton.read_bytes()
    except OSError as error:
        raise UserError(f"{skeleton}: cannot be read: {error.strerror}") from None
    try:
        return operator_strategy_json(content, setup)
    except UserError as error:
        raise UserError(f"{skeleton}: {error}") from None


def mindspore_files(setup: Setup) -> dict[str, str | bytes]:
    """Return layouts of parameters and strategies of operators, a file a pipeline stage. Raises UserError for what
    MindSpore does not carry out, such as another network."""
    from parallel_strategy.mindspore import strategy_file
    from parallel_strategy.mindspore.limits import check_supported

    check_supported(setup)
    files: dict[str, str | bytes] = {}
    for stage in range(setup.strategy.mesh.pp):
        files[f"parameters/strategy_{stage}.ckpt"] = strategy_file.parameter_strategy_protobuf(setup, stage)
        files[f"operators/by_parameter_{stage}.json"] = strategy_file.parameter_named_json(setup, stage)
    return files


def write(exported: Exported, out: Path) -> None:
    """Write every file, each whole or not at all. They are not synced, for there are thousands, and all can be written
    again."""
    for name, content in exported.files.items():
        write_whole(out / name, content, is_synced=False)
