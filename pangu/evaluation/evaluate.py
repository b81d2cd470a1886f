"""Run tasks over a model: a JSON line for each document, a score with its standard error for each metric.

What is done is on the disk, block by block, and is not done again: a run that was interrupted goes on where it was. The
file of a task begins with what its answers depend on; where that has changed, the task begins anew.
"""

import json
import math
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pangu.checkpoint.description import digest_of
from pangu.checkpoint.open import file_digest
from pangu.evaluation import metrics, requests
from pangu.evaluation.document_forms import Document
from pangu.evaluation.published import published
from pangu.evaluation.task import Generation, Task, TaskTemplate, load_task, task_names
from pangu.foundation.atomic_file import write_whole
from pangu.foundation.errors import UserError, WriteError
from pangu.foundation.json_text import dumps
from pangu.foundation.lock import Lock
from pangu.foundation.progress import Progress
from pangu.generation.fill import fill, score_between
from pangu.generation.likelihood import Scored
from pangu.generation.speculation import common

if TYPE_CHECKING:
    from pangu.language_model import LanguageModel

BLOCK = 16  # documents that are asked together, and lost at most
PERCENT = 100.0


@dataclass(frozen=True)
class Setting:
    """How a task is asked. shots: zero, one, few or a number.

    limit: so many documents, drawn by the seed; None: all.
    """

    shots: str = "zero"
    variant: str = "paper"
    limit: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Score:
    """The result of a task. Scores and standard errors are in percent, but for perplexities."""

    task: str
    title: str
    version: int
    setting: Setting
    shot_count: int
    documents: int
    scores: dict[str, float]
    standard_errors: dict[str, float]
    chance: float | None
    majority: float | None
    comparable: bool
    note: str
    cut: int
    seconds: float
    file: str
    paper: dict[str, dict[str, float]] = field(default_factory=dict)
    clean: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return every figure by name."""
        return asdict(self)


def evaluate(
    model: "LanguageModel | Path | str",
    tasks: Sequence[str] | str = "all",
    *,
    data: Path | str,
    out: Path | str | None = None,
    shots: str | int = "zero",
    variant: str = "paper",
    limit: int | None = None,
    seed: int = 0,
    corpus: Path | str | None = None,
) -> list[Score]:
    """Evaluate a model on tasks and return their scores, in the order of the tasks.

    tasks: names, YAML files of one's own, or "all": those whose data are in the folder. data: a folder of evaluation
    sets (or one file, for one task). out: the folder for answers and report; None: beside a run, else `evaluation`.
    corpus: a corpus that was decontaminated against these sets: its hits are reported, and scores without them.
    Raises UserError in one line.
    """
    from pangu.language_model import LanguageModel, load

    if not isinstance(model, LanguageModel):
        model = load(model)
    setting = checked(Setting(str(shots), variant, limit, seed))
    data, chosen = Path(data), chosen_tasks(tasks, Path(data))
    if data.is_file() and len(chosen) > 1:
        raise UserError(f"{data}: one file is for one task, not for {len(chosen)}; give a folder")
    folder = Path(out) if out else default_folder(model)
    folder.mkdir(parents=True, exist_ok=True)
    hits = hits_of(Path(corpus)) if corpus else None
    with Lock(folder / "lock", f"{folder}: another evaluation writes here; wait for it, or give another --out"):
        scores = [run_task(model, task, data, folder, setting, hits) for task in chosen]
        write_whole(folder / "scores.json", dumps([score.to_dict() for score in scores], indent=1) + "\n")
    return scores


def checked(setting: Setting) -> Setting:
    """Raise UserError for a setting that means nothing."""
    if setting.shots not in ("zero", "one", "few") and not setting.shots.isdigit():
        raise UserError(f"shots = {setting.shots!r}: must be zero, one, few or a whole number")
    if setting.limit is not None and not isinstance(setting.limit, int):
        raise UserError(f"limit = {setting.limit!r}: must be a whole number")
    if setting.limit is not None and setting.limit < 1:
        raise UserError(f"limit = {setting.limit}: must be at least 1")
    return setting


def chosen_tasks(tasks: Sequence[str] | str, data: Path) -> list[Task]:
    """Return the tasks of a list of names; "all" are those whose data are there. Raises UserError."""
    names = [tasks] if isinstance(tasks, str) and tasks != "all" else list(tasks)
    if tasks == "all" or names == ["all"]:
        if data.is_file():
            raise UserError(f"{data}: say which task a single file is for: {', '.join(task_names())}")
        loaded = [load_task(name) for name in task_names()]
        chosen = [task for task in loaded if requests.find_files(data, task.files)]
        if not chosen:
            raise UserError(f"{data}: has no evaluation set of these tasks: {', '.join(task_names())}")
        return chosen
    return [load_task(name) for name in dict.fromkeys(names)]


def default_folder(model: "LanguageModel") -> Path:
    """Return where results go: into the run that the model is from, else `evaluation` here."""
    path = Path(model.source)
    return path / "evaluation" if model.source and path.is_dir() else Path("evaluation")


def run_task(
    model: "LanguageModel", task: Task, data: Path, folder: Path, setting: Setting, hits: "Hits | None"
) -> Score:
    """Ask every document of a task that has not been asked yet, and score all of them."""
    template = task.template(setting.variant)
    documents, files = requests.load_documents(task, data)
    documents = limited(documents, setting.limit, setting.seed)
    count = task.shot_count(setting.shots)
    source = requests.load_shots(task, template, data, count)
    said = {
        "task": task.name,
        "version": task.version,
        "asked": digest_of(task.model_dump(mode="json", exclude={"title", "note", "files", "variants", "metrics"})),
        "metrics": list(task.metrics),
        "template": template.model_dump(mode="json"),
        "shots": count,
        "seed": setting.seed,
        "data": digests_of(files),
        "shots_from": digests_of(requests.find_files(data, task.shot_files) if count else []),
        "model": identity(model),
    }
    path = folder / f"{task.name}-{setting.shots}-{setting.variant}.jsonl"
    rows, started = earlier(path, said), time.monotonic()
    missing = [one for one in documents if one.id not in rows]
    try:
        with (
            Progress(task.name, len(documents), unit="documents", done=len(documents) - len(missing)) as progress,
            path.open("a", encoding="utf-8") as file,
        ):
            if not rows and not path.stat().st_size:
                file.write(dumps({"run": said}, ensure_ascii=False) + "\n")
            for start in range(0, len(missing), BLOCK):
                block = missing[start : start + BLOCK]
                shots = [requests.draw_shots(task, source, one, count, setting.seed) for one in block]
                for row in ask(model, task, template, block, shots, setting.seed):
                    rows[row["id"]] = row
                    file.write(dumps(row, ensure_ascii=False) + "\n")
                file.flush()
                progress.advance(len(block))
    except OSError as error:
        if error.filename is not None:
            raise
        raise WriteError(path, error) from None
    return scored(task, setting, documents, rows, path, time.monotonic() - started, hits)


def digests_of(files: Sequence[Path]) -> list[list[str]]:
    """Return the name and the digest of each file: answers to other documents are not these ones' answers."""
    return [[path.name, file_digest(path)] for path in files]


