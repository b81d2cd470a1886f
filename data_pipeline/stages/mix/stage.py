"""mix: how much of every source goes into the corpus, as in Table 4 of the PanGu-α paper.

    - mix: {tokens: 200B, weights: {public: 10.23, ebooks: 12.23, common_crawl: 62.81, news: 7.83, encyclopedia: 6.9}}
    - mix: {epochs: {public: 3.65, ebooks: 0.41, common_crawl: 0.85, news: 2.2, encyclopedia: 3}}
    - mix: {preset: pangu-alpha-200b, tokens: 200B}
    - mix: {by: domain, tokens: 2B, weights: {news: 40, law: 20, other: 40}}
    - mix: {by: quality_bucket, epochs: {0-9: 0, 10-14: 0.5, 15-19: 2, other: 1}}

What is mixed are sources, or what `label` has found: domains, or buckets of a score (a number or a range of numbers).
`other` are all documents that no name is given for.

With `weights` a source gives its share of the budget, and its epochs follow from what there is of it; with `epochs` it
is the other way round. A whole epoch is every document once more. Of a part of an epoch, the documents with the least
hashes (of seed and `doc_id`) are taken, so a smaller part is always within a larger one, and neither the shards nor
the number of workers matter. The sizes are counted first, by source and by hash; so what will be taken is known to the
document, and said, before anything is taken (`mix/plan.json`; also by `plan`).

Further copies of a document keep their `id` and get a `doc_id` of their own, so that `pack` scatters them; the signal
`copy` numbers them. What is not taken goes to the rejects as `not_sampled`. The stage belongs behind deduplication."""

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from pydantic import BeforeValidator, Field, model_validator

import pangu.foundation.errors
from data_pipeline import record
from data_pipeline.engine.run_files import checksum
from data_pipeline.engine.steps import Context, Global, GroupBy, Map, StageSettings
from pangu.foundation.errors import UserError
from pangu.foundation.settings import Section, checked
from pangu.foundation.yaml_document import read_document

PRESETS = Path(__file__).with_name("presets")
# parts of an epoch that can be told apart: documents are taken by the leading bits of their hash
_BUCKET_BITS = 16
BUCKETS = 1 << _BUCKET_BITS
_TOKEN_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}

SIZES = pa.schema([("source", pa.string()), ("bucket", pa.int32()), ("tokens", pa.int64())])
TOTALS = pa.schema([("source", pa.string()), ("bucket", pa.int32()), ("documents", pa.int64()), ("tokens", pa.int64())])
SIGNALS = ("copy",)


def _parse_tokens(value: Any) -> Any:
    """Return `200B`, `5.6M` or a number; units are powers of 1000."""
    if value is None or isinstance(value, int):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMBT]?)\s*", str(value), re.IGNORECASE)
    if not match:
        raise ValueError(f"{value!r} is no number of tokens; write it like 200B, 5.6M or 100000")
    return round(float(match[1]) * _TOKEN_UNITS[match[2].upper()])


OTHER = "other"


def _text_keys(value: Any) -> Any:
    """Return a table with names of text: YAML reads the name 7 as a number."""
    return {str(name): share for name, share in value.items()} if isinstance(value, dict) else value


class MixturePreset(Section):
    """A file of `presets/`."""

    weights: dict[str, float] | None = None
    epochs: dict[str, float] | None = None
    tokens: Annotated[int | None, BeforeValidator(_parse_tokens)] = None


@cache
def load_preset(name: str) -> MixturePreset:
    """Return one of the files in PRESETS."""
    return checked(MixturePreset, read_document(PRESETS / f"{name}.yaml"))


