"""What is asked of generation: prompts of any file, options of their own, sessions that go on."""

import gzip
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu.cli import main
from pangu.commands import predict
from pangu.config import ModelConfig
from pangu.foundation.errors import UserError
from pangu.generation import GenerationOptions, Generator
from pangu.generation.engine import log_probability
from pangu.generation.prompt_files import read_file, read_rows, requests_of
from pangu.generation.sampling import Sampler
from pangu.generation.whole_characters import WholeCharacters
from tests.conftest import REPOSITORY
from tests.pangu.test_generation_command import COMMON

USUAL = GenerationOptions()


def prompts(content: bytes, charset: str | None = None, is_jsonl: bool = False) -> list[str]:
    return [row["prompt"] for row in read_rows(content, charset, "f", is_jsonl)]


@pytest.mark.parametrize(
    ("content", "charset", "expected"),
    [
        (b"\xef\xbb\xbf\xe6\x98\xa5\r\n\xe6\xb1\x9f\x0b\xe8\x8a\xb1\n\xe6\x9c\x88\xe2\x80\xa8\xe5\xa4\x9c\n",
         None, ["春", "江\x0b花", "月\u2028夜"]),
        ("春\n江\n".encode("gb18030"), "gb18030", ["春", "江"]),
        ("春\r\n江".encode("utf-16"), None, ["春", "江"]),
        ("春\n江".encode("big5"), "big5", ["春", "江"]),
        ("\ufeff春".encode("utf-8"), "utf-8", ["春"]),
        ("\n  \n春\x85江\x0c\n".encode(), None, ["春\x85江\x0c"]),
    ],
    ids=["Windows", "GB", "UTF-16", "Big5", "mark and charset", "other line ends"],
)  # fmt: skip
def test_a_line_ends_at_a_newline_and_a_mark_is_no_text(content: bytes, charset: str | None, expected: list) -> None:
    assert prompts(content, charset) == expected


@pytest.mark.parametrize(
    ("content", "charset", "is_jsonl", "expected"),
    [
        (b"\xe6\x98\xa5\n\xb4\xba\n", None, False, "f:2: byte 0xb4 is not UTF-8; give --charset, e.g. gb18030"),
        (b"a", "no-such", False, "--charset no-such: is not known"),
        (b" \n\n", None, False, "holds no prompt"),
        (b'{"prompt": "a"}\n{"prompt"', None, True, "f:2: is not JSON"),
        (b'{"prompt": "a"}\n{"prompt": "a", "prompt": "b"}', None, True, "field 'prompt': is there more than once"),
        (b'{"prompt": "a"}\n{"prompt": "\\ud800"}', None, True, "f:2: field 'prompt': holds half of a surrogate pair"),
        (b'["a"]', None, True, "f:1: must be an object"),
        (b'{"prompt": "a", "id": NaN}', None, True, "f:1: field 'id': is no number that JSON can say"),
        (b'{"prompt": "a", "id": [1e999]}', None, True, "f:1: field 'id': is no number that JSON can say"),
        (b"a", "a\0b", False, "is not known"),
        (b'{"prompt": "a", "temprature": 1}', None, True, "field 'temprature' is unknown; did you mean 'temperature'"),
    ],
)
def test_a_file_that_means_nothing_is_one_line(content: bytes, charset, is_jsonl: bool, expected: str) -> None:
    with pytest.raises(UserError) as told:
        read_rows(content, charset, "f", is_jsonl)
    assert expected in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    "field", ['"stop": 1', '"stop": ["a", null]', '"stop_id": 1.5', '"stop_id": [true]', '"seed": {}']
)
def test_an_option_of_the_wrong_type_is_one_line(field: str) -> None:
    rows = read_rows(f'{{"prompt": "a", {field}}}'.encode(), None, "f", True)
    with pytest.raises(UserError, match=r"prompt 1: field .* is of the wrong type"):
        requests_of(rows, USUAL)


