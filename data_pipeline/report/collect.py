"""What a report shows, read from the output directory of a run: the funnel, sources, signals, samples, clusters, hits.

Reads columns, not texts, except for the few documents that are shown. What is shown is drawn by a hash of `doc_id`, so
that the same run gives the same report."""

import itertools
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from data_pipeline import record
from data_pipeline.engine.browse import Shards, stages_of
from data_pipeline.engine.run_recipe import StageSummary, open_manifest, summarise
from data_pipeline.report.thresholds import Threshold, fetch, read_signals, signal_names, thresholds_of
from data_pipeline.report.tokens import Packing, SourceTokens, packed_tokens, packing

# signals of this many documents are drawn exactly; of more, a sample by hash
HISTOGRAM_DOCUMENTS = 1_000_000
BINS = 48
_CLUSTER_REASONS = ("near_duplicate_of", "duplicate_of")
_LANGUAGES = (
    ("kana_share", 0.05, "ja"),
    ("hangul_share", 0.1, "ko"),
    ("han_share", 0.3, "zh"),
    ("latin_share", 0.5, "Latin"),
)


@dataclass(frozen=True)
class Amounts:
    """How much is collected."""

    samples: int = 5
    clusters: int = 8
    hits: int = 30
    characters: int = 400


@dataclass
class SourceRow:
    """A source on its way: documents read and kept at the end, what was dropped, by which rules."""

    name: str
    documents_in: int = 0
    documents_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    dropped: Counter = field(default_factory=Counter)


@dataclass(frozen=True)
class Histogram:
    """A signal at a stage: how many documents fall into each bin, kept ones and dropped ones."""

    stage: str
    signal: str
    edges: np.ndarray  # float64[bins + 1]
    kept: np.ndarray  # int64[bins]
    dropped: np.ndarray
    is_logarithmic: bool
    thresholds: tuple[Threshold, ...]
    is_sample: bool


@dataclass(frozen=True)
class RuleSamples:
    """Documents that a rule dropped, and documents that its stage kept."""

    stage: str
    rule: str
    count: int
    dropped: list[dict[str, Any]]
    kept: list[dict[str, Any]]


@dataclass(frozen=True)
class Cluster:
    """Documents that are the same, or nearly: the one that was kept, and some of the others."""

    stage: str
    reason: str
    size: int
    representative: dict[str, Any] | None
    others: list[dict[str, Any]]


@dataclass(frozen=True)
class Report:
    """Everything that the page shows."""

    name: str
    summaries: list[StageSummary]
    settings: dict[str, dict[str, Any]]
    sources: list[SourceRow]
    languages: Counter
    encodings: Counter
    histograms: list[Histogram]
    thresholds: list[Threshold]
    samples: list[RuleSamples]
    clusters: list[Cluster]
    cluster_sizes: Counter
    decontamination: dict[str, Any] | None
    hits: list[dict[str, Any]]
    mix: list[dict[str, Any]]
    tokens: list[SourceTokens]
    packing: Packing | None


def collect(root: Path, amounts: Amounts) -> Report:
    """Read a run. UserError where the directory holds none."""
    summaries = summarise(root)
    stages = [shards for shards in stages_of(root) if shards.kept or shards.dropped]
    thresholds = thresholds_of(root)
    clusters, sizes = _clusters(stages, amounts)
    summary, hits = _hits(root, amounts)
    return Report(
        root.resolve().name,
        summaries,
        _settings(root),
        _sources(stages),
        _languages(stages),
        _encodings(stages),
        [histogram for shards in stages for histogram in _histograms(shards, stages, thresholds)],
        thresholds,
        [sample for shards in stages for sample in _samples(shards, amounts)],
        clusters,
        sizes,
        summary,
        hits,
        _mix(root),
        packed_tokens(root),
        packing(root),
    )