class Settings(StageSettings):
    """What each source gives."""

    preset: Literal["pangu-alpha-13b", "pangu-alpha-200b", "pangu-alpha-200b-epochs"] | None = Field(
        default=None, description="Table 4 of the paper: pangu-alpha-13b, pangu-alpha-200b, pangu-alpha-200b-epochs"
    )
    by: Literal["source", "domain", "quality_bucket", "toxicity_bucket"] = Field(
        default="source", description="what the names below are: sources, or what `label` found: domains, buckets (0-9)"
    )
    weights: Annotated[dict[str, float] | None, BeforeValidator(_text_keys)] = Field(
        default=None, description="{SOURCE: share} for every source; the sum is taken for 100 %"
    )
    epochs: Annotated[dict[str, float] | None, BeforeValidator(_text_keys)] = Field(
        default=None, description="{SOURCE: times} instead; 0.4 is a part of it"
    )
    tokens: Annotated[int | None, BeforeValidator(_parse_tokens)] = Field(
        default=None, description="budget for weights, like 200B; null: as much as maximum_epochs allows", ge=1
    )
    maximum_epochs: float = Field(
        default=4, description="weights take no source more often (Muennighoff et al. 2023: more adds little)", gt=0
    )
    too_small: Literal["say", "stop"] = Field(
        default="say", description="a source too small for its weight: say so and take what there is, or stop"
    )
    tokenizer: str | None = Field(
        default=None, description="counts tokens; relative to the recipe; null: estimated from characters"
    )
    tokens_per_character: float = Field(
        default=0.7, description="of the estimate; the released tokenizer: laws 0.67, news 0.71, poems 1.07", gt=0
    )
    seed: int | None = Field(default=None, description="of what is taken of a part of an epoch; null: the recipe's")

    @model_validator(mode="after")
    def _one_way(self) -> "Settings":
        if self.weights is not None and self.epochs is not None:
            raise ValueError("weights and epochs exclude each other; give one of them")
        for name, table in (("weights", self.weights), ("epochs", self.epochs)):
            for source, value in (table or {}).items():
                if not 0 <= value < float("inf"):
                    raise ValueError(f"{name}.{source}: {value} is out of range; nearest: 0")
        if self.weights is not None and not sum(self.weights.values()):
            raise ValueError("weights: all are 0; one at least must be more")
        if self.by != "source" and self.preset is not None:
            raise ValueError(f"preset: its names are sources, not what {self.by} is; weights or epochs are right")
        if self.by.endswith("_bucket"):
            for name, table in (("weights", self.weights), ("epochs", self.epochs)):
                _check_buckets(name, list(table or {}))
        return self

    def completed(self, seed: int, source_names: Sequence[str], base: Path) -> "Settings":
        """Return the preset's shares for the sources that there are; the tokenizer's place; the seed."""
        weights, epochs, tokens = self.weights, self.epochs, self.tokens
        if self.preset is not None and weights is None and epochs is None:
            preset = load_preset(self.preset)
            weights, epochs, tokens = (
                None if preset.weights is None else {k: v for k, v in preset.weights.items() if k in source_names},
                None if preset.epochs is None else {k: v for k, v in preset.epochs.items() if k in source_names},
                self.tokens or preset.tokens,
            )
        shares = weights if weights is not None else epochs
        field = "weights" if weights is not None else "epochs"
        if shares is None:
            raise ValueError("give `weights` or `epochs` for the sources, or a `preset`")
        for name in shares if self.by == "source" else ():
            if name not in source_names:
                close = difflib.get_close_matches(name, source_names, n=1, cutoff=0.5)
                hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(source_names)}"
                raise ValueError(f"{field}: no source {name!r} in the recipe; {hint}")
        for name in source_names if self.by == "source" else ():
            if name not in shares:
                known = f"; the preset names {', '.join(_preset_sources(self.preset))}" if self.preset else ""
                raise ValueError(f"{field}: nothing for source {name!r}; 0 leaves it out{known}")
        tokenizer = self.tokenizer
        if tokenizer is not None:
            tokenizer = str((base / Path(tokenizer).expanduser()).resolve())
            if not Path(tokenizer).exists():
                raise ValueError(f"tokenizer: {tokenizer}: no such file or directory")
        update = {"weights": weights, "epochs": epochs, "tokens": tokens, "tokenizer": tokenizer}
        return self.model_copy(update={**update, "seed": seed if self.seed is None else self.seed})


