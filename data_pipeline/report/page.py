"""The report as one page: HTML, CSS and SVG, no script, nothing from elsewhere. The content policy of the page forbids
both, so that hostile text in a record could do nothing even if the escaping failed."""

import difflib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.engine.run_recipe import unfinished_in_words
from data_pipeline.report import charts
from data_pipeline.report.collect import Amounts, Cluster, Report, RuleSamples
from data_pipeline.report.escape import excerpt, text
from data_pipeline.stages.read.source_files import kinds_in_words
from pangu.foundation.page import page

# what reasons mean, for a reader who does not know the rules
_MEANINGS = {
    "too_short": "too little text",
    "han_share": "too few Chinese characters",
    "title_only": "nothing but its title",
    "advertisement": "words of advertisements",
    "contact_lines": "too many contact lines",
    "duplicate_of": "the same as another document",
    "near_duplicate_of": "nearly the same as another",
    "only_boilerplate": "nothing but text that many documents share",
    "only_repeats": "nothing that was not there before",
    "contaminated": "text of an evaluation set",
    "not_sampled": "not needed for the mixture",
    "sensitive": "too many sensitive words",
    "not_json": "not readable as JSON",
    "no_text": "no text in it",
    "no_records": "a file in which nothing is",
    "unknown_charset": "no encoding makes sense",
    "http_status": "an error page",
    "quarantined": "broke the program that read it",
}


def render(report: Report, amounts: Amounts) -> str:
    """Return the page."""
    sections = [
        ("overview", "Overview", _overview(report)),
        ("funnel", "Funnel", _funnel(report)),
        ("rules", "Rules", _rules(report)),
        ("sources", "Sources", _sources(report)),
        ("tokens", "Tokens", _tokens(report)),
        ("languages", "Languages and encodings", _languages(report)),
        ("signals", "Signals", _signals(report)),
        ("samples", "Samples", _samples(report.samples, amounts)),
        ("duplicates", "Duplicates", _duplicates(report, amounts)),
        ("decontamination", "Decontamination", _decontamination(report)),
        ("settings", "Settings", _settings(report)),
    ]
    links = "".join(f'<a href="#{name}">{text(title)}</a>' for name, title, _ in sections[1:])
    body = "".join(f'<section id="{name}">{content}</section>' for name, _, content in sections)
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    return page(
        f"{report.name} · corpus report",
        f"<nav><b>{text(report.name)}</b>{links}</nav><main>{body}</main>"
        "<footer>Made by <code>python -m data_pipeline report</code>. Samples are drawn by a hash of the document's "
        "number: the same run gives the same page.</footer>",
        style=style,
    )


def _overview(report: Report) -> str:
    read = sum(row.documents_in for row in report.sources)
    kept = sum(row.documents_out for row in report.sources)
    bytes_in, bytes_out = (sum(getattr(row, name) for row in report.sources) for name in ("bytes_in", "bytes_out"))
    seconds = sum(summary.seconds for summary in report.summaries)
    reasons: Counter = Counter()
    for row in report.sources:
        reasons.update(row.dropped)
    share = 100 * kept / read if read else 0
    most = [f"{_meaning(reason.partition(': ')[2])} ({count:,})" for reason, count in reasons.most_common(3)]
    lost = f" Most were dropped for: {', '.join(most)}." if most else ""
    headline = f"Of {read:,} documents from {len(report.sources)} sources, {kept:,} are left ({share:.1f} %).{lost}"
    cards = [
        (f"{read:,}", "documents read"),
        (f"{kept:,}", "documents in the corpus"),
        (_size(bytes_in), "of text read"),
        (_size(bytes_out), "of it are left"),
        (f"{len(report.cluster_sizes) and sum(report.cluster_sizes.values()):,}", "clusters of duplicates"),
        (f"{(report.decontamination or {}).get('counted_hits', 0):,}", "contaminated passages"),
        (_duration(seconds), "of work, all processes"),
    ]
    body = "".join(f'<div class="card"><b>{text(value)}</b><span>{text(label)}</span></div>' for value, label in cards)
    warning = unfinished_in_words(report.summaries)
    if warning is not None:
        headline = f"{warning[0].upper()}{warning[1:]}. {headline}"
    files: Counter = Counter()
    for summary in report.summaries:
        files.update(summary.files)
    if files:
        headline += f" Files: {kinds_in_words(files)}."
    return f'<h1>{text(report.name)}</h1><p class="headline">{text(headline)}</p><div class="cards">{body}</div>'


