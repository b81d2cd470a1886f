"""decontaminate: the text of evaluation sets out of the corpus.

GPT-3 (Brown et al. 2020, appendix C) looks for n-grams that a document shares with an evaluation set, cuts them out
with 200 characters on either side, drops a document that falls into too many pieces, and passes over n-grams that
many documents have. The same for Chinese, on characters:

1. A **hit** is a stretch of a document whose every n-gram (`gram` characters in normal form: letters and digits only,
   so that punctuation, spaces, width, case and traditional characters hide nothing) stands in an evaluation text.
   Hits with no more than BRIDGE characters between them are one.
2. N-grams in more than `maximum_documents` documents are dates, names of laws and licence lines: they make no hit,
   unless they are part of a stretch of `certain_characters`, which is nobody's name.
3. A document is contaminated by an evaluation text if a hit is `single_characters` long or covers the whole text, or
   if there are `minimum_hits` hits of the same text. Weaker hits are reported and left.
4. `cut` removes each such hit and up to `margin` characters on either side, ending where a sentence ends; a document
   with more than `maximum_spans` of these, or of which nothing is left, is dropped. `drop` drops every contaminated
   document.

Every hit, also one that was left, is a line of `decontamination/hits.jsonl` with both contexts;
`decontamination/summary.json` counts them by evaluation set. Near-duplicates should be gone before: a leaked text in
many copies looks like a licence line (rule 2 catches the long ones)."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from data_pipeline import record
from data_pipeline.engine.relational import connect, sql_string
from data_pipeline.engine.run_files import checksum
from data_pipeline.engine.steps import Context, Global, GroupBy, Map, StageSettings
from data_pipeline.kernels import contamination
from data_pipeline.kernels.contamination import Placed
from data_pipeline.kernels.normal_form import normal_form_table
from data_pipeline.stages.decontaminate.evaluation_sets import EvaluationText, evaluation_files, read_evaluation_file
from pangu.foundation.errors import UserError

# hits so close together are one: about what an edited word leaves between them
BRIDGE = 10
CONTEXT_CHARACTERS = 60
SHOWN_CHARACTERS = 400

OCCURRENCES = pa.schema([("document", pa.int64()), ("gram", pa.int64())])
FREQUENT = pa.schema([("shard", pa.string()), ("gram", pa.int64()), ("documents", pa.int64())])
HITS = pa.schema(
    [
        ("doc_id", pa.uint64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("start", pa.int64()),  # characters of the document's text
        ("end", pa.int64()),
        ("cut_start", pa.int64()),  # what `cut` removes; null where the hit is left
        ("cut_end", pa.int64()),
        ("characters", pa.int64()),  # of the hit, in normal form
        ("counts", pa.bool_()),
        ("evaluation_set", pa.string()),
        ("evaluation_file", pa.string()),
        ("evaluation_place", pa.string()),
        ("corpus_before", pa.string()),
        ("corpus_text", pa.string()),
        ("corpus_after", pa.string()),
        ("evaluation_before", pa.string()),
        ("evaluation_text", pa.string()),
        ("evaluation_after", pa.string()),
    ]
)
SIGNALS = ("contaminated_hits", "contaminated_characters", "characters_cut")

_SENTENCE_END = re.compile(r"[。！？…；!?;\n]+[”’」』）)\"']*")
_BLANK_LINES = re.compile(r"\n{3,}")


class Settings(StageSettings):
    """The evaluation sets, what counts as a hit, and what is done."""

    evaluation: tuple[str, ...] = Field(
        default=(), description="evaluation sets: files, directories or globs, relative to the recipe (JSON, cloze, …)"
    )
    fields: tuple[str, ...] | None = Field(
        default=None, description="the keys or columns under which their texts stand; null: every string"
    )
    gram: int = Field(default=20, description="letters and digits of the shortest hit", ge=8, le=200)
    maximum_documents: int = Field(
        default=10, description="n-grams in more documents than this are nobody's: dates, names of laws", ge=1
    )
    certain_characters: int | None = Field(
        default=100, description="a stretch this long counts however many documents have it; null: never", ge=8
    )
    minimum_hits: int = Field(default=2, description="hits of one evaluation text that make a contamination", ge=1)
    single_characters: int = Field(default=30, description="a hit this long is one alone", ge=8)
    action: Literal["cut", "drop"] = Field(
        default="cut", description="cut: the hits with what stands around them; drop: the document"
    )
    margin: int = Field(default=100, description="characters cut on either side, to the end of a sentence", ge=0)
    maximum_spans: int = Field(default=3, description="a document with more to cut out is dropped", ge=0)

    def completed(self, seed: int, source_names: Sequence[str], base: Path) -> "Settings":
        """Return the evaluation sets at their places, which exist."""
        if not self.evaluation:
            raise UserError("decontaminate.evaluation: is empty; name the files or directories of evaluation sets")
        paths = tuple(str((base / Path(path).expanduser()).resolve()) for path in self.evaluation)
        evaluation_files(paths)
        return self.model_copy(update={"evaluation": paths})


class Hit(NamedTuple):
    """A stretch of a row of `Placed` that stands in an evaluation text; positions in normal form, `end` behind it."""

    start: int
    end: int
    text: int
    """Number of the evaluation text that its longest part is from."""
    text_position: int


@dataclass(frozen=True)
class Evaluation:
    """The n-grams of all evaluation sets, and for each the first place where it stands. Shared between processes by
    the file system."""

    gram: int
    wanted: np.ndarray  # uint64, sorted
    filled: np.ndarray  # uint64: bit map of `wanted`
    texts: np.ndarray  # int32: the text of each n-gram
    positions: np.ndarray  # int32: in the normal form of that text
    table: pa.Table  # set, file, place, text, characters (of its normal form)

    @classmethod
    def build(cls, texts: Sequence[EvaluationText], gram: int) -> "Evaluation":
        """Build it of texts in order: of equal n-grams the first counts."""
        column = pa.array([text.text for text in texts], pa.large_string())
        normal = contamination.placed(column, normal_form_table(True))
        hashes, places = contamination.grams(normal, gram)
        wanted, first = np.unique(hashes, return_index=True)
        places = places[first]
        rows = np.searchsorted(normal.offsets, places, side="right") - 1
        table = pa.table(
            {
                "set": pa.array([text.set_name for text in texts], pa.string()),
                "file": pa.array([text.file for text in texts], pa.string()),
                "place": pa.array([text.place for text in texts], pa.string()),
                "text": column,
                "characters": pa.array(np.diff(normal.offsets)),
            }
        )
        positions = (places - normal.offsets[rows]).astype(np.int32)
        return cls(gram, wanted, contamination.bit_map(wanted), rows.astype(np.int32), positions, table)

    def save(self, directory: Path) -> None:
        for name in ("wanted", "filled", "texts", "positions"):
            np.save(directory / f"{name}.npy", getattr(self, name))
        pq.write_table(self.table, directory / "texts.parquet", compression="zstd")
        (directory / "gram.txt").write_text(str(self.gram))

    @classmethod
    def load(cls, directory: Path) -> "Evaluation":
        arrays = {
            name: np.load(directory / f"{name}.npy", mmap_mode="r")
            for name in ("wanted", "filled", "texts", "positions")
        }
        gram = int((directory / "gram.txt").read_text())
        return cls(gram, table=pq.read_table(directory / "texts.parquet", memory_map=True), **arrays)


def read_evaluation(context: Context) -> dict[str, Any]:
    """Return the evaluation sets as n-grams. Files of a directory that are no text are passed over and counted."""
    settings: Settings = context.settings
    texts: list[EvaluationText] = []
    seen: set[str] = set()
    short = skipped = files = 0
    for file in evaluation_files(settings.evaluation):
        files += 1
        try:
            for text in read_evaluation_file(file, settings.fields):
                if text.text in seen:
                    continue
                seen.add(text.text)
                if len(text.text) < settings.gram:
                    short += 1
                else:
                    texts.append(text)
        except (ValueError, UserError) as error:
            if file.is_named:
                raise UserError(f"decontaminate.evaluation: {file.path}: {error}") from error
            skipped += 1
        context.progress(1, file.path.stat().st_size)
    evaluation = Evaluation.build(texts, settings.gram)
    if not evaluation.wanted.size:
        raise UserError(
            f"decontaminate.evaluation: no text of {settings.gram} characters in {files} files; a smaller `gram`,"
            " other `fields` or other files are right"
        )
    evaluation.save(context.directory)
    return {
        "evaluation_files": files,
        "evaluation_files_that_are_no_text": skipped,
        "evaluation_texts": len(texts),
        "evaluation_texts_too_short_to_find": short,
        "evaluation_grams": int(evaluation.wanted.size),
    }


def evaluation_identity(settings: Settings) -> str:
    """Return the content of the sets, not their place alone."""
    return "\n".join(f"{file.set_name} {checksum(file.path)}" for file in evaluation_files(settings.evaluation))


@lru_cache(maxsize=1)
def _load(directory: Path, modified: int) -> Evaluation:
    return Evaluation.load(directory)


def _evaluation(files: Sequence[Path]) -> Evaluation:
    table = next(file for file in files if file.name == "texts.parquet")
    return _load(table.parent, table.stat().st_mtime_ns)


def occurrences(batch: pa.RecordBatch, settings: Settings, files: Sequence[Path]) -> pa.RecordBatch:
    """Return distinct rows (document, n-gram) of the evaluation n-grams that a batch holds."""
    evaluation = _evaluation(files)
    text = contamination.placed(batch.column("text"), normal_form_table(True))
    matches = contamination.find(text, evaluation.gram, evaluation.wanted, evaluation.filled)
    pairs = np.unique(np.stack([matches.rows, matches.numbers]), axis=1) if matches.rows.size else np.zeros((2, 0), int)
    documents = record.signed_numbers(batch.column("doc_id"))[pairs[0].astype(np.int64)]
    hashes = np.asarray(evaluation.wanted)[pairs[1].astype(np.int64)].view(np.int64)
    return pa.RecordBatch.from_arrays([pa.array(documents), pa.array(hashes)], schema=OCCURRENCES)


def frequent_sql(settings: Settings) -> str:
    """Return the n-grams of each shard that more documents have than count as a coincidence."""
    return (
        "SELECT DISTINCT shard, gram, documents FROM occurrences JOIN (SELECT gram, count(*) AS documents"
        f" FROM occurrences GROUP BY gram HAVING count(*) > {settings.maximum_documents}) AS counted USING (gram)"
        " ORDER BY shard, gram"
    )


def hit_rows(batch: pa.RecordBatch, settings: Settings, files: Sequence[Path], frequent: pa.Table) -> pa.RecordBatch:
    """Return a row of HITS for each hit of a batch."""
    evaluation = _evaluation(files)
    text = contamination.placed(batch.column("text"), normal_form_table(True))
    matches = contamination.find(text, evaluation.gram, evaluation.wanted, evaluation.filled)
    common = np.sort(np.unique(frequent.column("gram").to_numpy()).view(np.uint64))
    hashes = np.asarray(evaluation.wanted)[matches.numbers]
    is_rare = ~np.isin(hashes, common) if common.size else np.ones(hashes.size, bool)
    rows: list[dict[str, Any]] = []
    bounds = np.searchsorted(matches.rows, np.arange(batch.num_rows + 1))
    for row in np.unique(matches.rows).tolist():
        own = slice(bounds[row], bounds[row + 1])
        hits = find_hits(matches.positions[own], matches.numbers[own], is_rare[own], evaluation, settings)
        if hits:
            rows += _described(batch.slice(row, 1), row, hits, text, evaluation, settings)
    return pa.RecordBatch.from_pylist(rows, schema=HITS)


def find_hits(
    positions: np.ndarray, numbers: np.ndarray, is_rare: np.ndarray, evaluation: Evaluation, settings: Settings
) -> list[Hit]:
    """Return the hits of one document from its n-grams that were found (in order)."""
    hits = []
    for first, last in _runs(positions, evaluation.gram):
        own = np.arange(first, last)
        length = positions[last - 1] + evaluation.gram - positions[first]
        if settings.certain_characters is None or length < settings.certain_characters:
            own = own[is_rare[own]]
        for begin, end in _runs(positions[own], evaluation.gram):
            part = own[begin:end]
            texts = evaluation.texts[numbers[part]]
            names, first_of, counts = np.unique(texts, return_index=True, return_counts=True)
            best = int(np.argmax(counts))
            place = part[first_of[best]]
            start = int(positions[part[0]])
            # where the document's first character of the hit would stand in the evaluation text
            offset = int(evaluation.positions[numbers[place]]) - (int(positions[place]) - start)
            hits.append(Hit(start, int(positions[part[-1]]) + evaluation.gram, int(names[best]), max(offset, 0)))
    return hits


def _runs(positions: np.ndarray, gram: int) -> list[tuple[int, int]]:
    """Return slices of sorted n-gram positions between which no more than BRIDGE characters are left over."""
    if not positions.size:
        return []
    cuts = np.flatnonzero(np.diff(positions) > gram + BRIDGE) + 1
    return list(zip([0, *cuts.tolist()], [*cuts.tolist(), positions.size], strict=True))


def counting(hits: Sequence[Hit], characters: Sequence[int], settings: Settings) -> list[bool]:
    """Return which hits are a contamination; `characters` is the length of the evaluation text of each."""
    of_text: dict[int, int] = {}
    for hit in hits:
        of_text[hit.text] = of_text.get(hit.text, 0) + 1
    return [
        hit.end - hit.start >= min(settings.single_characters, length) or of_text[hit.text] >= settings.minimum_hits
        for hit, length in zip(hits, characters, strict=True)
    ]


def _described(
    one: pa.RecordBatch, row: int, hits: list[Hit], text: Placed, evaluation: Evaluation, settings: Settings
) -> Iterator[dict[str, Any]]:
    """Yield the rows of HITS for one document."""
    document = {name: one.column(name)[0].as_py() for name in ("doc_id", "id", "source", "text")}
    places = text.places[text.offsets[row] : text.offsets[row + 1]]
    lengths = evaluation.table.column("characters")
    counts = counting(hits, [lengths[hit.text].as_py() for hit in hits], settings)
    whole = document.pop("text")
    for hit, is_counted in zip(hits, counts, strict=True):
        start, end = int(places[hit.start]), int(places[hit.end - 1]) + 1
        cut_start, cut_end = widened(whole, start, end, settings.margin) if is_counted else (None, None)
        origin = {name: evaluation.table.column(name)[hit.text].as_py() for name in ("set", "file", "place", "text")}
        before, inside, after = _context(origin["text"], hit.text_position, hit.end - hit.start)
        yield {
            **document,
            "start": start,
            "end": end,
            "cut_start": cut_start,
            "cut_end": cut_end,
            "characters": hit.end - hit.start,
            "counts": is_counted,
            "evaluation_set": origin["set"],
            "evaluation_file": origin["file"],
            "evaluation_place": origin["place"],
            "corpus_before": whole[max(0, start - CONTEXT_CHARACTERS) : start],
            "corpus_text": whole[start:end][:SHOWN_CHARACTERS],
            "corpus_after": whole[end : end + CONTEXT_CHARACTERS],
            "evaluation_before": before,
            "evaluation_text": inside,
            "evaluation_after": after,
        }


def _context(text: str, position: int, characters: int) -> tuple[str, str, str]:
    """Return an evaluation text around a stretch given in normal form."""
    places = contamination.placed(pa.array([text], pa.large_string()), normal_form_table(True)).places
    last = min(position + characters, places.size) - 1
    start, end = int(places[min(position, last)]), int(places[last]) + 1
    return (
        text[max(0, start - CONTEXT_CHARACTERS) : start],
        text[start:end][:SHOWN_CHARACTERS],
        text[end : end + CONTEXT_CHARACTERS],
    )


def widened(text: str, start: int, end: int, margin: int) -> tuple[int, int]:
    """Return the stretch with up to `margin` characters on either side: as many whole sentences as fit, or else all of
    it.
    """
    first, last = max(0, start - margin), min(len(text), end + margin)
    if first > 0:
        begin = next((match.end() for match in _SENTENCE_END.finditer(text, first, start)), first)
        first = begin if begin <= start else first
    if last < len(text):
        ends = [match.end() for match in _SENTENCE_END.finditer(text, end, last)]
        last = ends[-1] if ends else last
    return first, last


def remove_hits(batch: pa.RecordBatch, settings: Settings, hits: pa.Table) -> pa.RecordBatch:
    """Return the records without their counting hits; those that are dropped keep their text and say which set it
    was.
    """
    spans: dict[int, list[tuple[int, int]]] = {}
    seen: dict[int, list[dict[str, Any]]] = {}
    is_wanted = pc.and_(hits.column("counts"), pc.is_in(hits.column("doc_id"), batch.column("doc_id")))
    for row in hits.filter(is_wanted).to_pylist():
        spans.setdefault(row["doc_id"], []).append((row["cut_start"], row["cut_end"]))
        seen.setdefault(row["doc_id"], []).append(row)
    texts = batch.column("text").to_pylist()
    reasons: list[str | None] = [None] * len(texts)
    signals = np.zeros((3, len(texts)))
    for index, number in enumerate(batch.column("doc_id").to_pylist()):
        if number not in spans:
            continue
        found = seen[number]
        joined = merged(spans[number])
        signals[:, index] = len(found), sum(row["characters"] for row in found), 0
        left = without(texts[index], joined)
        if settings.action == "drop" or len(joined) > settings.maximum_spans or not left:
            words = f"{len(found)} hits" if len(found) > 1 else "1 hit"
            reasons[index] = f"contaminated:{found[0]['evaluation_set']}, {words}"
        else:
            signals[2, index] = len(texts[index]) - len(left)
            texts[index] = left
    return record.replace(
        batch,
        columns={"text": pa.array(texts, pa.string()), "drop_reason": pa.array(reasons, pa.string())},
        signals={name: pa.array(values) for name, values in zip(SIGNALS, signals, strict=True)},
    )


def merged(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans that touch or overlap as one."""
    result: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def without(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """Return `text` without the spans; a line break stands where one was cut out of the middle."""
    parts, position = [], 0
    for start, end in spans:
        parts.append(text[position:start].strip())
        position = end
    parts.append(text[position:].strip())
    return _BLANK_LINES.sub("\n\n", "\n".join(part for part in parts if part))


def write_report(context: Context) -> dict[str, Any]:
    """Return all hits as JSON lines, ordered by document; and a summary by evaluation set."""
    files = [file.path for file in context.inputs["hits"]]
    sets: dict[str, dict[str, int]] = {}
    total = counted = 0
    connection = connect(context.memory_bytes, context.threads, context.scratch)
    with open(context.directory / "hits.jsonl", "w", encoding="utf-8") as out:
        if files:
            names = ", ".join(map(sql_string, files))
            counts = connection.sql(
                "SELECT evaluation_set, count(*), count(*) FILTER (counts), count(DISTINCT doc_id) FILTER (counts),"
                f" sum(characters) FILTER (counts) FROM read_parquet([{names}]) GROUP BY 1 ORDER BY 1"
            ).fetchall()
            for name, hits, certain, of_documents, characters in counts:
                sets[name] = {
                    "hits": hits,
                    "counted_hits": certain,
                    "documents": of_documents,
                    "characters": int(characters or 0),
                }
            columns = ", ".join(f'"{name}"' for name in HITS.names)
            rows = connection.sql(
                f"SELECT {columns} FROM read_parquet([{names}]) ORDER BY doc_id, start, evaluation_set"
            )
            for batch in rows.to_arrow_reader(1 << 12):
                for row in batch.to_pylist():
                    total += 1
                    counted += row["counts"]
                    out.write(json.dumps(row, ensure_ascii=False) + "\n")
    connection.close()
    summary = {"hits": total, "counted_hits": counted, "action": context.settings.action, "sets": sets}
    (context.directory / "summary.json").write_text(json.dumps(summary, ensure_ascii=False, indent=1) + "\n")
    return {"hits": total, "hits_that_count": counted}


_CODE = (
    "data_pipeline.kernels.contamination",
    "data_pipeline.kernels.normal_form",
    "data_pipeline.kernels.minhash",
    "data_pipeline.stages.decontaminate.evaluation_sets",
    "data_pipeline.stages.read.charset",
)
_HIT_SETTINGS = ("certain_characters", "minimum_hits", "single_characters", "margin")
STEPS = (
    Global(
        "evaluation",
        needs=(),
        run=read_evaluation,
        identity=evaluation_identity,
        reads=("evaluation", "fields", "gram"),
        uses=_CODE,
        libraries=("opencc",),
    ),
    Map("occurrences", needs=("documents", "evaluation"), process=occurrences, table=OCCURRENCES, reads=(), uses=_CODE),
    GroupBy("frequent", needs=("occurrences",), sql=frequent_sql, table=FREQUENT, reads=("maximum_documents",)),
    Map(
        "hits",
        needs=("documents", "evaluation", "frequent"),
        process=hit_rows,
        table=HITS,
        reads=_HIT_SETTINGS,
        uses=_CODE,
    ),
    Map(
        "records",
        needs=("documents", "hits"),
        process=remove_hits,
        signals=SIGNALS,
        reads=("action", "maximum_spans"),
    ),
    Global("report", needs=("hits",), run=write_report, reads=("action",), publish="decontamination"),
)