def _bucket_range(name: str) -> range:
    """Return the buckets of `7` or `10-14`. Raises ValueError."""
    first, _, last = name.partition("-")
    numbers = range(int(first), int(last or first) + 1)
    if not numbers:
        raise ValueError(name)
    return numbers


def _check_buckets(field: str, names: Sequence[str]) -> None:
    """Raise ValueError where a name is no range of buckets, or two share one."""
    taken: dict[int, str] = {}
    for name in names:
        if name == OTHER:
            continue
        try:
            numbers = _bucket_range(name)
        except ValueError:
            raise ValueError(f"{field}.{name}: no bucket; write 7, or 10-14, or {OTHER}") from None
        for number in numbers:
            if number in taken:
                raise ValueError(f"{field}.{name}: bucket {number} is also in {taken[number]}")
            taken[number] = name


def _preset_sources(name: str) -> list[str]:
    preset = load_preset(name)
    return list(preset.weights or preset.epochs or {})


@dataclass(frozen=True)
class SourcePlan:
    """What will be taken of a source: every document `whole` times, and those of the first `buckets` once more."""

    name: str
    weight: float | None
    """Its share of the budget as asked for; None where epochs are given."""
    documents: int
    tokens: int
    whole: int
    buckets: int
    documents_taken: int
    tokens_taken: int
    note: str = ""

    @property
    def epochs(self) -> float:
        return self.tokens_taken / self.tokens if self.tokens else 0.0


def buckets(numbers: np.ndarray, seed: int) -> np.ndarray:
    """Return int32[rows]: the leading bits of a hash of seed and `doc_id` (splitmix64 of both, Steele 2014)."""
    word = numbers.astype(np.uint64) ^ np.uint64(xxhash.xxh3_64_intdigest(seed.to_bytes(8, "little")))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word = (word ^ (word >> np.uint64(shift))) * np.uint64(factor)
    return ((word ^ (word >> np.uint64(31))) >> np.uint64(64 - _BUCKET_BITS)).astype(np.int32)


def copy_number(number: int, copy: int) -> int:
    """Return the `doc_id` of a further copy (1, 2, …) of a document."""
    return xxhash.xxh3_64_intdigest(f"{number}\x1f{copy}".encode())


def groups(batch: pa.RecordBatch, settings: Settings) -> pa.Array:
    """Return what each document is, of what is mixed: its source, its domain, its bucket; "" where it has none."""
    if settings.by == "source":
        return batch.column("source")
    if settings.by == "domain":
        found = [json.loads(meta or "{}").get("domain") for meta in batch.column("meta").to_pylist()]
        return pa.array([name if isinstance(name, str) else "" for name in found], pa.string())
    struct = batch.column("signals")
    if struct.type.get_field_index(settings.by) < 0:
        raise UserError(f"mix.by: no stage before it gives {settings.by}; `label` does, from a classifier")
    numbers = pc.struct_field(struct, settings.by).to_pylist()
    return pa.array(["" if value is None or value != value else str(int(value)) for value in numbers], pa.string())


def share_of(group: str, settings: Settings) -> str | None:
    """Return the name among the shares that a group belongs to; None where there is none."""
    shares = settings.weights if settings.weights is not None else settings.epochs
    assert shares is not None
    if settings.by.endswith("_bucket"):
        found = (name for name in shares if name != OTHER and group and int(group) in _bucket_range(name))
        name = next(found, None)
    else:
        name = group if group in shares else None
    return name if name is not None or OTHER not in shares else OTHER


def sizes(batch: pa.RecordBatch, settings: Settings) -> pa.RecordBatch:
    """Return a row of SIZES for each document."""
    assert settings.seed is not None
    texts = batch.column("text")
    if settings.tokenizer is None:
        length = pc.fill_null(pc.utf8_length(texts), 0).to_numpy(zero_copy_only=False)
        tokens = np.ceil(length * settings.tokens_per_character).astype(np.int64)
    else:
        encoded = _tokenizer(Path(settings.tokenizer), tokenizer_identity(settings)).encode_batch(
            [text or "" for text in texts.to_pylist()]
        )
        tokens = np.array([len(ids) for ids in encoded], np.int64)
    bucket = buckets(np.asarray(batch.column("doc_id")), settings.seed)
    return pa.RecordBatch.from_arrays([groups(batch, settings), pa.array(bucket), pa.array(tokens)], schema=SIZES)


