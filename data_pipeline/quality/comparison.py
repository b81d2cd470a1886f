"""Which of two corpora makes the better model: the same small PanGu-α trained on each, judged on the same clean text.

The paper trained its 350M model on 30 GB of each version of the corpus and compared perplexity on a clean development
set (PanGu-α, section 3.1). Here, so that nothing but the documents differs:

* of each corpus a sample of whole documents, those of smallest hash of their text with the seed;
* documents that are in the clean set, too, are taken out of both (equal in normal form);
* one tokenizer, given or trained on equal parts of both samples;
* the same network, initial weights, number of updates, tokens an update, and learning rates.

Everything lies in the output directory, and what is there is used again: packing by the pipeline's manifest, training
by its checkpoints.
"""

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash
import yaml

from data_pipeline.engine.run_files import write_whole
from data_pipeline.kernels.normal_form import normal_form_table, normalise
from data_pipeline.quality.documents import read_documents
from pangu.foundation.errors import UserError
from pangu.foundation.picture_font import caption, chinese_font

# what a token of Chinese takes in UTF-8, more than which no tokenizer of some thousand pieces reaches
BYTES_A_TOKEN = 6
# fewer clean documents than this judge by chance
LEAST_DOCUMENTS = 20
# held-out points of a curve, and what the clean set has at most for a token of training, so that they cost little
EVALUATIONS = 8
_HELDOUT_SHARE = 0.1
# A model that says in minutes on two cores which corpus is better.
SMALL_MODEL = {
    "num_layers": 4,
    "hidden_size": 128,
    "num_heads": 4,
    "ffn_hidden_size": 512,
    "seq_length": 128,
    "vocab_size": 8000,
    "compute_dtype": "fp32",
    "dropout_rate": 0.0,
}
_PEAK_RATE, _END_RATE = 2e-3, 1e-4  # what the quickstart trains its model with


@dataclass(frozen=True)
class Trial:
    """What is compared, and how much of it is trained on."""

    corpora: tuple[str, str]
    heldout: tuple[str, ...]
    out: Path
    tokens: int
    batch_size: int
    repeats: int
    seed: int
    text_field: str = "text"
    tokenizer: Path | None = None
    vocab_size: int = 4000
    model: str | None = None
    seq_length: int = SMALL_MODEL["seq_length"]  # type: ignore[assignment]

    @property
    def steps(self) -> int:
        """Return updates: as many whole batches as the budget has."""
        return self.tokens // (self.batch_size * self.seq_length)


@dataclass(frozen=True)
class Training:
    """One training: the held-out loss (nats a token) after some numbers of updates."""

    corpus: str
    seed: int
    steps: list[int]
    losses: list[float]


@dataclass(frozen=True)
class CorpusResult:
    """What one corpus came to."""

    corpus: str
    documents: int
    tokens: int  # of the sample
    epochs: float  # how often the training saw it
    in_clean_set: int  # documents taken out because the clean set has them
    perplexity: float  # the geometric mean over the repeats
    lowest: float
    highest: float
    bits_a_byte: float


@dataclass(frozen=True)
class Comparison:
    """Both outcomes; `difference` is ln(perplexity of B / perplexity of A): above 0 where A is better."""

    a: CorpusResult
    b: CorpusResult
    difference: float
    interval: tuple[float, float] | None  # of the difference, 95 %, over the seeds; None from one training of each
    is_clear: bool  # whether the interval leaves 0 out, and LEAST_DOCUMENTS or more judged
    heldout_documents: int
    heldout_tokens: int
    steps: int
    tokens_trained: int
    runs: list[Training]

    @property
    def better(self) -> str | None:
        """Return `A` or `B`; None where no difference is shown."""
        if not self.is_clear:
            return None
        return "A" if self.difference > 0 else "B"

    @property
    def verdict(self) -> str:
        """Return what the trainings show, in a sentence."""
        if self.interval is None:
            return "no verdict from one training of each: --repeats 3 gives an interval"
        if self.heldout_documents < LEAST_DOCUMENTS:
            return f"no verdict from {self.heldout_documents} clean documents: {LEAST_DOCUMENTS} are the least"
        low, high = (math.exp(bound) - 1 for bound in self.interval)
        if self.better is None:
            return f"no difference shown: B's perplexity is {low:+.1%} to {high:+.1%} of A's (95 % interval)"
        return f"{self.better} is better: B's perplexity is {low:+.1%} to {high:+.1%} of A's (95 % interval)"

    def as_dict(self) -> dict[str, Any]:
        """Return everything, the verdict too, for JSON."""
        return {**asdict(self), "better": self.better, "verdict": self.verdict}