@pytest.mark.parametrize(
    "field",
    [
        f'"temperature": 1{"0" * 400}', f'"frequency_penalty": -1{"0" * 400}', '"repetition_penalty": 1e-320',
        '"repetition_penalty": 1e300', '"presence_penalty": 1e308', '"sample": 9223372036854775808', '"overflow": "no"',
    ],
)  # fmt: skip
def test_an_option_beyond_what_can_be_computed_is_one_line(field: str) -> None:
    rows = read_rows(f'{{"prompt": "a", {field}}}'.encode(), None, "f", True)
    with pytest.raises(UserError, match=r"^\w+ = .*: must be "):
        requests_of(rows, USUAL)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_new_tokens": 2.5}, "max_new_tokens = 2.5: must be a whole number"),
        ({"max_new_tokens": True}, "max_new_tokens = True: must be a whole number"),
        ({"temperature": "hot"}, "temperature = 'hot': must be a number"),
        ({"stop_strings": "。"}, "stop_strings = '。': must be a tuple of texts"),
        ({"stop_ids": 5}, "stop_ids = 5: must be a tuple of whole numbers"),
        ({"logprobs": 1}, "logprobs = 1: must be True or False"),
    ],
)
def test_an_option_of_another_type_is_one_line(fields: dict, said: str) -> None:
    with pytest.raises(UserError) as caught:
        GenerationOptions(**fields)
    assert str(caught.value) == said
    assert GenerationOptions(max_new_tokens=np.int64(3), temperature=1, stop_ids=(np.int32(4),)).temperature == 1


