"""Turn documents and shots into what is asked of a model: contexts with scored parts, or prompts."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pangu.evaluation.document_forms import FORMS, Document
from pangu.evaluation.task import Task, TaskTemplate
from pangu.foundation.errors import UserError

SAID = 200  # characters of a record in a message


@dataclass(frozen=True)
class Choice:
    """The candidates of a document, each as (context, scored part); labels in the words of the template.

    behind: for each candidate the text that is known behind its scored part.
    """

    document: Document
    labels: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    behind: tuple[str, ...]
    unconditional: tuple[tuple[str, str], ...]
    gold: int


def find_files(data: Path, patterns: Sequence[str]) -> list[Path]:
    """Return the files of the first pattern that matches below a folder, or the file that `data` is."""
    if data.is_file():
        return [data]
    for pattern in patterns:
        found = sorted(path for path in data.glob(pattern) if path.is_file())
        if found:
            return found
    return []


def load_documents(task: Task, data: Path) -> tuple[list[Document], list[Path]]:
    """Read a task's documents. Raises UserError where there are none, with what was looked for."""
    if not data.exists():
        raise UserError(f"{data}: no such file or directory; give the folder of the evaluation sets")
    files = find_files(data, task.files)
    if not files:
        raise UserError(f"{data}: has no file for task {task.name}; looked for {', '.join(task.files)}")
    documents = with_own_ids([document for path in files for document in FORMS[task.form](path)])
    if not documents:
        raise UserError(f"{files[0]}: holds no document for task {task.name}")
    if task.method == "generate" and not all(one.answers for one in documents):
        raise UserError(f"task {task.name}: form {task.form} has no answers; method choice fits it")
    if task.method == "choice" and any(one.gold is None for one in documents):
        raise UserError(f"task {task.name}: form {task.form} has no candidates; method generate fits it")
    return with_candidates(task, documents), files


def with_own_ids(documents: Sequence[Document]) -> list[Document]:
    """Give a document whose id another one has before it a number behind it: each is answered and scored by its id."""
    seen = Counter[str]()
    result = []
    for document in documents:
        seen[document.id] += 1
        count = seen[document.id]
        result.append(document if count == 1 else replace(document, id=f"{document.id} #{count}"))
    return result


def with_candidates(task: Task, documents: Sequence[Document]) -> list[Document]:
    """Give every document of a labelled set its candidates, in the template's words: all, or the right one and others.

    The others are drawn from the document's own text, so that one's candidates do not depend on the rest.
    """
    if task.method != "choice" or (not task.words and not task.candidates):
        return list(documents)
    words = list(dict.fromkeys(task.words.values())) or sorted({document.label for document in documents})
    if task.candidates > len(words):
        raise UserError(
            f"task {task.name}: candidates {task.candidates}: there are {len(words)} labels; nearest: {len(words)}"
        )
    return [with_labels(task, words, document) for document in documents]


def with_labels(task: Task, words: Sequence[str], document: Document) -> Document:
    """Return the document with candidates out of `words`. Raises UserError for a label that is none of them."""
    right = task.words.get(document.label, document.label)
    if right not in words:
        known = ", ".join(task.words or words)
        raise UserError(
            f"task {task.name}: document {document.id}: label {document.label!r} is unknown; known: {known}"
        )
    chosen = list(words)
    if task.candidates:
        draw = random.Random(f"{task.name} {document.id} {document.fields.get('p', '')[:SAID]}")
        chosen = [right, *draw.sample([one for one in words if one != right], task.candidates - 1)]
        draw.shuffle(chosen)
    return replace(document, candidates=tuple(chosen), gold=chosen.index(right))


def filled(text: str, fields: Mapping[str, str]) -> str:
    """Put a document's fields into a template. Raises UserError for a field that the document lacks."""
    try:
        return text.format_map(fields)
    except KeyError as error:
        raise UserError(
            f"template {text!r}: the documents have no field {error}; they have {', '.join(fields)}"
        ) from None


def choice_of(template: TaskTemplate, document: Document, shots: str) -> Choice:
    """Build the candidates of a document behind the text of its shots."""
    assert document.gold is not None
    labels = document.candidates
    pairs, behind, unconditional = [], [], []
    for label in labels:
        fields = {**document.fields, "choice": label}
        context, scored = filled(template.context, fields), filled(template.scored, fields)
        pairs.append((shots + context, scored))
        behind.append(filled(template.behind, fields))
        if template.unconditional is not None:
            unconditional.append((filled(template.unconditional, fields), scored))
    return Choice(document, labels, tuple(pairs), tuple(behind), tuple(unconditional), document.gold)


def shot_text(task: Task, template: TaskTemplate, document: Document) -> str:
    """Write a document with its answer, as the model sees a shot."""
    if task.method == "generate":
        return "".join(
            (filled(template.context, document.fields), document.answers[0], filled(template.behind, document.fields))
        )
    fields = {**document.fields, "choice": document.label}
    return "".join(filled(part, fields) for part in (template.context, template.scored, template.behind))


def load_shots(task: Task, template: TaskTemplate, data: Path, count: int) -> list[Document]:
    """Return documents that are short enough to be shots. Raises UserError where there are too few."""
    if not count:
        return []
    files = [] if data.is_file() else find_files(data, task.shot_files)
    if not files:
        looked = ", ".join(task.shot_files) or "nothing: the task names no source of shots"
        raise UserError(
            f"{data}: has no file to draw {count} shots of {task.name} from; looked for {looked}; use shots 0"
        )
    documents = with_candidates(task, [document for path in files for document in FORMS[task.form](path)])
    short = [one for one in documents if len(shot_text(task, template, one)) <= task.longest_shot]
    if len(short) <= count:
        raise UserError(
            f"{files[0]}: has {len(short)} documents of at most {task.longest_shot} characters; "
            f"{count} shots of {task.name} need {count + 1}"
        )
    return short


def draw_shots(task: Task, source: Sequence[Document], document: Document, count: int, seed: int) -> list[Document]:
    """Draw the shots of a document: never itself, the same for the same seed; labels in turns if the task says so."""
    if not count:
        return []
    draw = random.Random(f"{seed} {task.name} {document.id}")
    others = [one for one in source if one.fields != document.fields]
    if not task.is_balanced:
        return draw.sample(others, min(count, len(others)))
    by_label: dict[str, list[Document]] = {}
    for one in draw.sample(others, len(others)):
        by_label.setdefault(one.label, []).append(one)
    order = [label for label in dict.fromkeys(task.words.values()) if label in by_label] or sorted(by_label)
    chosen: list[Document] = []
    while len(chosen) < count and any(by_label.values()):
        chosen += [by_label[label].pop() for label in order if by_label[label]]
    return chosen[:count]
