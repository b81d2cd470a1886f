"""Read the files of evaluation sets: a function for each form, from a file to documents.

A document has fields for the template and what is right: the number of a candidate, answers, or a candidate for each
blank. A file or record of another form is one line: file, line or record, and the fields that were expected.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pangu.foundation.best_effort import reason_of
from pangu.foundation.errors import UserError
from pangu.foundation.json_text import check_value, loads
from pangu.foundation.plain_text import read_plain

BLANK = re.compile(r"\[BLANK(\d+)\]")
GAP = "XXXXX"


@dataclass(frozen=True)
class Document:
    """candidates: labels, or texts of the document's own. gold: the right one's number (choice).

    answers: what a generated text is compared with. group: documents that are scored together, such as the blanks of a
    passage.
    """

    id: str
    fields: Mapping[str, str]
    candidates: tuple[str, ...] = ()
    gold: int | None = None
    answers: tuple[str, ...] = ()
    group: str | None = None

    @property
    def label(self) -> str:
        """Return the right candidate's text."""
        assert self.gold is not None
        return self.candidates[self.gold]


def read_text(path: Path) -> str:
    """Read a UTF-8 file. Raises UserError."""
    try:
        return read_plain(path).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read as UTF-8: {reason_of(error)}") from None


def records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (place, record) of a JSON list, or of a file with an object a line. Raises UserError."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        try:
            rows = loads(text)
        except ValueError as error:
            raise UserError(f"{path}: is not JSON: {error}") from None
        for number, row in enumerate(rows, 1):
            check_value(row, f"{path}: record {number}")
            yield f"{path}: record {number}", row
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = loads(line)
            except ValueError as error:
                raise UserError(f"{path}:{number}: is not JSON: {error}") from None
            check_value(row, f"{path}:{number}")
            yield f"{path}:{number}", row


def whole(path: Path) -> Any:
    """Return the JSON value of a file. Raises UserError."""
    try:
        value = loads(read_text(path))
    except ValueError as error:
        raise UserError(f"{path}: is not JSON: {error}") from None
    check_value(value, str(path))
    return value


class Expected:
    """Turn what a record of another form raises into one line that names the fields."""

    def __init__(self, place: str, fields: str) -> None:
        self.place, self.fields = place, fields

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, KeyError | TypeError | ValueError | IndexError | AttributeError | StopIteration):
            raise UserError(f"{self.place}: is not of the expected form; expected {self.fields}") from None


def said(value: Any) -> str:
    """Return a text, or a number or a truth value as text. Raises TypeError: null, a list or a mapping says nothing."""
    if isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    raise TypeError


def sentence_pairs(path: Path) -> Iterator[Document]:
    """Read CLUE's {sentence1, sentence2, label} or {text_a, text_b, label}; items labelled `-` are left out."""
    for place, row in records(path):
        with Expected(place, "sentence1, sentence2, label (or text_a, text_b, label)"):
            first, second = ("text_a", "text_b") if "text_a" in row else ("sentence1", "sentence2")
            label = said(row["label"])
            fields = {"S1": said(row[first]), "S2": said(row[second]), "label": label}
        if label != "-":
            yield Document(str(row.get("id", row.get("idx", place))), fields, (label,), 0)


def labelled_texts(path: Path) -> Iterator[Document]:
    """Read {sentence, label_des | label_desc, label} or {text_a, label}: TNEWS and IFLYTEK."""
    for place, row in records(path):
        with Expected(place, "sentence and label_des or label_desc (or text_a, label)"):
            text = row["sentence"] if "sentence" in row else row["text_a"]
            label = said(row.get("label_des") or row.get("label_desc") or row["label"])
            fields = {"p": said(text), "label": label}
        yield Document(str(row.get("id", place)), fields, (label,), 0)


def keywords(path: Path) -> Iterator[Document]:
    """Read CSL's {abst, keyword: [..], label: 0 | 1}."""
    for place, row in records(path):
        with Expected(place, "abst, keyword (a list) and label"):
            words = [said(word) for word in row["keyword"]]
            if isinstance(row["keyword"], str):
                raise TypeError
            label = str(int(row["label"]))
            fields = {"p": said(row["abst"]), "k": "，".join(words), "k_ascii": ",".join(words), "label": label}
        yield Document(str(row.get("id", place)), fields, (label,), 0)