def tokenizer_identity(settings: Settings) -> str:
    """Return digests of the tokenizer's files, if there is one."""
    if settings.tokenizer is None:
        return ""
    path = Path(settings.tokenizer)
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    return ",".join(checksum(file) for file in files)


@lru_cache(maxsize=1)
def _tokenizer(path: Path, identity: str) -> Any:
    from pangu.tokenizer import Tokenizer

    try:
        return Tokenizer.load(path)
    except pangu.foundation.errors.UserError as error:
        raise UserError(f"mix.tokenizer: {error}") from error


def note_tokenizer(context: Context) -> dict[str, Any]:
    """Make the tokenizer's content something that the sizes depend on; a bad one is said at once."""
    identity = tokenizer_identity(context.settings)
    if identity:
        _tokenizer(Path(context.settings.tokenizer), identity)
    (context.directory / "tokenizer.txt").write_text(identity + "\n")
    return {}


def sizes_with(batch: pa.RecordBatch, settings: Settings, _: Any) -> pa.RecordBatch:
    """Return `sizes`, after `note_tokenizer`."""
    return sizes(batch, settings)


def totals_sql(settings: Settings) -> str:
    """Return documents and tokens by source and bucket."""
    return (
        "SELECT source, bucket, count(*) AS documents, CAST(sum(tokens) AS BIGINT) AS tokens"
        " FROM sizes GROUP BY source, bucket ORDER BY source, bucket"
    )


def make_plan(settings: Settings, totals: pa.Table) -> list[SourcePlan]:
    """Return what will be taken of each source, in the order of the recipe's shares."""
    shares = settings.weights if settings.weights is not None else settings.epochs
    assert shares is not None
    of_source = _by_share(settings, totals, list(shares))
    there = {name: int(pc.sum(table.column("tokens")).as_py() or 0) for name, table in of_source.items()}
    if settings.weights is None:
        return [_taken(name, None, of_source[name], epochs * there[name], "") for name, epochs in shares.items()]
    whole = sum(shares.values())
    weights = {name: weight / whole for name, weight in shares.items()}
    limit = settings.maximum_epochs
    budget = settings.tokens
    if budget is None:
        budget = int(min(there[name] * limit / weight for name, weight in weights.items() if weight))
    plan = []
    for name, weight in weights.items():
        wanted = budget * weight
        note = ""
        if wanted > limit * there[name]:
            note = (
                f"{name}: too small for {100 * weight:.1f} %: {_number(wanted)} tokens wanted, {_number(there[name])}"
                f" there, which is {_number(limit * there[name])} at maximum_epochs {limit:g}"
            )
            wanted = limit * there[name]
        plan.append(_taken(name, weight, of_source[name], wanted, note))
    return plan


def _by_share(settings: Settings, totals: pa.Table, names: Sequence[str]) -> dict[str, pa.Table]:
    """Return the rows of TOTALS of each share, one for a bucket, in their order."""
    owner = {group: share_of(group, settings) for group in pc.unique(totals.column("source")).to_pylist()}
    found = {}
    for name in names:
        own = pa.array([group for group, share in owner.items() if share == name], pa.string())
        rows = totals.filter(pc.is_in(totals.column("source"), value_set=own))
        if len(own) > 1:
            rows = rows.group_by("bucket").aggregate([("documents", "sum"), ("tokens", "sum")])
            rows = rows.rename_columns(["bucket", "documents", "tokens"]).sort_by("bucket")
        found[name] = rows
    return found