def limited(documents: list[Document], limit: int | None, seed: int) -> list[Document]:
    """Return documents drawn by the seed, in their order; passages whose blanks are scored together stay whole."""
    if limit is None or len(documents) <= limit:
        return documents
    groups = list(dict.fromkeys(one.group or one.id for one in documents))
    sizes = Counter(one.group or one.id for one in documents)
    chosen, count = set(), 0
    for group in random.Random(f"{seed} limit").sample(groups, len(groups)):
        if count >= limit:
            break
        chosen.add(group)
        count += sizes[group]
    return [one for one in documents if (one.group or one.id) in chosen]


def identity(model: "LanguageModel") -> dict[str, str]:
    """Return digests of what the answers depend on: weights, network and tokenizer."""
    from pangu.checkpoint.contents import contents_of
    from pangu.checkpoint.open import meant_checkpoint

    own = {"network": json.dumps(model.config.model_dump(mode="json"), sort_keys=True)}
    own["tokenizer"] = model.tokenizer.fingerprint
    if not model.source:
        return own
    return own | {"weights": contents_of(meant_checkpoint(Path(model.source)), model.base, None)["weights"]}


def earlier(path: Path, said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the rows that an earlier run left, by document; none where it asked something else.

    A last line that was cut off is dropped from the file.
    """
    if not path.is_file():
        return {}
    rows: dict[str, dict[str, Any]] = {}
    kept: list[bytes] = []
    for number, line in enumerate(path.read_bytes().split(b"\n")):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if number == 0 and row.get("run") != said:
            break
        kept.append(line)
        if number:
            rows[row["id"]] = row
    write_whole(path, b"".join(line + b"\n" for line in kept))
    return rows


def ask(
    model: "LanguageModel",
    task: Task,
    template: TaskTemplate,
    documents: Sequence[Document],
    shots: Sequence[Sequence[Document]],
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Yield a row for each document."""
    before = [
        "".join(requests.shot_text(task, template, shot) + template.separator for shot in drawn) for drawn in shots
    ]
    if task.method == "choice":
        yield from ask_choices(model, template, documents, shots, before)
    else:
        yield from ask_texts(model, task, template, documents, shots, before, seed)


def ask_choices(
    model: "LanguageModel",
    template: TaskTemplate,
    documents: Sequence[Document],
    shots: Sequence[Sequence[Document]],
    before: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """Score the candidates of documents."""
    choices = [requests.choice_of(template, one, text) for one, text in zip(documents, before, strict=True)]
    results = iter(score_choices(model, template, choices))
    alone = iter(score_rows(model, [row for choice in choices for row in rows_of(model, choice.unconditional)]))
    for choice, drawn in zip(choices, shots, strict=True):
        own = [next(results) for _ in choice.pairs]
        totals = [scored.total for scored, _ in own]
        tokens = [len(scored.log_probabilities) for scored, _ in own]
        unconditional = [next(alone).total for _ in choice.unconditional] or None
        yield {
            "id": choice.document.id,
            "context": choice.pairs[choice.gold][0],
            "scored": [scored for _, scored in choice.pairs],
            "labels": list(choice.labels),
            "totals": totals,
            "tokens": tokens,
            "gold": choice.gold,
            "chosen": metrics.choose(totals, tokens, [pair[1] for pair in choice.pairs], unconditional),
            "group": choice.document.group,
            "shots": [shot.id for shot in drawn],
            "cut": sum(cut for _, cut in own),
        }


def score_choices(
    model: "LanguageModel", template: TaskTemplate, choices: Sequence[requests.Choice]
) -> list[tuple[Scored, bool]]:
    """Return for each candidate its score and whether its sides were cut to the context."""
    if not template.behind:
        rows = [row for choice in choices for row in rows_of(model, choice.pairs)]
        return [(scored, row.is_cut) for scored, row in zip(score_rows(model, rows), rows, strict=True)]
    parts = [
        (context, scored, behind)
        for choice in choices
        for (context, scored), behind in zip(choice.pairs, choice.behind, strict=True)
    ]
    given = [sum(len(model.ids(text)) for text in part) for part in parts]
    asked_ids = [model.between(*part) for part in parts]
    found = score_between(model.generator, asked_ids)
    return [
        (scored, len(one.left) + len(one.middle) + len(one.right) < count)
        for scored, one, count in zip(found, asked_ids, given, strict=True)
    ]


@dataclass(frozen=True)
class ScoredRow:
    """Ids that are read: a context, and what stands behind it, whose first `unscored` ids are not scored."""

    context: list[int]
    rest: list[int]
    unscored: int
    is_cut: bool


def rows_of(model: "LanguageModel", pairs: Sequence[tuple[str, str]]) -> list[ScoredRow]:
    """Return the rows of a document's candidates, each (context, scored part).

    Candidates behind the same text read the same context, cut from its left for the longest of them: it is read once,
    and none has more to go by than another. A scored part that is longer than the model's context loses its right end.
    """
    parts = [ids_of(model, *pair) for pair in pairs]
    most = model.config.seq_length + 1
    rows = []
    for (context, _), (first, second) in zip(pairs, parts, strict=True):
        alike = [other for (text, _), other in zip(pairs, parts, strict=True) if context and text == context]
        # Where a candidate's first word takes letters of the context, the contexts' ids end differently.
        shared = min((common(first, other) for other, _ in alike), default=0) or len(first)
        longest = max((len(other) - shared + len(scored) for other, scored in alike), default=len(second))
        kept = first[:shared][-max(1, most - longest) :]
        rest = [*first[shared:], *second]
        fitting = rest[: most - len(kept)]
        rows.append(ScoredRow(kept, fitting, len(first) - shared, len(kept) < shared or len(fitting) < len(rest)))
    return rows


def ids_of(model: "LanguageModel", context: str, scored: str) -> tuple[list[int], list[int]]:
    """Return the ids of a context and of its scored part.

    Without a context the first token of the row is one: nothing stands before it that could predict it.
    """
    if context:
        return model.parts(context, scored)
    ids = model.ids(scored)
    if len(ids) < 2:
        raise UserError(f"{scored!r} has {len(ids)} tokens; a row needs two, since its first one is not scored")
    return ids[:1], ids[1:]


def score_rows(model: "LanguageModel", rows: Sequence[ScoredRow]) -> list[Scored]:
    """Return the scores of rows, of what is scored alone."""
    found = model.log_likelihood([(row.context, row.rest) for row in rows])
    return [
        replace(one, log_probabilities=one.log_probabilities[row.unscored :])
        for one, row in zip(found, rows, strict=True)
    ]


def ask_texts(
    model: "LanguageModel",
    task: Task,
    template: TaskTemplate,
    documents: Sequence[Document],
    shots: Sequence[Sequence[Document]],
    before: Sequence[str],
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Let the model answer."""
    assert task.generation is not None
    generation = task.generation
    if template.behind:
        generation = generation.model_copy(update={"as_long_as_gold": True})
    prompts = [
        text + requests.filled(template.context, one.fields) for one, text in zip(documents, before, strict=True)
    ]
    lengths = [
        max(len(model.ids(answer)) for answer in one.answers)
        if generation.as_long_as_gold
        else generation.max_new_tokens
        for one in documents
    ]
    most = model.config.seq_length
    if template.behind:
        behind = [requests.filled(template.behind, one.fields) for one in documents]
        filled = [filled_gap(model, *one, seed) for one in zip(prompts, behind, lengths, strict=True)]
        texts, cut = [text for text, _ in filled], [is_cut for _, is_cut in filled]
    else:
        texts = answers_of(model, generation, prompts, lengths, seed)
        cut = [len(model.ids(one)) + length > most + 1 for one, length in zip(prompts, lengths, strict=True)]
    for number, (one, drawn) in enumerate(zip(documents, shots, strict=True)):
        scores = {name: metrics.GENERATED[name](one.answers, texts[number]) for name in task.metrics}
        yield {
            "id": one.id,
            "context": prompts[number],
            "text": texts[number],
            "answers": list(one.answers),
            "scores": scores,
            "group": None,
            "shots": [shot.id for shot in drawn],
            "cut": int(cut[number]),
        }


def answers_of(
    model: "LanguageModel", generation: Generation, prompts: Sequence[str], lengths: Sequence[int], seed: int
) -> list[str]:
    """Continue prompts, each by its own number of tokens; those of one number together."""
    texts = [""] * len(prompts)
    for length in sorted(set(lengths)):
        numbers = [number for number, own in enumerate(lengths) if own == length]
        options: dict[str, Any] = {
            "max_new_tokens": min(length, model.config.seq_length - 1),
            "temperature": generation.temperature,
            "top_k": generation.top_k,
            "top_p": generation.top_p,
            "seed": seed,
            "overflow": "truncate",
            "stop_strings": tuple(generation.cut_at),
        }
        found = model.generate([prompts[number] for number in numbers], **options)
        for number, text in zip(numbers, found, strict=True):
            texts[number] = text
    return texts


def filled_gap(model: "LanguageModel", left: str, right: str, length: int, seed: int) -> tuple[str, bool]:
    """Return the likeliest tokens, from the left, of a gap of `length` tokens between two texts; and what was cut.

    Of a gap that is longer than the context, so many tokens are filled as fit.
    """
    before, behind, fitting = model.ids(left), model.ids(right), min(length, model.config.seq_length - 1)
    one = model.between(before, [0] * fitting, behind)
    known = [*one.left, *(None for _ in range(fitting)), *one.right]
    ids = fill(model.generator, known, model.options({"temperature": 0.0, "seed": seed}), "left").ids
    text = model.tokenizer.decode(ids[len(one.left) : len(one.left) + fitting])
    return text, fitting < length or len(one.left) < len(before) or len(one.right) < len(behind)


@dataclass(frozen=True)
class Hits:
    """What decontamination found of evaluation sets in a corpus: the passages, without white space."""

    passages: frozenset[str]

    def has(self, document: Document) -> bool:
        """Return whether a passage of the document stood in the corpus."""
        text = "".join("".join([*document.fields.values(), *document.answers]).split())
        return any(passage in text for passage in self.passages)


def hits_of(corpus: Path) -> Hits:
    """Read `decontamination/hits.jsonl` of a corpus. Raises UserError where there is none."""
    path = next((one for one in (corpus / "decontamination/hits.jsonl", corpus / "hits.jsonl") if one.is_file()), None)
    if path is None:
        raise UserError(f"{corpus}: has no decontamination/hits.jsonl; run the stage decontaminate with these sets")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return Hits(frozenset("".join(str(row["corpus_text"]).split()) for row in rows if row["counts"]))


def scored(
    task: Task,
    setting: Setting,
    documents: Sequence[Document],
    rows: dict[str, dict[str, Any]],
    path: Path,
    seconds: float,
    hits: Hits | None,
) -> Score:
    """Sum rows up to a task's score."""
    own = [rows[one.id] for one in documents]
    values = values_of(task, own)
    scores = {name: PERCENT * sum(found) / len(found) for name, found in values.items()}
    errors = {name: PERCENT * metrics.standard_error(found) for name, found in values.items()}
    if "perplexity" in task.metrics:
        nats = -sum(row["totals"][row["gold"]] for row in own)
        scores["perplexity"] = math.exp(nats / sum(row["tokens"][row["gold"]] for row in own))
    chance = majority = None
    if task.method == "choice":
        chance = PERCENT * sum(1 / len(one.candidates) for one in documents) / len(documents)
        majority = PERCENT * majority_share(task, documents) or None
    clean = None
    if hits is not None:
        kept = [rows[one.id] for one in documents if not hits.has(one)]
        found_values = values_of(task, kept) if kept else {}
        clean = {name: PERCENT * sum(found) / len(found) for name, found in found_values.items()}
        clean["documents"] = len(kept)
    whole = setting.limit is None and task.official_count in (None, len(documents))
    shown = [task.metrics[0], *(name for name in scores if name != task.metrics[0])]
    return Score(
        task.name,
        task.title,
        task.version,
        setting,
        task.shot_count(setting.shots),
        len(documents),
        {name: scores[name] for name in shown},
        errors,
        chance,
        majority,
        whole and not task.note,
        task.note,
        sum(row["cut"] for row in own),
        seconds,
        path.name,
        {
            name: published(task.name, name, setting.shots)
            for name in shown
            if published(task.name, name, setting.shots)
        },
        clean,
    )


def majority_share(task: Task, documents: Sequence[Document]) -> float:
    """Return the share of the most frequent label; 0 where every document has candidates of its own."""
    if not task.words:
        return 0.0
    labels = [document.label for document in documents]
    return max(labels.count(label) for label in set(labels)) / len(labels)


def values_of(task: Task, rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Return for each metric what every document contributes."""
    if task.method == "generate":
        return {name: [row["scores"][name] for row in rows] for name in task.metrics}
    values: dict[str, list[float]] = {}
    for row in rows:
        for rule, chosen in row["chosen"].items():
            values.setdefault(rule, []).append(float(chosen == row["gold"]))
    if "qac" in task.metrics:
        values["qac"] = assigned(rows)
    return values


def assigned(rows: Sequence[dict[str, Any]]) -> list[float]:
    """Return for each blank whether it got its sentence, every sentence of a passage used once."""
    passages: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        passages.setdefault(row["group"], []).append(row)
    right: dict[str, float] = {}
    for blanks in passages.values():
        means = np.array([[total / count for total, count in zip(row["totals"], row["tokens"])] for row in blanks])
        for row, chosen in zip(blanks, metrics.assign(means), strict=True):
            right[row["id"]] = float(chosen == row["gold"])
    return [right[row["id"]] for row in rows]