def pronouns(path: Path) -> Iterator[Document]:
    """Read CLUEWSC2020: does the pronoun (span 2) mean the noun (span 1)? `replaced` has the noun in its place."""
    for place, row in records(path):
        with Expected(place, "text, target.span1_text, target.span2_text, target.span2_index, label"):
            target, text = row["target"], said(row["text"])
            start, pronoun = int(target["span2_index"]), said(target["span2_text"])
            if text[start : start + len(pronoun)] != pronoun:
                start = text.index(pronoun)
            noun, label = said(target["span1_text"]), said(row["label"]).lower()
            before, after = text[:start], text[start + len(pronoun) :]
            fields = {"text": text, "S1": noun, "S2": pronoun, "before": before, "after": after, "label": label}
        yield Document(str(row.get("idx", row.get("id", place))), fields, (label,), 0)


def idioms(path: Path) -> Iterator[Document]:
    """Read CHID: FewCLUE's {content with #idiom#, candidates, answer}, or the official with an answer file beside it.

    The official file has numbered blanks and a .json or .csv beside it, `NAME_answer.*`, from blank to candidate.
    """
    answers = _chid_answers(path)
    for place, row in records(path):
        with Expected(place, "content, candidates and answer"):
            content, candidates = row["content"], tuple(said(one) for one in row["candidates"])
            texts = [content] if isinstance(content, str) else [said(one) for one in content]
            for number, text in enumerate(texts):
                for blank in re.finditer(r"#idiom\d*#", text):
                    gold = int(row["answer"]) if "answer" in row else int(answers[blank.group()])
                    _ = candidates[gold]
                    before, after = text[: blank.start()], re.sub(r"#idiom\d*#", "", text[blank.end() :])
                    before = re.sub(r"#idiom\d*#", "", before)
                    fields = {"before": before, "after": after}
                    yield Document(f"{row.get('id', place)}-{number}-{blank.group()}", fields, candidates, gold)


def _chid_answers(path: Path) -> dict[str, int]:
    for suffix in (".json", ".csv"):
        beside = path.with_name(f"{path.stem}_answer{suffix}")
        if beside.is_file() and suffix == ".json":
            return {str(key): int(value) for key, value in whole(beside).items()}
        if beside.is_file():
            rows = (line.split(",") for line in read_text(beside).split("\n") if line.strip())
            return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].strip().isdigit()}
    return {}


def sentence_cloze(path: Path) -> Iterator[Document]:
    """Read CMRC2019: a document for each blank, with 300 characters before it and 200 behind; other blanks are cut."""
    data = whole(path)
    with Expected(str(path), "data: [{context with [BLANK1].., choices, answers}]"):
        passages = list(data["data"])
    for row in passages:
        with Expected(f"{path}: {row.get('context_id', '?')}", "context with [BLANK1].., choices, answers"):
            context, choices = said(row["context"]), tuple(said(one) for one in row["choices"])
            blanks = list(BLANK.finditer(context))
            answers = [int(answer) for answer in row["answers"]]
            for blank in blanks:
                gold = answers[int(blank.group(1)) - 1]
                _ = choices[gold]
                before = BLANK.sub("", context[: blank.start()])[-300:]
                after = BLANK.sub("", context[blank.end() :])[:200]
                name = said(row["context_id"])
                yield Document(f"{name}-{blank.group(1)}", {"before": before, "after": after}, choices, gold, (), name)


def dialogues(path: Path) -> Iterator[Document]:
    """Read C3: [[lines], [{question, choice, answer}], id]."""
    for place, row in records(path):
        with Expected(place, "[[lines], [{question, choice, answer}], id]"):
            lines, questions, name = row
            for number, one in enumerate(questions):
                choices = tuple(said(choice) for choice in one["choice"])
                fields = {"P": "\n".join(map(said, lines)), "Q": said(one["question"])}
                yield Document(f"{name}-{number}", fields, choices, choices.index(said(one["answer"])))