def interval_of(differences: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of differences between pairs (Student's t); None of fewer than two."""
    count = len(differences)
    if count < 2:
        return None
    from scipy.special import stdtrit

    mean = sum(differences) / count
    deviation = math.sqrt(sum((one - mean) ** 2 for one in differences) / (count - 1))
    reach = float(stdtrit(count - 1, 0.975)) * deviation / math.sqrt(count)
    return mean - reach, mean + reach


def compare(plan: Trial) -> Comparison:
    """Sample, pack, train and compare. UserError where the input does not allow it."""
    if plan.steps < 1:
        raise UserError(
            f"--tokens {plan.tokens}: fewer than one update has; {plan.batch_size * plan.seq_length} are the least"
        )
    out = plan.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    samples, removed = _samples(plan)
    for name, texts in samples.items():
        lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        _write_if_new(out / name / "documents.jsonl", "".join(lines))
    tokenizer = _tokenizer(plan, out, samples)
    for name in samples:
        _pack(out / name, tokenizer, plan)
    heldout = _index(out / "heldout")["splits"]["train"]
    runs = []
    for name in ("a", "b"):
        _join(out / name, out / "heldout")
        for repeat in range(plan.repeats):
            runs.append(_train(out / name, name.upper(), plan, plan.seed + repeat))
    outcomes = []
    for name, corpus, gone in zip(("a", "b"), plan.corpora, removed, strict=True):
        split = _index(out / name)["splits"]["train"]
        outcomes.append(_outcome(name.upper(), corpus, split, heldout, runs, gone, plan))
    a, b = outcomes
    # the trainings of one seed begin with the same weights and are a pair
    losses = {(run.corpus, run.seed): run.losses[-1] for run in runs}
    seeds = [plan.seed + repeat for repeat in range(plan.repeats)]
    interval = interval_of([losses["B", seed] - losses["A", seed] for seed in seeds])
    comparison = Comparison(
        a,
        b,
        math.log(b.perplexity / a.perplexity),
        interval,
        interval is not None and not interval[0] <= 0 <= interval[1] and heldout["documents"] >= LEAST_DOCUMENTS,
        heldout["documents"],
        heldout["tokens"],
        plan.steps,
        plan.steps * plan.batch_size * plan.seq_length,
        runs,
    )
    write_whole(out / "compare.json", json.dumps(comparison.as_dict(), indent=1) + "\n")
    return comparison


def _samples(plan: Trial) -> tuple[dict[str, list[str]], list[int]]:
    """Return the texts of A, B and the clean set, and how many of A's and B's were in the clean set."""
    limit = plan.tokens * BYTES_A_TOKEN
    heldout = sample_bytes(_texts(plan.heldout, plan.text_field), int(limit * _HELDOUT_SHARE), plan.seed)
    known = set(_normal_hashes(heldout))
    samples = {"heldout": heldout}
    removed = []
    for name, corpus in zip(("a", "b"), plan.corpora, strict=True):
        texts = sample_bytes(_texts([corpus], plan.text_field), limit, plan.seed)
        kept = [text for text, number in zip(texts, _normal_hashes(texts), strict=True) if number not in known]
        if not kept:
            raise UserError(f"{corpus}: no document is left that the clean set does not have, too")
        samples[name] = kept
        removed.append(len(texts) - len(kept))
    return samples, removed


def _texts(paths: Sequence[str], text_field: str) -> Iterator[str]:
    found = False
    for document in read_documents(paths, text_field):
        if document.text.strip():
            found = True
            yield document.text
    if not found:
        raise UserError(f"{', '.join(paths)}: no document with text")


def sample_bytes(texts: Iterable[str], limit: int, seed: int) -> list[str]:
    """Return different texts of about `limit` bytes (UTF-8) together, those of smallest hash with the seed, in its
    order.

    The first text that goes over the limit is still taken. The order of `texts` does not matter.
    """
    chosen: dict[int, str] = {}
    size = 0
    ceiling = 1 << 64
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        number = xxhash.xxh3_64_intdigest(data, seed)
        if number < ceiling and number not in chosen:
            chosen[number] = text
            size += len(data)
            if size > 2 * limit + (1 << 20):
                chosen, size = _up_to(chosen, limit)
                ceiling = next(reversed(chosen))
    return list(_up_to(chosen, limit)[0].values())


def _up_to(chosen: dict[int, str], limit: int) -> tuple[dict[int, str], int]:
    kept: dict[int, str] = {}
    size = 0
    for number, text in sorted(chosen.items()):
        if size >= limit:
            break
        kept[number] = text
        size += len(text.encode("utf-8", "surrogatepass"))
    return kept, size


def _normal_hashes(texts: Sequence[str]) -> list[int]:
    values, offsets = normalise(pa.array(texts, pa.large_string()), normal_form_table())
    return [
        xxhash.xxh3_64_intdigest(values[start:end].tobytes())
        for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ]


def _write_if_new(path: Path, text: str) -> None:
    """Write a file; one that is there with the same content keeps its time, so that the pipeline has nothing to do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_whole(path, text)


def _tokenizer(plan: Trial, out: Path, samples: dict[str, list[str]]) -> Path:
    """Return the given one, or one trained on both samples, alternating as long as both have documents."""
    if plan.tokenizer is not None:
        return plan.tokenizer.resolve()
    from data_pipeline.stages.tokenizer.training_process import train_tokenizer

    both = [text for pair in zip(samples["a"], samples["b"], strict=False) for text in pair]
    path = out / "tokenizer"
    digest = xxhash.xxh3_128_hexdigest("\x1e".join(both).encode("utf-8", "surrogatepass"))
    note = out / "tokenizer.txt"
    wanted = f"{plan.vocab_size} pieces, seed {plan.seed}, texts {digest}\n"
    if not (note.is_file() and note.read_text() == wanted):
        train_tokenizer(both, path, vocab_size=plan.vocab_size, seed=plan.seed, threads=2)
        write_whole(note, wanted)
    return path


def _pack(folder: Path, tokenizer: Path, plan: Trial) -> None:
    """Pack every document of the folder; nothing is held out, the clean set is the held-out one."""
    from data_pipeline.engine import run_recipe
    from data_pipeline.engine.progress import Quiet
    from data_pipeline.recipe import Recipe

    recipe = {
        "sources": [{"name": folder.name, "paths": ["documents.jsonl"]}],
        "stages": [
            "read",
            {"tokenizer": {"use": str(tokenizer)}},
            {"pack": {"seq_length": plan.seq_length, "heldout_fraction": 0, "seed": plan.seed}},
        ],
    }
    _write_if_new(folder / "recipe.yaml", yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    run_recipe.run(Recipe.load(folder / "recipe.yaml"), folder / "corpus", Quiet())


def _index(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "corpus" / "packed" / "packed.json").read_text(encoding="utf-8"))


def _join(folder: Path, heldout: Path) -> None:
    """Make `data/`: the corpus's samples to train on, the clean set's to be judged by. Files are named, not copied."""
    index, clean = _index(folder), _index(heldout)
    splits = {}
    for name, place, source in (("train", f"../{folder.name}", index), ("heldout", "../heldout", clean)):
        split = source["splits"]["train"]
        files = [f"../{place}/corpus/packed/{file}" for file in split["files"]]
        splits[name] = {**split, "files": files}
    data = folder / "data"
    data.mkdir(exist_ok=True)
    shutil.copytree(folder / "corpus" / "packed" / "tokenizer", data / "tokenizer", dirs_exist_ok=True)
    _write_if_new(data / "packed.json", json.dumps({**index, "splits": splits}, indent=2) + "\n")


def _train(folder: Path, label: str, plan: Trial, seed: int) -> Training:
    """Return `python -m pangu train` in a process of its own; it goes on from its newest checkpoint."""
    run = folder / f"run-{seed}"
    model = plan.model
    if model is None:
        model = str(folder.parent / "model.yaml")
        _write_if_new(Path(model), yaml.safe_dump(SMALL_MODEL, sort_keys=False))
    elif Path(model).is_file():
        model = str(Path(model).resolve())
    every = max(1, plan.steps // EVALUATIONS)
    config = {
        "data": str(folder / "data"),
        "out": str(run),
        "model": model,
        "fit_vocabulary": True,
        "steps": plan.steps,
        "batch_size": plan.batch_size,
        "seed": seed,
        "learning_rate": {"peak": _PEAK_RATE, "end": _END_RATE, "warmup_steps": max(1, plan.steps // 10)},
        "evaluate_every": every,
        "evaluate_samples": 1 << 20,
        "checkpoint_every": max(every, plan.steps // 2),
        "keep_last": 1,
    }
    path = folder / f"train-{seed}.yaml"
    _write_if_new(path, yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, "-m", "pangu", "train", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment())
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit {done.returncode}")
        raise UserError(f"training on {label} ({path}): {last.removeprefix('error: ')}")
    steps, losses = [], []
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "heldout_loss" in record:
            steps.append(record["step"])
            losses.append(record["heldout_loss"])
    return Training(label, seed, steps, losses)


def _environment() -> dict[str, str]:
    """Return this process's environment, with the place of `pangu` on the path, wherever the command was called."""
    specification = importlib.util.find_spec("pangu")
    if specification is None or specification.origin is None:
        raise UserError("the package `pangu`, which trains, is not installed here")
    root = str(Path(specification.origin).parent.parent)
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": root if not path else root + os.pathsep + path}


def _outcome(
    label: str,
    corpus: str,
    split: dict[str, Any],
    heldout: dict[str, Any],
    runs: list[Training],
    removed: int,
    plan: Trial,
) -> CorpusResult:
    losses = [run.losses[-1] for run in runs if run.corpus == label]
    mean = sum(losses) / len(losses)
    return CorpusResult(
        corpus,
        split["documents"],
        split["tokens"],
        plan.steps * plan.batch_size / split["samples"],
        removed,
        math.exp(mean),
        math.exp(min(losses)),
        math.exp(max(losses)),
        mean * heldout["tokens"] / heldout["bytes_of_text"] / math.log(2),
    )


@chinese_font()
def draw(path: Path, comparison: Comparison) -> None:
    """Draw the held-out perplexity of both as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for label, outcome, colour in (("A", comparison.a, "#2171b5"), ("B", comparison.b, "#d94801")):
        own = [run for run in comparison.runs if run.corpus == label]
        for number, run in enumerate(own):
            name = caption(f"{label}: {Path(outcome.corpus).name}, perplexity {outcome.perplexity:,.1f}")
            perplexities = [math.exp(min(loss, 700)) for loss in run.losses]
            axes.plot(run.steps, perplexities, "o-", color=colour, markersize=3, label=None if number else name)
    axes.set(
        xlabel=caption(f"updates ({comparison.tokens_trained // comparison.steps:,} tokens each)"),
        ylabel=caption("perplexity a token on the clean set"),
        yscale="log",
        title=caption("the same model trained on two corpora"),
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, metadata={"Software": None})
