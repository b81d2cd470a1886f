"""Write the report of an evaluation: scores beside the paper's, and wrong answers to look at, in one HTML file."""

import html
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pangu.evaluation.evaluate import Score
from pangu.foundation.atomic_file import write_whole
from pangu.foundation.page import page

SHOWN = 12  # wrong answers of a task
LONGEST = 600  # characters of a context

STYLE = """
td.text { text-align: left; max-width: 46rem; white-space: pre-wrap } th.text { text-align: left }
.wrong { color: var(--bad) } .right { color: var(--good) } .soft { color: var(--soft) }
.mark { display: grid; grid-template-columns: minmax(6.5rem, 15%) 1fr 3.2rem; gap: 10px; align-items: center }
.mark > :last-child { text-align: right; font-variant-numeric: tabular-nums }
.track { position: relative; height: 1.1rem; border-bottom: 1px solid var(--line) }
.track i { position: absolute; top: 0; height: 100%; transform: translateX(-50%); font-style: normal;
  line-height: 1.1rem }
.chance { color: var(--soft) } .paper { color: var(--link) } .ours { color: var(--good) }
.spread { background: var(--good); opacity: 0.25; height: 100%; position: absolute; top: 0 }
details { border-top: 1px solid var(--line); padding: 6px 0 } summary { cursor: pointer }
"""

HEAD = (
    "<th>task</th><th>metric</th><th>score</th><th>± s.e.</th><th>N</th><th>chance</th><th>majority</th>"
    "<th>paper: CPM 2.6B</th><th>paper: 2.6B</th><th>paper: 13B</th><th>comparable</th>"
)
LEGEND = (
    "<li>Scores are percent, a perplexity is itself. ± s.e.: standard error of the mean over N documents.</li>"
    "<li>ppl: the candidate with the lowest perplexity of the scored text, the paper's rule. acc: the one with the"
    " highest log-likelihood; acc_norm: per character; acc_bytes: per byte.</li>"
    "<li>majority: the share of the most frequent label, which an answer that never looks at the text gets.</li>"
)


def write_page(path: Path, title: str, scores: Sequence[Score]) -> None:
    """Write the page of some scores; their answers lie beside it."""
    body = [f"<main><h1>{html.escape(title)}</h1>", _picture(scores), _table(scores)]
    body += [_wrong(path.parent / score.file, score) for score in scores]
    write_whole(path, page(title, "".join([*body, "</main>"]), style=STYLE))


def _picture(scores: Sequence[Score]) -> str:
    """Draw the first score of every task between 0 and 100, with its standard error, beside chance and the paper."""
    rows = []
    for score in scores:
        metric, value = next(iter(score.scores.items()))
        if metric == "perplexity":
            continue
        error = score.standard_errors.get(metric, 0.0)
        low, high = max(0.0, value - error), min(100.0, value + error)
        marks = [f'<span class="spread" style="left:{low:.2f}%;width:{high - low:.2f}%"></span>']
        if score.chance is not None:
            marks.append(_mark("chance", "|", score.chance))
        if "2.6B" in score.paper.get(metric, {}):
            marks.append(_mark("paper", "◇", score.paper[metric]["2.6B"]))
        marks.append(_mark("ours", "●", value))
        rows.append(
            f'<div class="mark"><span>{html.escape(score.task)}</span><span class="track" aria-hidden="true">'
            f"{''.join(marks)}</span><span>{value:.1f}</span></div>"
        )
    return (
        "<p><span class='ours'>●</span> <span>this model, with its standard error</span> · "
        "<span class='chance'>|</span> <span>chance</span> · <span class='paper'>◇</span> <span>the paper's 2.6B</span>"
        f" · <span>0 to 100</span></p>{''.join(rows)}<h2>All scores</h2>"
    )


def _mark(kind: str, sign: str, value: float) -> str:
    return f'<i class="{kind}" style="left:{value:.2f}%">{sign}</i>'


def _table(scores: Sequence[Score]) -> str:
    rows = [f"<tr>{HEAD}</tr>"]
    for score in scores:
        for number, (name, value) in enumerate(score.scores.items()):
            paper = score.paper.get(name, {})
            cells = [
                f"{score.task}, {score.setting.shots}-shot" if number == 0 else "",
                name,
                f"{value:.2f}",
                f"{score.standard_errors.get(name, 0):.2f}",
                f"{score.documents:,}",
                "" if score.chance is None else f"{score.chance:.1f}",
                "" if score.majority is None else f"{score.majority:.1f}",
                *(f"{paper[model]:.2f}" if model in paper else "" for model in ("CPM 2.6B", "2.6B", "13B")),
                ("yes" if score.comparable else "no") if paper else "",
            ]
            rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    notes = "".join(f"<li>{score.task}: {html.escape(score.note)}</li>" for score in scores if score.note)
    return f'<div class="scroll"><table>{"".join(rows)}</table></div><ul class="soft">{LEGEND}{notes}</ul>'


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").split("\n")[1:]:
        if line:
            yield json.loads(line)


def _wrong(path: Path, score: Score) -> str:
    metric = next(iter(score.scores))
    rule = metric if metric in ("acc", "acc_norm", "acc_bytes", "acc_mutual_info") else "ppl"
    shown: list[str] = []
    for row in _rows(path):
        is_wrong = row["chosen"][rule] != row["gold"] if "chosen" in row else row["scores"][metric] < 1
        if is_wrong and len(shown) < SHOWN:
            shown.append(_answer(row, rule))
    head = f"<h2>{html.escape(score.title)}</h2><p class='soft'>Wrong answers, the first {len(shown)}.</p>"
    return head + "".join(shown)


def _answer(row: dict[str, Any], rule: str) -> str:
    context = html.escape(row["context"][-LONGEST:])
    if "chosen" not in row:
        wanted = html.escape(" / ".join(row["answers"]))
        text = html.escape(row["text"])
        inner = f"<p>{context}<b class='wrong'>{text}</b></p><p class='right'>{wanted}</p>"
        return f"<details><summary>{html.escape(row['id'])}: {text[:40]}</summary>{inner}</details>"
    lines = []
    for number, (label, scored, total, count) in enumerate(
        zip(row["labels"], row["scored"], row["totals"], row["tokens"], strict=True)
    ):
        kind = "right" if number == row["gold"] else "wrong" if number == row["chosen"][rule] else "soft"
        words = html.escape(f"{label}: {scored[:LONGEST]}")
        figures = f"<td>{-total / count:.3f}</td><td>{count}</td>"
        lines.append(f"<tr><td class='text {kind}'>{words}</td>{figures}</tr>")
    table = (
        f"<table><tr><th class='text'>candidate</th><th>nats a token</th><th>tokens</th></tr>{''.join(lines)}</table>"
    )
    chosen = html.escape(row["labels"][row["chosen"][rule]])
    right = html.escape(row["labels"][row["gold"]])
    summary = f"{html.escape(row['id'])}: {chosen} instead of {right}"
    return f"<details><summary>{summary}</summary><p>{context}</p><div class='scroll'>{table}</div></details>"