def reading(path: Path) -> Iterator[Document]:
    """Read SQuAD's form: CMRC2018, DRCD; or CURC's {text_a: passage, text_b: question, label: answer}."""
    if read_text(path).lstrip().startswith("["):
        for place, row in records(path):
            with Expected(place, "text_a (passage), text_b (question), label (answer)"):
                fields = {"D": said(row["text_a"]), "Q": said(row["text_b"])}
                yield Document(str(row.get("id", place)), fields, answers=(said(row["label"]),))
        return
    data = whole(path)
    with Expected(str(path), "data: [{paragraphs: [{context, qas: [{id, question, answers: [{text}]}]}]}]"):
        for article in data["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers = tuple(dict.fromkeys(said(answer["text"]) for answer in question["answers"]))
                    fields = {"D": said(paragraph["context"]), "Q": said(question["question"])}
                    yield Document(said(question["id"]), fields, answers=answers)


def search_reading(path: Path) -> Iterator[Document]:
    """Read DuReader: {documents: [{paragraphs, is_selected, most_related_para}], question, answers}; else `reading`.

    The passage is the most related paragraph of the first document that was selected.
    """
    if read_text(path).lstrip().startswith("["):
        yield from reading(path)
        return
    for place, row in records(path):
        with Expected(place, "question, answers, documents: [{paragraphs, is_selected, most_related_para}]"):
            answers = tuple(answer for answer in map(said, row["answers"]) if answer.strip())
            chosen = next((one for one in row["documents"] if one.get("is_selected")), row["documents"][0])
            paragraph = said(chosen["paragraphs"][int(chosen.get("most_related_para", 0))])
            question = said(row["question"])
        if answers:
            yield Document(str(row.get("question_id", place)), {"D": paragraph, "Q": question}, answers=answers)


def questions(path: Path) -> Iterator[Document]:
    """Read WebQA's {id: {question, evidences: {..: {answer: [..], evidence}}}}."""
    data = whole(path)
    with Expected(str(path), "{id: {question, evidences: {id: {answer: [..]}}}}"):
        for name, row in data.items():
            found = [said(answer) for one in row["evidences"].values() for answer in one["answer"]]
            answers = tuple(dict.fromkeys(answer for answer in found if answer != "no_answer"))
            yield Document(str(name), {"Q": said(row["question"])}, answers=answers or ("no_answer",))


def cloze(path: Path) -> Iterator[Document]:
    """Read PD, CFT and CMRC2017: numbered lines of words, the last with a gap `XXXXX` and, behind `|||`, the answer.

    CMRC2017's answers stand in a file beside it, `NAME.answer` for `NAME.doc_query`. `before`: the passage, then the
    question up to the gap. `moved`: as the released code orders it, the gap's line and the two before it at the end.
    """
    beside = path.with_suffix(".answer") if path.suffix == ".doc_query" else None
    told = [line.split("|||")[-1] for line in read_text(beside).split("\n") if line.strip()] if beside else []
    lines: list[str] = []
    count = 0
    for number, line in enumerate(read_text(path).split("\n"), 1):
        parts = [part.strip() for part in line.split("|||")]
        if len(parts) < 2:
            if line.strip():
                raise UserError(
                    f"{path}:{number}: is not of the expected form; expected `n ||| words` with a gap {GAP}"
                )
            continue
        text = "".join(parts[1].split(" "))
        if parts[0] == "1" and lines:
            lines = []
        if len(parts) == 2 and not (parts[0].startswith("<qid") and GAP in text):
            lines.append(text)
            continue
        with Expected(f"{path}:{number}", f"a question with a gap {GAP} and its answer (or an .answer file)"):
            answer = "".join((parts[2] if len(parts) > 2 and parts[2] else told[count]).split())
            before_gap = text[: text.index(GAP)]
        yield Document(f"{path.stem}-{count}", _cloze_fields(lines, text, before_gap), answers=(answer,))
        count, lines = count + 1, []


def _cloze_fields(lines: list[str], question: str, before_gap: str) -> dict[str, str]:
    passage = "".join(lines)
    gap_line = next((i for i, line in enumerate(lines) if GAP in line), None)
    moved = passage + before_gap
    if gap_line is not None:
        first = max(0, gap_line - 2)
        moved = "".join(lines[:first] + lines[gap_line + 1 :] + lines[first:gap_line])
        moved += lines[gap_line][: lines[gap_line].index(GAP)]
    after = question[len(before_gap) + len(GAP) :]
    return {"before": passage + before_gap, "passage": passage, "question": question, "moved": moved, "after": after}


def last_words(path: Path) -> Iterator[Document]:
    """Read WPLC's {masked_text with <mask> at the end, correct_word}."""
    for place, row in records(path):
        with Expected(place, "masked_text (or text) with <mask>, correct_word"):
            text = said(row["masked_text"] if "masked_text" in row else row["text"])
            word = row["correct_word"]
            answer = said(word[0] if isinstance(word, list) else word)
            before = text[: text.index("<mask>")]
        yield Document(str(row.get("id", place)), {"before": before}, (answer,), 0, (answer,))


FORMS: dict[str, Callable[[Path], Iterator[Document]]] = {
    "cloze": cloze,
    "dialogues": dialogues,
    "idioms": idioms,
    "keywords": keywords,
    "labelled_texts": labelled_texts,
    "last_words": last_words,
    "pronouns": pronouns,
    "questions": questions,
    "reading": reading,
    "search_reading": search_reading,
    "sentence_cloze": sentence_cloze,
    "sentence_pairs": sentence_pairs,
}