def _settings(root: Path) -> dict[str, dict[str, Any]]:
    """Return the settings of each stage, as far as its steps recorded them."""
    manifest = open_manifest(root)
    found: dict[str, dict[str, Any]] = {}
    for name, _ in manifest.stages():
        found[name] = {}
        for step in manifest.steps_of(name):
            recorded = manifest.step_settings(step)
            found[name].update(recorded[0] if recorded else {})
    manifest.close()
    return found


def _sources(stages: list[Shards]) -> list[SourceRow]:
    """Return documents and bytes of each source: read, dropped where, and left in the end."""
    rows: dict[str, SourceRow] = {}

    def add(path: Path, is_kept: bool, is_first: bool, is_last: bool, stage: str) -> None:
        has_bytes = "bytes" in signal_names(Shards("", "", (path,), ()))
        columns = ["source", "drop_reason", *(["signals.bytes"] if has_bytes else [])]
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1 << 16, columns=columns):
            sources = batch.column("source").to_pylist()
            reasons = batch.column("drop_reason").to_pylist()
            sizes = batch.column("signals").field(0).to_pylist() if has_bytes else [0.0] * len(sources)
            for source, reason, size in zip(sources, reasons, sizes, strict=True):
                row = rows.setdefault(source, SourceRow(source))
                row.documents_in += is_first
                row.bytes_in += int(size or 0) * is_first
                if reason is not None:
                    row.dropped[f"{stage}: {record.reason_class(reason)}"] += 1
                elif is_kept and is_last:
                    row.documents_out += 1
                    row.bytes_out += int(size or 0)

    for number, shards in enumerate(stages):
        is_last = number == len(stages) - 1
        for path in shards.dropped:
            add(path, False, number == 0, is_last, shards.stage)
        # the kept records of stages in between are met again in the next
        for path in shards.kept if number == 0 or is_last else ():
            add(path, True, number == 0, is_last, shards.stage)
    return sorted(rows.values(), key=lambda row: (-row.bytes_in, row.name))


def _languages(stages: list[Shards]) -> Counter:
    """Count by the column `lang`, or where that is empty by the shares of scripts; of what is left in the end."""
    counts: Counter = Counter()
    for path in stages[-1].kept if stages else ():
        present = set(signal_names(Shards("", "", (path,), ())))
        scripts = [entry for entry in _LANGUAGES if entry[0] in present]
        columns = ["lang", *(f"signals.{name}" for name, _, _ in scripts)]
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1 << 16, columns=columns):
            struct = batch.column("signals") if scripts else None
            place = {child.name: index for index, child in enumerate(struct.type)} if struct is not None else {}
            shares = [struct.field(place[name]).to_pylist() for name, _, _ in scripts] if struct is not None else []
            for row, language in enumerate(batch.column("lang").to_pylist()):
                if language is None:
                    found = (
                        name
                        for (_, least, name), values in zip(scripts, shares, strict=True)
                        if (values[row] or 0) >= least
                    )
                    language = f"{next(found, 'other')}, by its script" if scripts else "not looked at"
                counts[language] += 1
    return counts


def _encodings(stages: list[Shards]) -> Counter:
    """Count encodings: of web pages and archives as the reader noted it in `meta`; other records are UTF-8 or say
    nothing.
    """
    counts: Counter = Counter()
    for path in (*stages[0].kept, *stages[0].dropped) if stages else ():
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1 << 16, columns=["meta"]):
            found = pc.extract_regex(batch.column("meta"), r'"charset": ?"(?P<charset>[^"\\]{1,40})"')
            names = found.field(0).filter(found.is_valid()) if found.null_count else found.field(0)
            counts.update(names.to_pylist())
            counts["as in the file (JSON, text)"] += batch.num_rows - len(names)
    return Counter({name: count for name, count in counts.items() if count})


