"""Compile the kernels ahead of the first run.

    python -m data_pipeline warm

The machine code goes beside the installed package, where every user of this machine finds it. Where that folder cannot
be written, it goes into the cache of this user. It belongs to this version and this processor, and takes 20 to 60 s of
processor time."""

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

from pangu.foundation.best_effort import print_translated

# each in a process of its own
PARTS = ("pages", "texts", "models")
_PAGE = (
    "<html><head><title>题目</title></head><body><div class='nav'><a href='/'>首页</a></div><article><h1>题目</h1>"
    "<p>春天来了，花园里的花都开了，红的、黄的、白的，非常好看。10<sup>8</sup> <img src='a.png' alt='图'></p>"
    "<pre><code class='language-python'>print(1)\nprint(2)</code></pre>"
    "<table><tr><th>甲</th><th>乙</th></tr><tr><td>1</td><td>2</td></tr></table><ul><li>一</li><li>二</li></ul>"
    "</article></body></html>"
)
_RECIPE = """
sources:
- {name: a, paths: a.jsonl}
workers: 1
stages:
- read
- clean: {minimum_characters: 1}
- filter
- dedup_exact
- dedup_fuzzy
- dedup_paragraph: {documents: 1}
- dedup_substring
- decontaminate: {evaluation: [test.jsonl]}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb: none."""


def run(arguments: argparse.Namespace) -> int:
    """Compile, and say in what time."""
    from data_pipeline.kernels import first_use
    from pangu.foundation.errors import UserError

    began = time.monotonic()
    first_use.write_beside()
    import data_pipeline.engine.run_recipe  # noqa: F401 (what is not installed is said here, and not by each process)

    # a process each: whatever this one has compiled already, they do it as a new one would
    processes = [multiprocessing.Process(target=compile_part, args=(part,)) for part in PARTS]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise UserError("warm: the kernels could not be compiled; the lines above say why")
    left = first_use.missing_kernels(first_use.STAGE_KERNELS, has_pages=True)
    if left:
        raise UserError(
            "warm: no folder for machine code can be written, beside the package or in the user's cache;"
            " NUMBA_CACHE_DIR names another"
        )
    print_translated(f"kernels are compiled; {time.monotonic() - began:.0f} s")
    return 0


def compile_part(part: str) -> None:
    """Call every kernel of a part as runs do."""
    from data_pipeline.kernels import first_use

    first_use.write_beside()
    {"pages": _pages, "texts": _texts, "models": _models}[part]()


def _pages() -> None:
    from data_pipeline.extraction.extract import Form, extract

    for form in (Form(), Form("markdown", True, True)):
        extract(_PAGE.encode(), form=form)


def _documents() -> list[str]:
    sentences = (
        "今天的天气很好，孩子们在公园里放风筝。",
        "经济学家认为，明年的增长速度将会放慢。",
        "他每天早上六点起床。",
    )
    shared = "本站所有内容版权归原作者所有，未经许可不得以任何形式转载或者摘编，违者将依法追究责任。" * 2
    return [f"第{number}篇。{sentences[number % 3] * (number + 3)}\n\n{shared}" for number in range(24)]


def _texts() -> None:
    import json

    from data_pipeline.engine import run_recipe
    from data_pipeline.engine.progress import Quiet
    from data_pipeline.recipe import Recipe

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = _documents()
        rows = [json.dumps({"text": text}, ensure_ascii=False) for text in (*texts, texts[0] + "又。")]
        (folder / "a.jsonl").write_text("\n".join(rows), encoding="utf-8")
        (folder / "test.jsonl").write_text(rows[-2], encoding="utf-8")
        (folder / "recipe.yaml").write_text(_RECIPE, encoding="utf-8")
        run_recipe.run(Recipe.load(folder / "recipe.yaml"), folder / "out", Quiet())


def _models() -> None:
    import pyarrow as pa

    from data_pipeline.quality import classifier, ngram_model

    texts = _documents() * 4
    classifier.train(texts, [text[::-1] for text in texts], classifier.ClassifierSettings()).log_odds(pa.array(texts))
    model = ngram_model.train(texts, ngram_model.LanguageModelSettings())
    model.perplexities(pa.array(texts))
