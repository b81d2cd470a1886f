"""Fine-tune a model: read records, train what the method says, and leave an adapter.

The same command goes on where an interrupted one stopped, and ends with the same bits: what is drawn is a function of
the seed and the step, and a checkpoint holds what is trained, its moments and the state. The base is never written to.

    OUT/states/step-00000050/       trained.safetensors  moments.safetensors  state.json
    OUT/rejects.jsonl               records that could not be used, with their reasons
    OUT/metrics.jsonl               a line a step
"""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pangu.checkpoint.weights import load_for_inference
from pangu.config import ModelConfig
from pangu.formats.model_metadata import metadata_of
from pangu.foundation.atomic_file import write_whole
from pangu.foundation.directory import make_directory
from pangu.foundation.errors import UserError
from pangu.foundation.json_text import dumps
from pangu.foundation.lock import Lock
from pangu.foundation.settings import nearest_name
from pangu.foundation.yaml_document import shown
from pangu.tuning import adapter_file
from pangu.tuning.teacher import load_teacher, student_of
from pangu.tuning.template import load_template
from pangu.tuning.training_rows import digest_of_rows, read_data
from pangu.tuning.tuning_settings import Settings

if TYPE_CHECKING:
    from pangu.tuning.tuning_run import Tuned

STUDENT = "student.safetensors"  # what a student that is made of the base begins with
COMPILED_METHODS = ("full", "lora", "bitfit")  # with compiled steps (`pangu.training.compiled`)
ROWS = 2  # how records become rows; 1: the first token of a text was not learnt


def finetune(
    base: Path | str,
    data: Sequence[Path | str] | Path | str,
    out: Path | str,
    settings: Settings | None = None,
    *,
    tokenizer: Path | str | None = None,
    device: str = "CPU",
    teacher: Path | str | None = None,
    **changes: Any,
) -> "Tuned":
    """Fine-tune `base` on records into the directory `out`. Raises UserError in one line.

    changes: fields of `Settings` to set otherwise, e.g. steps=100. teacher: for objective distill; None: the base, from
    which a student of `student_layers` is made.
    """
    from pangu.device import use_device
    from pangu.distributed.process_group import join, share_cores
    from pangu.tokenizer import Tokenizer

    out = Path(out)
    files = [Path(path) for path in ([data] if isinstance(data, str | Path) else data)]
    if not files:
        raise UserError("data = []: give at least one file of records")
    for name in changes:
        if name not in Settings.__dataclass_fields__:
            raise UserError(f"setting {name!r} is unknown{nearest_name(name, list(Settings.__dataclass_fields__))}")
    asked = replace(settings or Settings(), **changes)
    check_teacher(asked, teacher)
    share_cores()
    config, weights, place = load_for_inference(base, None, tokenizer)
    if place is None:
        raise UserError(f"{base}: no tokenizer lies beside it; give --tokenizer")
    known = Tokenizer.load(place)
    chosen = asked.checked(config)
    template = load_template(chosen.template)
    read = read_data(files, template, known, chosen)
    assert chosen.length is not None
    taught = None
    if chosen.objective == "distill":
        taught = load_teacher(teacher or base, config, known, chosen.length)
    if chosen.student_layers is not None:
        config, weights = student_of(config, weights, chosen.student_layers)
    use_device(device)
    world = join()
    if chosen.batch_size % (chosen.accumulate * world.size):
        raise UserError(
            f"batch_size = {chosen.batch_size}: must be a multiple of accumulate {chosen.accumulate} times "
            f"{world.size} processes"
        )
    said = {
        "base": str(base),
        "base_digest": adapter_file.digest_of(weights),
        "settings": asdict(chosen),
        "template": template.to_dict(),
        "data": [path.name for path in files],
        "rows": digest_of_rows(read),
        "rows_version": ROWS,
        "teacher_digest": adapter_file.digest_of(taught.weights) if taught else None,
    }
    computed = config.model_copy(update={"compute_dtype": chosen.precision, "dropout_rate": chosen.dropout})
    said["engine"] = engine_of(out, chosen, computed, device, world.size)
    make_directory(out)
    with contextlib.ExitStack() as stack:
        if world.is_first:  # the others write nothing
            place_taken = f"{out}: another process fine-tunes here; wait for it, or give another --out"
            stack.enter_context(Lock(out / "lock", place_taken))
            check_same(out, said)
        world.wait()
        if chosen.student_layers is not None:
            said["base"] = str(out / STUDENT)
            if world.is_first:
                adapter_file.save_tensors(out / STUDENT, weights, metadata_of(config, known.fingerprint))
        from pangu.tuning.tuning_run import Run, general_rows  # needs MindSpore

        general = general_rows(Path(base), chosen.length)
        run = Run(computed, weights, known, chosen, read, out, said, taught, world, general)
        tuned = run.finish(template, str(place))
        world.wait()
        return tuned


def check_teacher(settings: Settings, teacher: Path | str | None) -> None:
    """Raise UserError where a teacher is missing, or nobody listens to it."""
    if settings.objective != "distill":
        for name, value in (("teacher", teacher), ("student_layers", settings.student_layers)):
            if value is not None:
                raise UserError(f"{name} = {str(value)!r}: is for objective distill, not {settings.objective}")
    elif teacher is None and settings.student_layers is None:
        raise UserError("objective distill needs --teacher, or --student-layers for a student made of the base")


def engine_of(out: Path, settings: Settings, config: ModelConfig, device: str, processes: int) -> str:
    """Return what computes the steps of this start. Raises UserError where that was asked for and cannot be."""
    from pangu.training.choose_engine import reason_against, settle_engine

    reason = reason_against(config, device, processes)
    if settings.method not in COMPILED_METHODS:
        reason = f"method {settings.method} computes with MindSpore"
    elif settings.objective != "answers":
        reason = f"objective {settings.objective} computes with MindSpore"
    path = out / "finetune.json"
    began = adapter_file.read_json(path).get("engine", "mindspore") if path.is_file() else None
    return settle_engine(out, began, settings.engine, reason)


# Settings that may change: when it stops and what it writes; and what is compared by what it came to.
NOT_COMPARED = ("steps", "checkpoint_every", "validation", "engine", "template")


def contents(said: Any) -> Any:
    """Return what something says, without the name by which it goes: a template is its words."""
    return {name: value for name, value in said.items() if name != "name"} if isinstance(said, dict) else said


def check_same(out: Path, said: dict[str, Any]) -> None:
    """Note what a directory is for; raise UserError where it is for something else. `steps` may differ."""
    path = out / "finetune.json"
    if not path.is_file():
        write_whole(path, dumps(said, ensure_ascii=False, indent=1) + "\n")
        return
    before = adapter_file.read_json(path)
    if before.get("rows") != said["rows"] and before.get("rows_version", 1) < ROWS:
        raise UserError(
            f"{out}: was begun by a version that did not learn the first token of a text, or with other data; give "
            "another --out"
        )
    for name in ("base_digest", "template", "rows", "teacher_digest"):
        if contents(before.get(name)) != contents(said[name]):
            raise UserError(
                f"{out}: holds a fine-tuning with another {name.replace('_digest', '')}; give another --out"
            )
    # A setting that came later than the directory is as it was before there was a choice.
    theirs = json.loads(dumps(asdict(Settings()))) | before.get("settings", {})
    ours = json.loads(dumps(said["settings"]))
    for name in ours:
        if name not in NOT_COMPARED and theirs.get(name) != ours[name]:
            raise UserError(
                f"{out}: was begun with {name} {shown(theirs.get(name))}, not {shown(ours[name])}; give another --out"
            )
