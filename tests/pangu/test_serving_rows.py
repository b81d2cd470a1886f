"""Rows of the server: beginnings of prompts, adapters of one base, gaps before a suffix, a list of words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import pangu
from pangu.cli import main
from pangu.foundation.errors import UserError
from pangu.foundation.word_list import WordList
from pangu.generation.engine import Piece
from pangu.tuning import adapter_file
from tests.pangu import small_model
from tests.pangu.served_model import answering, ask, completion, scheduler_of, serving, step

pytest.importorskip("starlette", reason="the server needs starlette (pip install 'pangu-alpha[serve]')")

from pangu.serving.events import Event, TokenScore
from pangu.serving.word_filter import Filter

SYSTEM = "你是一个有用的助手，请用简短的中文回答下面的问题。" * 3
SAMPLING = {"temperature": 0.9, "top_k": 20, "seed": 3}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model.write(tmp_path_factory.mktemp("rows"), seq_length=256)


@pytest.fixture(scope="module")
def adapters(base: Path) -> dict[str, Path]:
    """Two LoRA adapters of random matrices and different ranks."""
    weights, folders = load_file(base), {}
    config = pangu.load(base, tokenizer=base.parent / "tokenizer").config
    for seed, (name, modules) in enumerate({"poet": ("q_proj", "v_proj"), "clerk": ("all",)}.items()):
        random, rank, matrices = np.random.default_rng(seed), 4 + 4 * seed, {}
        for layer in adapter_file.layers_of(config, adapter_file.module_names(modules)):
            inputs, outputs = adapter_file.sizes_of(config, layer)
            pair = random.normal(0, 0.2, (rank, inputs)), random.normal(0, 0.2, (outputs, rank))
            matrices[layer] = (pair[0].astype(np.float32), pair[1].astype(np.float32))
        folder = base.parent / name
        folder.mkdir()
        lora = adapter_file.LoraMatrices(matrices, rank, 8.0)
        adapter_file.write_lora(folder, config, lora, str(base), adapter_file.module_names(modules))
        fields = {"base": str(base), "base_digest": adapter_file.digest_of(weights), "template": "qa"}
        adapter_file.write_tuning(folder, fields)
        folders[name] = folder
    return folders


@pytest.fixture(scope="module")
def model(base: Path, adapters: dict[str, Path]) -> pangu.LanguageModel:
    return pangu.load(base, tokenizer=base.parent / "tokenizer", adapters=adapters)


# -- the beginnings of prompts ---------------------------------------------------------------------------------------


def answers_of(
    model: pangu.LanguageModel, prefix_rows: int | None, prompts: list[Any]
) -> tuple[list[tuple[list[int], list[TokenScore | None]]], int, int]:
    """Ask one after the other, two at a time -> (ids and scores of each, tokens that were read, tokens shared)."""
    scheduler = scheduler_of(model, rows=2, prefix_rows=prefix_rows)
    told: list[list[Event]] = [[] for _ in prompts]
    for start in range(0, len(prompts), 2):
        for number in range(start, min(start + 2, len(prompts))):
            text, fields = prompts[number]
            scheduler.submit([answering(model, text, told[number], new=5, logprobs=3, **fields)])
            step(scheduler)
        while scheduler.running or scheduler.waiting:
            step(scheduler)
    texts = [
        ([event.piece.token_id for event in events if event.piece], [event.score for event in events])
        for events in told
    ]
    return texts, scheduler.statistics.tokens_in, scheduler.statistics.tokens_shared


def test_a_shared_beginning_is_read_once_and_changes_no_bit(model: pangu.LanguageModel) -> None:
    asked = [(SYSTEM + text, {}) for text in ("今天天气", "北京", "人", "北京", "今天天气很好")]
    asked += [("人", {}), (SYSTEM, {}), (SYSTEM + "北京", {"scores_prompt": True})]
    asked += [(SYSTEM + "北京", {"adapter": 0}), (SYSTEM + "人", {"adapter": 0}), (SYSTEM, {"suffix": model.ids("。")})]
    plain, read, shared = answers_of(model, None, asked)
    assert shared == 0 and read == sum(len(model.ids(text)) + len(f.get("suffix", [])) for text, f in asked)
    for prefix_rows in (0, 3):
        found, less, shared = answers_of(model, prefix_rows, asked)
        assert found == plain
        assert shared + less == read and less < read / 2


def test_a_system_prompt_costs_its_tokens_once(model: pangu.LanguageModel) -> None:
    length, questions = len(model.ids(SYSTEM)), ["北京", "天气", "人"]
    _, read, _ = answers_of(model, 1, [(SYSTEM + text, {}) for text in questions])
    alone = sum(len(model.ids(SYSTEM + text)) for text in questions)
    # Tokens at the border may differ with what follows.
    assert alone - 2 * length <= read <= alone - 2 * (length - 2)


# -- adapters --------------------------------------------------------------------------------------------------------


def test_one_base_answers_with_several_adapters_as_each_alone(
    model: pangu.LanguageModel, base: Path, adapters: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    models = {"base": model, "poet": model.adapted("poet"), "clerk": model.adapted("clerk")}
    with serving(models, rows=3) as port:
        assert [one["id"] for one in ask(port, "/v1/models")[1]["data"]] == list(models)
        asked = {"prompt": "今天天气", "max_tokens": 9, "n": 2, **SAMPLING}
        texts = {name: completion(port, model=name, **asked)["choices"][0]["text"] for name in models}
        status, body, _ = ask(port, "/v1/completions", {"model": "none", "prompt": "x"})
        assert status == 404 and "poet" in body["error"]["message"]
    assert len(set(texts.values())) == 3
    between = [("今天", "天气", "很好")]
    assert len({one.fill_log_likelihood(between)[0].total for one in models.values()}) == 3
    for name, folder in adapters.items():
        words = [
            "--max-new-tokens",
            "9",
            "--seed",
            "3",
            "--temperature",
            "0.9",
            "--top-k",
            "20",
            "--adapter",
            str(folder),
        ]
        words += ["--adapter", str(folder)]
        where = [str(base), "--tokenizer", str(base.parent / "tokenizer"), "--prompt", "今天天气"]
        assert main(["generate", *where, *words]) == 0
        assert capsys.readouterr().out == f"今天天气{texts[name]}\n"
        merged = pangu.load(folder, tokenizer=base.parent / "tokenizer")
        pair = [("今天天气", "很好。")]
        apart = models[name].log_likelihood(pair)[0].total
        assert apart == pytest.approx(merged.log_likelihood(pair)[0].total, abs=1e-4)
        assert abs(apart - model.log_likelihood(pair)[0].total) > 1e-3


def test_an_adapter_that_does_not_fit_is_one_line(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    other = small_model.write(tmp_path / "other", seed=9, seq_length=256)
    with pytest.raises(UserError, match="made for other weights"):
        pangu.load(other, adapters={"poet": adapters["poet"]})
    with pytest.raises(UserError, match="is no adapter"):
        pangu.load(base, adapters={"poet": tmp_path})
    with pytest.raises(UserError, match="adapter 'none' is unknown"):
        pangu.load(base).adapted("none")
    assert main(["serve", f"a={base}", f"b={other}", "--adapter", f"poet={adapters['poet']}"]) == 2
    assert main(["serve", f"poet={base}", "--adapter", f"poet={adapters['poet']}"]) == 2


# -- a gap before a suffix -------------------------------------------------------------------------------------------


def test_a_suffix_is_filled_as_fill_does_whatever_the_company(model: pangu.LanguageModel) -> None:
    before, after, gaps = "今天天气", "我们去北京。", 6
    expected = model.fill(before + "_" * gaps + after, gap_order="left", **SAMPLING)
    with serving({"small": model, "poet": model.adapted("poet")}, rows=3) as port:
        asked = {"prompt": before, "suffix": after, "max_tokens": gaps, **SAMPLING}
        answer = completion(port, **(asked | {"prompt": [before, SYSTEM, before]}))
        texts = [choice["text"] for choice in answer["choices"]]
        assert before + texts[0] + after == expected and texts[2] == texts[0]
        assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
        adapted = completion(port, **(asked | {"model": "poet"}))["choices"][0]["text"]
        assert before + adapted + after == model.adapted("poet").fill(
            before + "_" * gaps + after, gap_order="left", **SAMPLING
        )
        assert answer["usage"]["prompt_tokens"] == 2 * len(model.ids(before)) + len(model.ids(SYSTEM)) + 3 * len(
            model.ids(after)
        )


def test_a_model_without_a_query_layer_fills_nothing(tmp_path: Path) -> None:
    path = small_model.write(tmp_path, query_layer=False)
    with serving(pangu.load(path, tokenizer=tmp_path / "tokenizer"), rows=1) as port:
        status, body, _ = ask(port, "/v1/completions", {"prompt": "今天", "suffix": "。", "max_tokens": 2})
        assert status == 400 and "left to right only" in body["error"]["message"]


# -- a word list -----------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text("abAB", min_size=1, max_size=4), min_size=1, max_size=4),
    st.lists(st.text("abAB", max_size=3), min_size=1, max_size=8),
    st.text("ab", max_size=4),
    st.text("ab", max_size=4),
)
def test_what_is_passed_on_holds_no_word_and_nothing_else_is_kept(
    words: list[str], pieces: list[str], before: str, after: str
) -> None:
    """Piece by piece, whatever the pieces: no word, nor a part of one that comes, is ever shown."""
    known = WordList(words)
    if known.hits(before) or known.hits(after):
        return
    screen, shown, finish = Filter(known, str).screen(before, after), "", None
    for number, text in enumerate(pieces, 1):
        for event in screen.push(Event(Piece(0, number, text, "length" if number == len(pieces) else None))):
            assert event.piece is not None and finish is None
            shown, finish = shown + event.piece.text, event.piece.finish
        assert known.first(before + shown) is None
        if finish:
            break
    whole = "".join(pieces)
    place = known.first(before + whole + after)
    if place is None or place >= len(before + whole):
        assert (shown, finish) == (whole, "length")
    else:
        assert (before + shown)[: max(place, len(before))] == (before + whole)[: max(place, len(before))]
        assert finish == "filtered" and len(before + shown) == max(place, len(before))


def test_a_word_of_the_list_is_neither_taken_nor_said(model: pangu.LanguageModel, tmp_path: Path) -> None:
    text = model.generate("今天天气", max_new_tokens=12, **SAMPLING)
    word = text[4:7]
    (tmp_path / "words.txt").write_text(f"# a list\n{word}\nSECRET\n", encoding="utf-8")
    words = WordList.load(tmp_path / "words.txt")
    with serving(model, rows=2, words=words) as port:
        asked = {"prompt": "今天天气", "max_tokens": 12, "logprobs": 5, **SAMPLING}
        choice = completion(port, **asked)["choices"][0]
        assert choice["text"] == text[:4] and choice["finish_reason"] == "content_filter"
        assert "".join(choice["logprobs"]["tokens"]).replace("▁", "").find(word) < 0
        status, stream, _ = ask(port, "/v1/completions", asked | {"stream": True})
        assert status == 200 and word not in stream and "content_filter" in stream
        for body in (
            {"prompt": "my secret"},
            {"prompt": "今", "suffix": "secret"},
            {"prompt": model.ids("secret")},
        ):
            status, answer, _ = ask(port, "/v1/completions", body)
            assert status == 400 and answer["error"]["code"] == "content_filter"
            assert "secret" not in answer["error"]["message"]
        talk = {"messages": [{"role": "user", "content": "Secret"}]}
        assert ask(port, "/v1/chat/completions", talk)[0] == 400
        assert ask(port, "/health")[0] == 200