def _funnel(report: Report) -> str:
    rows = [
        (summary.name, summary.documents_in, summary.documents, list(summary.dropped.items()))
        for summary in report.summaries
        if summary.documents_in
    ]
    return (
        "<h2>Funnel</h2><p>What went into each stage and what came out. The orange end of a bar is what was dropped, a "
        "piece for each reason; hold the pointer over it for its name.</p>"
        f'<div class="legend"><i class="kept"></i>kept<i class="dropped"></i>dropped</div>'
        f'<div class="scroll">{charts.funnel(rows)}</div>'
    )


def _rules(report: Report) -> str:
    words = {(rule.stage, rule.rule): rule.in_words() for rule in report.thresholds}
    rows = []
    most = max((count for summary in report.summaries for count in summary.dropped.values()), default=1)
    for summary in report.summaries:
        for reason, count in summary.dropped.items():
            share = count / summary.documents_in if summary.documents_in else 0
            meaning = words.get((summary.name, reason)) or _meaning(reason)
            rows.append(
                f'<tr><td>{text(summary.name)}</td><td class="rule"><b>{text(reason)}</b></td><td>{text(meaning)}</td>'
                f'<td class="number">{count:,}</td><td class="number">{100 * share:.2f} %</td>'
                f'<td class="bar">{charts.bar(count / most, "dropped")}</td></tr>'
            )
    head = (
        '<tr><th>stage</th><th>rule</th><th>drops</th><th class="number">documents</th>'
        '<th class="number">of its input</th><th></th></tr>'
    )
    table = (
        f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>' if rows else _empty("Nothing was dropped.")
    )
    silent = [rule for rule in report.thresholds if not _dropped(report, rule.stage, rule.rule)]
    quiet = ""
    if silent:
        names = ", ".join(f"<code>{text(rule.rule)}</code> ({text(rule.in_words())})" for rule in silent)
        quiet = f"<h3>Rules that dropped nothing</h3><p>{names}</p>"
    return (
        f"<h2>Rules</h2><p>Each rule with what it drops. A document goes by the first rule it breaks.</p>{table}{quiet}"
    )


def _dropped(report: Report, stage: str, rule: str) -> int:
    return sum(summary.dropped.get(rule, 0) for summary in report.summaries if summary.name == stage)


def _sources(report: Report) -> str:
    planned = {source["name"]: source for source in report.mix}
    rows = []
    for row in report.sources:
        share = row.documents_out / row.documents_in if row.documents_in else 0
        reasons = ", ".join(f"{reason.partition(': ')[2]} {count:,}" for reason, count in row.dropped.most_common(3))
        mix = f'<td class="number">{planned[row.name]["epochs"]:.2f} ×</td>' if row.name in planned else "<td></td>"
        rows.append(
            f'<tr><td><b>{text(row.name)}</b></td><td class="number">{row.documents_in:,}</td>'
            f'<td class="number">{_size(row.bytes_in)}</td><td class="number">{row.documents_out:,}</td>'
            f'<td class="number">{100 * share:.1f} %</td><td class="bar">{charts.bar(share)}</td>'
            f'{mix if planned else ""}<td class="rule">{text(reasons)}</td></tr>'
        )
    head = (
        '<tr><th>source</th><th class="number">read</th><th class="number">text</th><th class="number">left</th>'
        f'<th class="number">share</th><th></th>{"<th class=number>taken</th>" if planned else ""}'
        "<th>most dropped for</th></tr>"
    )
    table = f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'
    return f"<h2>Sources</h2><p>Where the documents came from and how many are left.</p>{table}"