def _histograms(shards: Shards, stages: list[Shards], thresholds: list[Threshold]) -> list[Histogram]:
    """Return the signals that a stage measured: those that the stage before did not have, or that it holds rules
    against.
    """
    position = [other.stage for other in stages].index(shards.stage)
    earlier = set(signal_names(stages[position - 1])) if position else set()
    own = [rule for rule in thresholds if rule.stage == shards.stage]
    wanted = [rule.signal for rule in own]
    names = list(dict.fromkeys([*wanted, *(name for name in signal_names(shards) if name not in earlier)]))
    if not names:
        return []
    total = sum(pq.read_metadata(path).num_rows for path in (*shards.kept, *shards.dropped))
    share = min(1.0, HISTOGRAM_DOCUMENTS / max(total, 1))
    values: dict[bool, dict[str, list[np.ndarray]]] = {True: {}, False: {}}
    for part in read_signals(shards, names):
        chosen = _draw(part.doc_id, "histogram") >> np.uint64(32) <= np.uint64(int(share * (2**32 - 1)))
        for name, column in part.columns.items():
            values[part.is_kept].setdefault(name, []).append(column[chosen])
    found = []
    for name in names:
        kept, dropped = (_finite(values[side].get(name, [])) for side in (True, False))
        rules = tuple(rule for rule in own if rule.signal == name)
        histogram = _histogram(shards.stage, name, kept, dropped, rules, share < 1)
        if histogram is not None:
            found.append(histogram)
    return found


def _finite(parts: list[np.ndarray]) -> np.ndarray:
    column = np.concatenate(parts) if parts else np.zeros(0)
    return column[np.isfinite(column)]


def _histogram(
    stage: str, signal: str, kept: np.ndarray, dropped: np.ndarray, rules: tuple[Threshold, ...], is_sample: bool
) -> Histogram | None:
    every = np.concatenate([kept, dropped])
    if not every.size or every.min() == every.max():
        return None
    low, high = np.quantile(every, [0.001, 0.999])
    for rule in rules:
        for bound in (rule.minimum, rule.maximum):
            if bound is not None:
                low, high = min(low, bound), max(high, bound)
    if low == high:
        low, high = float(every.min()), float(every.max())
    is_logarithmic = bool(every.min() >= 0 and high > 20 and high > 8 * np.median(every))
    if is_logarithmic:
        edges = np.expm1(np.linspace(np.log1p(low), np.log1p(high), BINS + 1))
        edges[0], edges[-1] = low, high
    else:
        edges = np.linspace(low, high, BINS + 1)
    edges = np.unique(edges)
    if edges.size < 2:
        return None
    counts = [np.histogram(np.clip(column, low, high), edges)[0] for column in (kept, dropped)]
    return Histogram(stage, signal, edges, counts[0], counts[1], is_logarithmic, rules, is_sample)


def _draw(numbers: np.ndarray, purpose: str) -> np.ndarray:
    """Return uint64[rows]: a number for each document that has nothing to do with anything (splitmix64)."""
    word = numbers.astype(np.uint64) ^ np.uint64(xxhash.xxh3_64_intdigest(purpose.encode()))
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


class _Lottery:
    """The `size` documents with the least draws."""

    def __init__(self, purpose: str, size: int):
        self.purpose, self.size = purpose, size
        self.draws = np.zeros(0, np.uint64)
        self.numbers = np.zeros(0, np.uint64)

    def add(self, numbers: np.ndarray) -> None:
        draws = np.concatenate([self.draws, _draw(numbers, self.purpose)])
        every = np.concatenate([self.numbers, numbers.astype(np.uint64)])
        order = np.argsort(draws, kind="stable")[: self.size]
        self.draws, self.numbers = draws[order], every[order]