def _left_out(settings: Settings, totals: pa.Table) -> list[str]:
    """Return a line for what no share is given for."""
    groups_left = totals.filter(
        pa.array([share_of(group, settings) is None for group in totals.column("source").to_pylist()], pa.bool_())
    )
    if not groups_left.num_rows:
        return []
    names = sorted(name or "none" for name in pc.unique(groups_left.column("source")).to_pylist())
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    count = pc.sum(groups_left.column("documents")).as_py()
    return [f"  left out, no share: {count:,} documents ({settings.by} {shown}); `{OTHER}` would take them"]


def _taken(name: str, weight: float | None, table: pa.Table, wanted: float, note: str) -> SourcePlan:
    """Return whole epochs, and so many buckets more that the tokens come nearest to what is wanted."""
    columns = {column: table.column(column).to_numpy() for column in ("bucket", "documents", "tokens")}
    documents, tokens = int(columns["documents"].sum()), int(columns["tokens"].sum())
    if not tokens:
        return SourcePlan(name, weight, documents, tokens, 0, 0, 0, 0, note)
    whole, rest = divmod(wanted, tokens)
    until = np.concatenate([[0], np.cumsum(columns["tokens"])])
    nearest = int(np.argmin(np.abs(until - rest)))
    limit = 0 if nearest == 0 else int(columns["bucket"][nearest - 1]) + 1
    return SourcePlan(
        name,
        weight,
        documents,
        tokens,
        int(whole),
        limit,
        int(whole) * documents + int(columns["documents"][:nearest].sum()),
        int(whole) * tokens + int(until[nearest]),
        note,
    )