def _tokens(report: Report) -> str:
    """Return the tokenizer, the tokens of each source, and the samples that were packed of them."""
    if not report.tokens and report.packing is None:
        return "<h2>Tokens</h2>" + _empty("This run has no stage that packs.")
    parts = ["<h2>Tokens</h2>"]
    packing = report.packing
    if packing is not None:
        parts.append(
            f"<p>Tokenizer: {packing.vocab_size:,} pieces, fingerprint <code>{text(packing.fingerprint[:16])}</code>. "
            f"A sample has {packing.seq_length:,} tokens.</p>"
        )
        body = "".join(
            f'<tr><td><b>{text(name)}</b></td><td class="number">{split["documents"]:,}</td>'
            f'<td class="number">{split["tokens"]:,}</td><td class="number">{split["samples"]:,}</td></tr>'
            for name, split in packing.splits.items()
        )
        head = "<tr><th>split</th>" + "".join(
            f'<th class="number">{name}</th>' for name in ("documents", "tokens", "samples")
        )
        head += "</tr>"
        parts.append(f'<div class="scroll"><table>{head}{body}</table></div>')
    total = sum(row.tokens for row in report.tokens)
    body = "".join(
        f'<tr><td><b>{text(row.source)}</b></td><td class="number">{row.documents:,}</td>'
        f'<td class="number">{_size(row.bytes)}</td><td class="number">{row.tokens:,}</td>'
        f'<td class="number">{row.bytes / max(row.tokens, 1):.2f}</td>'
        f'<td class="number">{100 * row.tokens / max(total, 1):.1f} %</td>'
        f'<td class="bar">{charts.bar(row.tokens / max(total, 1))}</td></tr>'
        for row in report.tokens
    )
    head = (
        '<tr><th>source</th><th class="number">documents</th><th class="number">text</th><th class="number">tokens</th>'
        '<th class="number">bytes a token</th><th class="number">share</th><th></th></tr>'
    )
    return "".join(parts) + f'<h3>By source</h3><div class="scroll"><table>{head}{body}</table></div>'


def _languages(report: Report) -> str:
    return (
        "<h2>Languages and encodings</h2><p>Languages of what is left; encodings of the pages as they were found.</p>"
        f'<div class="sides"><div><h4>Languages</h4>{_counts(report.languages)}</div>'
        f"<div><h4>Encodings</h4>{_counts(report.encodings)}</div></div>"
    )


def _counts(counts: Counter) -> str:
    if not counts:
        return _empty("Nothing was noted.")
    total = sum(counts.values())
    rows = "".join(
        f'<tr><td>{text(name)}</td><td class="number">{count:,}</td><td class="number">{100 * count / total:.1f} %</td>'
        f'<td class="bar">{charts.bar(count / total)}</td></tr>'
        for name, count in counts.most_common(20)
    )
    return f"<table>{rows}</table>"


def _signals(report: Report) -> str:
    judged = [histogram for histogram in report.histograms if histogram.thresholds]
    others = [histogram for histogram in report.histograms if not histogram.thresholds]
    legend = (
        '<div class="legend"><i class="kept"></i>kept<i class="dropped"></i>dropped by its stage'
        '<i class="line"></i>threshold</div>'
    )
    sample = any(histogram.is_sample for histogram in report.histograms)
    note = " Drawn from a sample of the documents." if sample else ""
    body = f'<div class="grid">{"".join(map(_figure, judged))}</div>' if judged else _empty("No rule has a threshold.")
    more = ""
    if others:
        more = (
            f"<details><summary>Signals without a threshold <span>{len(others)}</span></summary>"
            f'<div class="grid">{"".join(map(_figure, others))}</div></details>'
        )
    return (
        "<h2>Signals</h2><p>What was measured of every document, and where the thresholds cut. "
        f"<code>tune RULE</code> shows what another threshold would drop.{note}</p>{legend}{body}{more}"
    )