def test_a_file_is_read_by_its_name_in_any_case_and_unpacked(tmp_path: Path) -> None:
    rows = [{"prompt": "一\n二", "temperature": 0}, {"prompt": "三"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    files = {
        "a.JSONL": lines.encode(),
        "b.json": json.dumps(rows, indent=1).encode(),
        "c.json": b"\xef\xbb\xbf" + lines.encode(),
        "d.jsonl.gz": gzip.compress(lines.encode()),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert read_file(str(tmp_path / name), None) == rows, name
    (tmp_path / "one.json").write_text(json.dumps(rows[0], indent=2))
    assert read_file(str(tmp_path / "one.json"), None) == rows[:1]
    (tmp_path / "cut.gz").write_bytes(gzip.compress(lines.encode())[:-9])
    (tmp_path / "none.json").write_text("[]")
    for name, said in (("cut.gz", "cannot be read"), ("none.json", "holds no prompt"), ("a\0b", "cannot be read")):
        with pytest.raises(UserError, match=said):
            read_file(str(tmp_path / name), None)


def test_every_line_may_have_options_of_its_own() -> None:
    content = (
        '{"prompt": "a\\nb", "temperature": 0, "max_new_tokens": 5, "id": "x"}\n'
        '{"prompt": "c", "stop": "。", "stop_id": [3]}\n'
    )
    first, second = requests_of(read_rows(content.encode(), None, "f", True), USUAL)
    assert (first.prompt, first.options.temperature, first.options.max_new_tokens, first.identity) == (
        "a\nb",
        0,
        5,
        "x",
    )
    assert second.options.stop_strings == ("。",) and second.options.stop_ids == (3,)
    for wrong in ('{"prompt": "a", "top_k": "4"}', '{"prompt": "a", "seed": 1.5}', '{"prompt": "a", "min_p": true}'):
        with pytest.raises(UserError, match="of the wrong type"):
            requests_of(read_rows(wrong.encode(), None, "f", True), USUAL)
    with pytest.raises(UserError, match="top_p = 7"):
        requests_of(read_rows(b'{"prompt": "a", "top_p": 7}', None, "f", True), USUAL)


def test_samples_and_repeated_prompts_are_numbered_apart() -> None:
    rows = [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}]
    assert [r.options.sample for r in requests_of(rows, USUAL, samples=2)] == [0, 1, 0, 1, 0, 1]
    assert [r.options.sample for r in requests_of(rows, USUAL, samples=2, is_varied=True)] == [0, 1, 0, 1, 2, 3]


def test_predict_hands_on_what_a_plain_line_cannot_say() -> None:
    assert predict.lines_of([{"prompt": "a"}, {"prompt": "b "}], 1) == (["a", "b "], ".txt")
    for rows, samples in (([{"prompt": "a\nb"}], 1), ([{"prompt": "a"}], 2), ([{"prompt": "a", "seed": 3}], 1)):
        lines, suffix = predict.lines_of(rows, samples)
        assert suffix == ".jsonl" and len(lines) == samples
        assert [row["prompt"] for row in read_rows("\n".join(lines).encode(), None, "f", True)] == [
            rows[0]["prompt"]
        ] * samples


CONFIG = ModelConfig(
    num_layers=2, hidden_size=16, num_heads=2, ffn_hidden_size=32, seq_length=64, vocab_size=64, compute_dtype="fp32"
)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    from tests.pangu.convert_files import shapes_of

    random = np.random.default_rng(3)
    return {
        name: 0.4 * random.standard_normal(shape, np.float32) for name, shape in shapes_of(1, 16, 32, 64, 64).items()
    }


@given(st.integers(1, 5), st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(0, 99))
def test_no_run_of_tokens_comes_twice(length: int, prompt: list[int], seed: int) -> None:
    options = GenerationOptions(temperature=1.0, top_k=0, no_repeat_ngram=length, seed=seed)
    sampler, random = Sampler(options, prompt), np.random.default_rng(seed)
    chosen = list(prompt)
    known = {tuple(chosen[i : i + length]) for i in range(len(chosen) - length + 1)}
    for _ in range(20):
        chosen.append(sampler.choose(random.standard_normal(40).astype(np.float32)))
        if len(chosen) >= length:
            newest = tuple(chosen[-length:])
            assert newest not in known
            known.add(newest)


def test_min_p_leaves_out_what_is_unlikely() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    drawn = {
        Sampler(GenerationOptions(temperature=1.0, top_k=0, min_p=0.4, seed=seed), [1]).choose(logits)
        for seed in range(200)
    }
    assert drawn == {0, 1}


def test_a_temperature_next_to_nothing_is_greedy() -> None:
    logits = np.array([1.0, 3.0, 2.0], np.float32)
    for temperature in (1e-40, 1e-300, 1e-7, 0.0):
        with np.errstate(all="raise"):
            assert Sampler(GenerationOptions(temperature=temperature), [1]).choose(logits) == 1


def test_log_probabilities_are_those_of_the_model(weights) -> None:
    options = GenerationOptions(6, temperature=0.7, top_k=3, frequency_penalty=0.4, seed=1, logprobs=True)
    generator = Generator(CONFIG, weights)
    [result] = generator.generate([[1, 2, 3]], options)
    assert len(result.logprobs) == len(result.ids) == 6
    for place in range(6):
        greedy = GenerationOptions(1, temperature=0, logprobs=True)
        [again] = generator.generate([[1, 2, 3, *result.ids[:place]]], greedy)
        assert result.logprobs[place] <= again.logprobs[0] + 1e-5
    logits = np.array([0.0, 1.0, 2.0], np.float32)
    assert sum(np.exp(log_probability(logits, token)) for token in range(3)) == pytest.approx(1)


def test_prompts_of_one_batch_have_options_of_their_own(weights) -> None:
    generator = Generator(CONFIG, weights)
    each = [GenerationOptions(3, temperature=0), GenerationOptions(9, seed=2), GenerationOptions(9, seed=2, sample=1)]
    together = generator.generate([[5, 6]] * 3, each)
    assert [len(result.ids) for result in together] == [3, 9, 9]
    assert together[1].ids != together[2].ids
    for one, result in zip(each, together, strict=True):
        assert generator.generate([[5, 6]], one)[0].ids == result.ids


def test_a_stop_id_that_can_never_come_is_refused(weights) -> None:
    for token in (64, -1):
        with pytest.raises(UserError, match=f"stop id {token}: ids are 0 to 63"):
            Generator(CONFIG, weights).generate([[1]], GenerationOptions(2, stop_ids=(token,)))


class FakeBytes:
    """Ids 0 to 255 are the bytes, 256 and 257 are whole pieces."""

    ids = np.arange(256)
    byte_of = {token: token for token in range(256)}  # noqa: RUF012
    never = np.array([byte for byte in range(256) if 0x80 <= byte < 0xC2 or byte > 0xF4])


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_bytes_always_become_characters(seed: int, count: int) -> None:
    random, characters = np.random.default_rng(seed), WholeCharacters(FakeBytes())  # type: ignore[arg-type]
    text = b""
    for left in range(count, 0, -1):
        allowed = characters.allowed(random.standard_normal(258).astype(np.float32), left)
        token = int(np.argmax(allowed))
        assert np.isfinite(allowed[token])
        characters.take(token)
        text += bytes([token]) if token < 256 else "字".encode()
    assert "\ufffd" not in text.decode("utf-8")


def test_every_character_can_still_be_spelt() -> None:
    for character in "\x00\x7fé字\ud7ff\ue000\uffff😀\U0010ffff":
        characters = WholeCharacters(FakeBytes())  # type: ignore[arg-type]
        for place, byte in enumerate(encoded := character.encode()):
            assert np.isfinite(characters.allowed(np.zeros(258, np.float32), len(encoded) - place)[byte])
            characters.take(byte)
        assert characters.missing == 0


def words_of(run: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "pangu", "generate", str(run), "--interactive", *words]


def test_a_line_that_is_not_utf8_costs_itself_alone(run_directory: Path) -> None:
    done = subprocess.run(
        words_of(run_directory, "--max-new-tokens", "3"),
        input=b"\xe6\x98\xa5\xe6\n\xe6\xb1\x9f\n",
        cwd=REPOSITORY,
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"},
    )
    assert done.returncode == 0
    assert b"line 1: byte 0xe6 is not UTF-8; it is left out" in done.stderr
    assert done.stdout.decode().startswith("江") and done.stdout.count(b"\n") >= 1


def test_without_a_seed_the_same_prompt_gives_another_text(run_directory: Path, capsys) -> None:
    words = ["generate", str(run_directory), "--prompt", "今天", "--prompt", "今天", "--json", "--ignore-end"]
    words += ["--temperature", "3", "--top-k", "0", "--max-new-tokens", "6"]

    def texts(*more: str) -> list[list[int]]:
        assert main([*words, *more]) == 0
        return [json.loads(line)["ids"] for line in capsys.readouterr().out.splitlines()]

    first, second = texts()
    assert first != second
    assert texts("--seed", "5") == [texts("--seed", "5")[0]] * 2
    four = texts("--seed", "5", "--samples", "2")
    assert four[0] != four[1] and four[:2] == four[2:]
    assert main([*words, "--logprobs", "--seed", "1"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert row["seed"] == 1 and len(row["logprobs"]) == len(row["ids"]) and all(p < 0 for p in row["logprobs"])


def test_ctrl_c_ends_the_text_and_not_the_session(run_directory: Path, tmp_path: Path) -> None:
    """In a terminal: a long text is broken off, the next line is answered, Ctrl-D ends; the lines are remembered."""
    inner, outer = pty.openpty()
    process = subprocess.Popen(
        words_of(run_directory, "--ignore-end", "--slide", "--max-new-tokens", "1000000", "--seed", "1"),
        cwd=REPOSITORY,
        stdin=outer,
        stdout=outer,
        stderr=outer,
        start_new_session=True,
        env=os.environ | {"XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"},
    )
    os.close(outer)
    seen = bytearray()

    def wait_for(part: bytes, count: int) -> None:
        deadline = time.monotonic() + 120
        while seen.count(part) < count:
            assert time.monotonic() < deadline and process.poll() is None, seen.decode(errors="replace")
            seen.extend(os.read(inner, 4096))

    try:
        wait_for(b"> ", 1)
        os.write(inner, "今天\n".encode())
        wait_for("今天".encode(), 2)
        process.send_signal(signal.SIGINT)
        wait_for(b"> ", 2)
        os.write(inner, "北京\n".encode())
        wait_for("北京".encode(), 2)
        process.send_signal(signal.SIGINT)
        wait_for(b"> ", 3)
        os.write(inner, b"\x04")
        assert process.wait(timeout=300) == 0
    finally:
        process.kill()
        os.close(inner)
    assert (tmp_path / "pangu/history").read_text().splitlines()[-2:] == ["今天", "北京"]


def test_the_common_options_are_here(run_directory: Path) -> None:
    assert COMMON and run_directory.is_dir()