def plan_lines(settings: Settings, plan: Sequence[SourcePlan]) -> list[str]:
    """Return the plan for a person: a table, and a line for each source that is too small."""
    total = sum(source.tokens_taken for source in plan)
    kind = settings.by.replace("_", " ")
    rows = [(kind, "documents", "tokens", "wanted", "epochs", "takes documents", "takes tokens", "share")]
    for source in plan:
        asked = "" if source.weight is None else f"{100 * source.weight:.2f} %"
        share = f"{100 * source.tokens_taken / total:.2f} %" if total else ""
        taken = (f"{source.epochs:.2f}", f"{source.documents_taken:,}", _number(source.tokens_taken), share)
        rows.append((source.name, f"{source.documents:,}", _number(source.tokens), asked, *taken))
    taken_documents = sum(source.documents_taken for source in plan)
    rows.append(("all", "", "", "", "", f"{taken_documents:,}", _number(total), ""))
    from rich.cells import cell_len, set_cell_size  # a Chinese character is two columns wide

    widths = [max(cell_len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [f"mix: {_way(settings)}"]
    for row in rows:
        cells = [
            set_cell_size(row[0], widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return [*lines, *(f"  {source.note}" for source in plan if source.note)]


def forecast(settings: Settings, tables: dict[str, list[Path]]) -> list[str]:
    """Return what a run would take: the plan where the sizes (`totals`) are up to date, else what is asked for."""
    if tables.get("totals"):
        totals = _read_totals(tables["totals"])
        return plan_lines(settings, make_plan(settings, totals)) + _left_out(settings, totals)
    if settings.weights is not None:
        whole = sum(settings.weights.values())
        shares = ", ".join(f"{name} {100 * weight / whole:.2f} %" for name, weight in settings.weights.items())
    else:
        shares = ", ".join(f"{name} {epochs:g} ×" for name, epochs in (settings.epochs or {}).items())
    return [f"mix: {_way(settings)}: {shares}; documents and tokens are said when the sizes are counted"]


def _way(settings: Settings) -> str:
    counted = (
        f"counted by {Path(settings.tokenizer).name}"
        if settings.tokenizer is not None
        else f"estimated at {settings.tokens_per_character:g} a character"
    )
    if settings.weights is None:
        budget = "by epochs"
    elif settings.tokens is None:
        budget = f"by weights, at most {settings.maximum_epochs:g} epochs"
    else:
        budget = f"{_number(settings.tokens)} tokens by weights"
    return f"{budget}, tokens {counted}, seed {settings.seed}"


def _number(value: float) -> str:
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if value >= size:
            return f"{value / size:.4g}{unit}"
    return f"{round(value):,}"


def _read_totals(files: Sequence[Path]) -> pa.Table:
    return pa.concat_tables([pq.read_table(file) for file in files]) if files else TOTALS.empty_table()


def write_plan(context: Context) -> dict[str, Any]:
    """Return `plan.json`; the counts hold what a run says before it goes on."""
    settings: Settings = context.settings
    totals = _read_totals([file.path for file in context.inputs["totals"]])
    plan = make_plan(settings, totals)
    small = [source.note for source in plan if source.note]
    if small and settings.too_small == "stop":
        raise UserError(f"mix.weights.{small[0]}; a smaller budget or weight, or more epochs, are right")
    content = {
        "by": settings.by,
        "tokens_by": None if settings.tokenizer is None else Path(settings.tokenizer).name,
        "sources": [{**asdict(source), "epochs": source.epochs} for source in plan],
        "seed": settings.seed,
    }
    (context.directory / "plan.json").write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    return {
        "announcement": plan_lines(settings, plan) + _left_out(settings, totals),
        "tokens_taken": sum(source.tokens_taken for source in plan),
        "sources_too_small": len(small),
    }


@lru_cache(maxsize=1)
def _load_plan(path: Path, modified: int) -> dict[str, tuple[int, int, float]]:
    content = json.loads(path.read_text())
    return {source["name"]: (source["whole"], source["buckets"], source["epochs"]) for source in content["sources"]}


def take(batch: pa.RecordBatch, settings: Settings, files: Sequence[Path]) -> pa.RecordBatch:
    """Return every document as often as the plan says; `not_sampled` where that is never."""
    assert settings.seed is not None
    plan = _load_plan(files[0], files[0].stat().st_mtime_ns)
    bucket = buckets(np.asarray(batch.column("doc_id")), settings.seed)
    found = groups(batch, settings).to_pylist()
    owner = {group: share_of(group, settings) for group in set(found)}
    nothing = (0, 0, 0.0)
    plans = {group: nothing if share is None else plan[share] for group, share in owner.items()}
    whole = np.array([plans[group][0] for group in found], np.int64)
    limit = np.array([plans[group][1] for group in found], np.int64)
    copies = whole + (bucket < limit)
    # one row for a document that is not taken: it goes to the rejects
    index = np.repeat(np.arange(batch.num_rows), np.maximum(copies, 1))
    copy = np.arange(index.size) - np.searchsorted(index, index)
    rows = batch.take(pa.array(index))
    numbers = rows.column("doc_id").to_numpy().copy()
    for row in np.flatnonzero(copy).tolist():
        numbers[row] = copy_number(int(numbers[row]), int(copy[row]))
    reasons = [
        _why_not(plans[found[row]][2], found[row], owner[found[row]], settings.by) if not copies[row] else None
        for row in index.tolist()
    ]
    return record.replace(
        rows,
        columns={
            "doc_id": pa.array(numbers, pa.uint64()),
            "drop_reason": pa.array(reasons, pa.string()),
        },
        signals={"copy": pa.array(copy.astype(np.float64))},
    )


def _why_not(epochs: float, group: str, share: str | None, by: str) -> str:
    if share is None:
        return f"not_sampled:no share for {by} {group or 'none'}"
    return f"not_sampled:{epochs:.3g} epochs of {share if by == 'source' else f'{by} {share}'}"


STEPS = (
    Global("counter", needs=(), run=note_tokenizer, reads=("tokenizer",), identity=tokenizer_identity),
    Map(
        "sizes",
        needs=("documents", "counter"),
        process=sizes_with,
        table=SIZES,
        reads=("tokenizer", "tokens_per_character", "seed", "by"),
    ),
    GroupBy("totals", needs=("sizes",), sql=totals_sql, table=TOTALS, reads=()),
    Global(
        "plan",
        needs=("totals",),
        run=write_plan,
        reads=("by", "weights", "epochs", "tokens", "maximum_epochs", "too_small", "seed", "tokenizer"),
        publish="mix",
    ),
    Map("records", needs=("documents", "plan"), process=take, signals=SIGNALS, reads=("by", "seed")),
)