def _figure(histogram: Any) -> str:
    scale = " · logarithmic" if histogram.is_logarithmic else ""
    scale += " · heights as roots" if charts.has_root_scale(histogram) else ""
    rules = " · ".join(rule.rule for rule in histogram.thresholds)
    detail = f"{histogram.stage}{' · ' + rules if rules else ''}{scale}"
    return (
        f"<figure><figcaption><code>{text(histogram.signal)}</code> <span>{text(detail)}</span></figcaption>"
        f"{charts.histogram(histogram)}</figure>"
    )


def _samples(samples: Sequence[RuleSamples], amounts: Amounts) -> str:
    if not samples:
        return "<h2>Samples</h2>" + _empty("No stage dropped anything.")
    parts = []
    for sample in samples:
        dropped = "".join(_record(row, amounts, is_dropped=True) for row in sample.dropped)
        kept = "".join(_record(row, amounts) for row in sample.kept) or _empty("Nothing was kept.")
        sides = _sides("Dropped, at random", dropped, "Kept by the stage, at random", kept)
        parts.append(
            f"<details><summary><code>{text(sample.stage)} · {text(sample.rule)}</code> "
            f"<span>{text(_meaning(sample.rule))}, {sample.count:,} dropped</span></summary>{sides}</details>"
        )
    words = "Random documents that each rule dropped, beside random ones that stayed."
    return f"<h2>Samples</h2><p>{words}</p>{''.join(parts)}"


def _record(row: dict[str, Any], amounts: Amounts, is_dropped: bool = False) -> str:
    reason = f' · <span class="reason">{text(row["drop_reason"])}</span>' if is_dropped else ""
    return _box(_origin(row) + reason, excerpt(row["text"], amounts.characters), is_dropped)


def _box(header: str, body: str, is_dropped: bool) -> str:
    """Return a record: `header` and `body` are HTML already."""
    kind = "record dropped" if is_dropped else "record"
    header = f"<header>{header}</header>" if header else ""
    return f'<div class="{kind}">{header}<div class="text">{body}</div></div>'


def _origin(row: dict[str, Any]) -> str:
    name = row["id"] if row["id"] is not None else row["doc_id"]
    return f"{text(row['source'])} · {text(str(name)[:120])}"


def _sides(left_title: str, left: str, right_title: str, right: str) -> str:
    return (
        f'<div class="sides"><div><h4>{text(left_title)}</h4>{left}</div>'
        f"<div><h4>{text(right_title)}</h4>{right}</div></div>"
    )


def _duplicates(report: Report, amounts: Amounts) -> str:
    if not report.clusters:
        return "<h2>Duplicates</h2>" + _empty("No duplicates were found, or no stage looked for them.")
    sizes = Counter({f"{size} documents": count for size, count in sorted(report.cluster_sizes.items())})
    parts = "".join(_cluster(cluster, amounts, is_open=place == 0) for place, cluster in enumerate(report.clusters))
    return (
        "<h2>Duplicates</h2><p>Clusters of documents that are the same or nearly so: the one that was kept, and some "
        f"of those that went. What differs from the kept one is marked.</p>{_counts(sizes)}<h3>Side by side</h3>{parts}"
    )


def _cluster(cluster: Cluster, amounts: Amounts, is_open: bool) -> str:
    kept = cluster.representative
    original = (kept["text"] or "")[: amounts.characters] if kept else ""
    left = _record(kept, amounts) if kept else _empty("Dropped by a later stage or not found.")
    right = "".join(
        _box(_origin(row), _difference(original, (row["text"] or "")[: amounts.characters]), is_dropped=True)
        for row in cluster.others
    )
    sides = _sides("Kept", left, f"Dropped ({len(cluster.others)} of {cluster.size - 1})", right)
    return (
        f"<details{' open' if is_open else ''}><summary><code>{text(cluster.reason)}</code> "
        f"<span>{cluster.size} documents, stage {text(cluster.stage)}: {_beginning(original)}</span></summary>"
        f"{sides}</details>"
    )