def _samples(shards: Shards, amounts: Amounts) -> list[RuleSamples]:
    """Return random documents for each reason of a stage, and random ones that it kept."""
    lotteries: dict[str, _Lottery] = {}
    counts: Counter = Counter()
    kept = _Lottery(f"kept {shards.stage}", 4 * amounts.samples)
    for path in shards.dropped:
        table = pq.read_table(path, columns=["doc_id", "drop_reason"])
        numbers = np.asarray(table.column("doc_id"))
        reasons = np.array([record.reason_class(reason) for reason in table.column("drop_reason").to_pylist()], object)
        for reason in dict.fromkeys(reasons.tolist()):
            own = numbers[reasons == reason]
            counts[reason] += own.size
            lotteries.setdefault(reason, _Lottery(f"{shards.stage} {reason}", amounts.samples)).add(own)
    if not lotteries:
        return []
    for path in shards.kept:
        kept.add(np.asarray(pq.read_table(path, columns=["doc_id"]).column("doc_id")))
    wanted = {int(number) for lottery in lotteries.values() for number in lottery.numbers}
    dropped_rows = fetch(shards.dropped, wanted)
    kept_rows = list(fetch(shards.kept, set(map(int, kept.numbers))).values())
    kept_rows.sort(key=lambda row: row["doc_id"])
    found = []
    for place, (reason, count) in enumerate(counts.most_common()):
        turned = kept_rows[place % max(len(kept_rows), 1) :] + kept_rows[: place % max(len(kept_rows), 1)]
        rows = [dropped_rows[int(number)] for number in lotteries[reason].numbers if int(number) in dropped_rows]
        found.append(RuleSamples(shards.stage, reason, count, rows, turned[: amounts.samples]))
    return found


def _clusters(stages: list[Shards], amounts: Amounts) -> tuple[list[Cluster], Counter]:
    """Return clusters side by side: the largest ones and random ones; and how many there are of each size."""
    clusters: list[Cluster] = []
    sizes: Counter = Counter()
    for shards in stages:
        members: dict[tuple[str, int], list[int]] = {}
        for path in shards.dropped:
            table = pq.read_table(path, columns=["doc_id", "drop_reason"])
            for number, reason in zip(
                table.column("doc_id").to_pylist(), table.column("drop_reason").to_pylist(), strict=True
            ):
                name, _, detail = reason.partition(":")
                if name in _CLUSTER_REASONS and detail.isdecimal():
                    members.setdefault((name, int(detail)), []).append(number)
        if not members:
            continue
        sizes.update(len(others) + 1 for others in members.values())
        by_size = sorted(members, key=lambda key: (-len(members[key]), key))
        drawn = sorted(members, key=lambda key: int(_draw(np.array([key[1]], np.uint64), "cluster")[0]))
        half = (amounts.clusters + 1) // 2
        chosen = list(dict.fromkeys([*by_size[:half], *drawn]))[: amounts.clusters]
        wanted = {number for key in chosen for number in (key[1], *members[key][:2])}
        rows = fetch((*shards.kept, *shards.dropped), wanted)
        clusters += [
            Cluster(
                shards.stage,
                key[0],
                len(members[key]) + 1,
                rows.get(key[1]),
                [rows[number] for number in members[key][:2] if number in rows],
            )
            for key in chosen
        ]
    # near-duplicates are what somebody has to judge
    clusters.sort(key=lambda cluster: _CLUSTER_REASONS.index(cluster.reason))
    return clusters, sizes


def _hits(root: Path, amounts: Amounts) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Return the summary of the decontamination and some of its hits, from every evaluation set."""
    folder = root / "decontamination"
    if not (folder / "summary.json").is_file():
        return None, []
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    by_set: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    with open(folder / "hits.jsonl", encoding="utf-8") as lines:
        for line in lines:
            hit = json.loads(line)
            own = by_set.setdefault(hit["evaluation_set"], [])
            own.append((xxhash.xxh3_64_intdigest(line.encode()), hit))
            if len(own) > 4 * amounts.hits:
                own.sort(key=lambda entry: (not entry[1]["counts"], entry[0]))
                del own[amounts.hits :]
    ordered = [sorted(own, key=lambda entry: (not entry[1]["counts"], entry[0])) for own in by_set.values()]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*ordered))
    return summary, [entry[1] for entry in turns if entry is not None][: amounts.hits]


def _mix(root: Path) -> list[dict[str, Any]]:
    plan = root / "mix" / "plan.json"
    return json.loads(plan.read_text(encoding="utf-8"))["sources"] if plan.is_file() else []