def _beginning(whole: str) -> str:
    words = " ".join(whole.split())
    return text(words[:36]) + ("…" if len(words) > 36 else "")


def _difference(before: str, after: str) -> str:
    """Return `after`, what is not in `before` marked."""
    parts = []
    for kind, _, _, start, end in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        piece = text(after[start:end])
        parts.append(f"<ins>{piece}</ins>" if kind in ("replace", "insert") else piece)
    return "".join(parts)


def _decontamination(report: Report) -> str:
    if report.decontamination is None:
        return "<h2>Decontamination</h2>" + _empty("No stage looked for evaluation sets.")
    rows = "".join(
        f'<tr><td><b>{text(name)}</b></td><td class="number">{counts["documents"]:,}</td>'
        f'<td class="number">{counts["counted_hits"]:,}</td><td class="number">{counts["hits"]:,}</td>'
        f'<td class="number">{counts["characters"]:,}</td></tr>'
        for name, counts in report.decontamination["sets"].items()
    )
    head = (
        '<tr><th>evaluation set</th><th class="number">documents</th><th class="number">passages</th>'
        '<th class="number">all hits</th><th class="number">characters</th></tr>'
    )
    hits = "".join(_hit(hit, is_open=place < 2) for place, hit in enumerate(report.hits))
    table = f'<div class="scroll"><table>{head}{rows}</table></div>' if rows else _empty("Nothing was found.")
    action = "cut out" if report.decontamination["action"] == "cut" else "dropped with their documents"
    return (
        f"<h2>Decontamination</h2><p>Passages of evaluation sets that were found in the corpus; they were {action}. "
        f"All of them are in <code>decontamination/hits.jsonl</code>.</p>{table}"
        f"{'<h3>Hits</h3>' + hits if hits else ''}"
    )


def _hit(hit: dict[str, Any], is_open: bool) -> str:
    note = "" if hit["counts"] else ", too weak: left"
    sides = _sides(
        "In the corpus",
        _passage(hit, "corpus"),
        f"{hit['evaluation_file']}, {hit['evaluation_place']}",
        _passage(hit, "evaluation"),
    )
    return (
        f"<details{' open' if is_open else ''}><summary>{text(hit['evaluation_set'])} "
        f"<span>{hit['characters']:,} characters in {_origin(hit)}{note}</span></summary>{sides}</details>"
    )


def _passage(hit: dict[str, Any], side: str) -> str:
    before, inside, after = (text(hit[f"{side}_{part}"]) for part in ("before", "text", "after"))
    body = f'<span class="context">{before}</span><mark>{inside}</mark><span class="context">{after}</span>'
    return _box("", body, is_dropped=side == "corpus")


def _settings(report: Report) -> str:
    parts = []
    for name, settings in report.settings.items():
        rows = "".join(
            f"<tr><td><code>{text(key)}</code></td><td>{excerpt(json.dumps(value, ensure_ascii=False), 600)}</td></tr>"
            for key, value in settings.items()
        )
        table = f'<div class="scroll"><table>{rows}</table></div>'
        parts.append(f"<details><summary><code>{text(name)}</code></summary>{table}</details>")
    return f"<h2>Settings</h2><p>With which settings each stage was last run.</p>{''.join(parts)}"


def _meaning(reason: str) -> str:
    return _MEANINGS.get(reason, reason.replace("_", " "))


def _empty(words: str) -> str:
    return f'<p class="empty">{text(words)}</p>'


def _size(size: int) -> str:
    for unit, power in (("TB", 12), ("GB", 9), ("MB", 6), ("kB", 3)):
        if size >= 10**power:
            return f"{size / 10**power:.3g} {unit}"
    return f"{size} B"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
