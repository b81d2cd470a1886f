"""Fine-tuning: data of every form, exactness of adapters, interruption, and files that PEFT reads."""

import errno
import gzip
import json
import shutil
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

import pangu
from pangu import parameters
from pangu.checkpoint.contents import contents_of
from pangu.checkpoint.weights import load_for_inference
from pangu.cli import main
from pangu.evaluation.evaluate import identity
from pangu.foundation.errors import UserError
from pangu.tokenizer import Tokenizer
from pangu.training.objectives.instruction import InstructionBatch
from pangu.tuning import adapter_file, tuning_run
from pangu.tuning.adapted import load_adapted
from pangu.tuning.finetune import check_same
from pangu.tuning.record_rows import encode, fitted, packed, samples_of
from pangu.tuning.records import Record, RecordError, Reject, Turn, read_records, record_of
from pangu.tuning.template import TEMPLATES, load_template
from pangu.tuning.tuning_settings import Settings
from tests.pangu import small_model

QUESTIONS = [
    ("今天天气怎么样？", "今天天气很好。"),
    ("谁去了北京？", "小明去了北京。"),
    ("他高兴吗？", "他很高兴。"),
] * 8
FAST = {"steps": 4, "batch_size": 2, "length": 64, "checkpoint_every": 1, "validation": 0.1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model.write(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "alpaca.json"
    rows = [{"instruction": question, "input": "", "output": answer} for question, answer in QUESTIONS]
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def lora(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lora") / "out"
    result = pangu.finetune(base, data, out, tokenizer=base.parent / "tokenizer", rate=1e-2, **FAST)
    assert result.step == 4 and result.records == 24 and result.loss_after < result.loss_before
    return out


# -- data ------------------------------------------------------------------------------------------------------------

FORMS = [
    {"instruction": "问", "input": "文", "output": "答"},
    {"conversations": [{"from": "human", "value": "问\n文"}, {"from": "gpt", "value": "答"}]},
    {"messages": [{"role": "user", "content": "问\n文"}, {"role": "assistant", "content": "答"}]},
    {"prompt": "问\n文", "completion": "答"},
    {"src_txt": "问\n文", "tgt_txt": "答"},
]


@pytest.mark.parametrize("row", FORMS)
def test_every_form_is_the_same_record(row: dict) -> None:
    assert record_of(row) == Record((Turn("user", "问\n文"), Turn("assistant", "答")))


def test_an_input_may_be_null_and_turns_are_named_by_their_place(tmp_path: Path) -> None:
    assert record_of({"instruction": "问", "input": None, "output": "答"}).turns[0].text == "问"
    system = {"role": "system", "content": "s"}
    for turns, said in (
        ([system, system], r"messages\[1\] is system's, user's was expected"),
        ([system, {"role": "user", "content": " "}], r"messages\[1\]: field 'content' is empty"),
        ([system], "the last turn must be the assistant's"),
    ):
        with pytest.raises(RecordError, match=said):
            record_of({"messages": turns})


@pytest.mark.parametrize("depth", [400, 200_000])
def test_what_is_nested_too_deeply_is_a_reject(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "好"}\n{"text": ' + "[" * depth + "]" * depth + "}\n", encoding="utf-8")
    good, bad = read_records(path)
    assert good == Record(text="好") and isinstance(bad, Reject)
    assert (bad.place == f"{path}:2" and "stand in one another" in bad.reason) or "must be text" in bad.reason
    path.write_text("[" * depth, encoding="utf-8")
    with pytest.raises(UserError, match="is not JSON"):
        list(read_records(path))


def test_a_damaged_gzip_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl.gz"
    whole = gzip.compress(b'{"text": "abc"}\n' * 99)
    path.write_bytes(whole[:20] + b"\xff" * 9 + whole[29:])
    with pytest.raises(UserError, match="cannot be read: "):
        list(read_records(path))


def test_a_bad_record_is_named_and_the_others_are_used(tmp_path: Path) -> None:
    lines = [
        json.dumps(FORMS[3], ensure_ascii=False).encode(),
        b'{"prompt": "a", "completion": ""}',
        b"\xff\xfe",
        b"{",
        b'{"prompt": "a", "completion": "b", "text": "c"}',
        b'{"messages": [{"role": "assistant", "content": "b"}]}',
        b'{"messages": [{"role": "user", "content": "b"}]}',
        b'{"conversations": [{"from": "robot", "value": "b"}]}',
        b'{"other": 1}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "a", "content": "b"}]}',
        json.dumps({"text": "长" * 1_000_001}).encode(),
        json.dumps({"text": "一\u2028二"}, ensure_ascii=False).encode(),
    ]
    path = tmp_path / "data.jsonl.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + b"\n".join(lines)))
    found = list(read_records(path))
    assert [type(one) for one in found] == [Record, *[Reject] * 11, Record]
    reasons = [one.reason for one in found if isinstance(one, Reject)]
    for reason, part in zip(
        reasons,
        ["'completion' is empty", "not UTF-8", "not JSON", "give one form", "out of order", "last turn", "unknown",
         "has none of", "field 'messages[0].content': holds half of a surrogate pair",
         "field 'messages[0].content': is there more than once", "more than 1,000,000"],
        strict=True,
    ):  # fmt: skip
        assert part in reason, reason
    assert found[1].place == f"{path}:2"  # type: ignore[union-attr]


def test_a_bomb_is_stopped_and_a_text_of_any_likeness_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = b'{"text": "a"}\n' * 4000
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(lines))
    assert len(list(read_records(tmp_path / "a.jsonl"))) == 4000
    monkeypatch.setattr("pangu.foundation.plain_text.FREE_BYTES", 1000)
    with pytest.raises(UserError, match=r"a\.jsonl: more than 200 bytes come out for a byte in"):
        list(read_records(tmp_path / "a.jsonl"))


def test_the_first_bytes_say_what_a_file_is(tmp_path: Path) -> None:
    """A mark before a list, gzip under another name, UTF-16, one object over many lines; and what is no text."""
    whole = json.dumps([FORMS[0], FORMS[3]], indent=1, ensure_ascii=False).encode()
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in (FORMS[0], FORMS[3]))
    for name, content in (
        ("a.json", b"\xef\xbb\xbf" + whole),
        ("b.jsonl", gzip.compress(whole)),
        ("c.jsonl.gz", lines.encode()),
        ("d.jsonl", lines.encode("utf-16")),
        ("e.json", lines.encode()),
    ):
        (tmp_path / name).write_bytes(content)
        assert list(read_records(tmp_path / name)) == [record_of(FORMS[0])] * 2, name
    (tmp_path / "one.json").write_text(json.dumps(FORMS[0], indent=2))
    assert list(read_records(tmp_path / "one.json")) == [record_of(FORMS[0])]
    (tmp_path / "many.jsonl").write_text('{"text": ' + "9" * 5000 + "}")
    (reject,) = read_records(tmp_path / "many.jsonl")
    assert isinstance(reject, Reject) and reject.reason == "is not JSON: a number has thousands of digits"
    for content, said in (
        (b"\x28\xb5\x2f\xfd0", "compressed by zstd"),
        (b"PAR1", "a Parquet table"),
        (b"BZh", "bzip2"),
    ):
        (tmp_path / "x.jsonl").write_bytes(content)
        with pytest.raises(UserError, match=said):
            list(read_records(tmp_path / "x.jsonl"))


def test_a_template_writes_the_papers_form_and_a_conversation() -> None:
    turns = (
        Turn("system", "请回答。"),
        Turn("user", "甲"),
        Turn("assistant", "乙"),
        Turn("user", "丙"),
        Turn("assistant", "丁"),
    )
    pieces = TEMPLATES["qa"].pieces(Record(turns))
    assert pieces == [("请回答。\n问：甲\n答：", False), ("乙", True), ("\n问：丙\n答：", False), ("丁", True)]
    assert TEMPLATES["qa"].prompt(turns[:4]) == "".join(text for text, _ in pieces[:3])


def test_the_loss_is_on_answers_and_the_end_alone(base: Path) -> None:
    tokenizer = Tokenizer.load(base.parent / "tokenizer")
    record = record_of({"prompt": "今天天气", "completion": "很好。"})
    document = encode(record, TEMPLATES["qa"], tokenizer)
    learnt = [token for token, is_learnt in zip(document.ids, document.learnt, strict=True) if is_learnt]
    assert learnt == [*tokenizer.encode("很好。"), tokenizer.special.end_of_document]
    row = packed([document, document], 60, tokenizer.special.pad)[0]
    assert row[:60].tolist().count(tokenizer.special.end_of_document) == 2 and row[60:].sum() == 2 * len(learnt)
    assert row[60 + len(document.ids)] == 0  # nothing tells what the second document begins with


def test_the_first_token_of_a_text_is_learnt_behind_an_end_of_its_own(base: Path) -> None:
    tokenizer = Tokenizer.load(base.parent / "tokenizer")
    ids, end = list(tokenizer.encode("今天天气很好。")), tokenizer.special.end_of_document
    document = encode(record_of({"text": "今天天气很好。"}), TEMPLATES["qa"], tokenizer)
    assert document.ids == [end, *ids, end] and document.learnt == [False, *[True] * len(ids), True]
    row = packed([document, document], 60, tokenizer.special.pad)[0]
    batch = InstructionBatch(end)(ms.Tensor(row[None]))
    labels, weights, positions, bias = (batch[place].asnumpy()[0] for place in (1, 2, 3, 5))
    second = len(document.ids)  # the place of the second document's end, which the text before does not help
    for place in (0, second):
        assert labels[place] == ids[0] and weights[place] == 1 and positions[place] == positions[place + 1] == 0
        assert (bias[0, place] == 0).sum() == 1
    assert weights[second - 1] == 0 and weights.sum() == 2 * (len(ids) + 1)
    # A text of the context's length stands without that end, a longer one does not fit.
    for length, kept in ((len(ids) + 1, 1), (len(ids), 1), (len(ids) - 1, 0)):
        samples, _ = samples_of([record_of({"text": "今天天气很好。"})], TEMPLATES["qa"], tokenizer, length, 0)
        assert samples.documents == kept


def test_what_is_too_long_is_cut_from_the_left_of_the_question(base: Path) -> None:
    tokenizer = Tokenizer.load(base.parent / "tokenizer")
    long, answer = record_of({"prompt": "今天天气" * 90, "completion": "很好。"}), record_of({"text": "很好。" * 90})
    document = fitted(encode(long, TEMPLATES["plain"], tokenizer), 33)
    assert document and len(document.ids) == 33 and document.ids[-1] == tokenizer.special.end_of_document
    samples, rejects = samples_of([long, answer], TEMPLATES["plain"], tokenizer, 32, tokenizer.special.pad)
    assert samples.cut == 1 and samples.documents == 1 and "do not fit a context of 32" in rejects[0].reason


# -- exactness -------------------------------------------------------------------------------------------------------


def test_trained_weights_are_as_many_as_the_formula_says(base: Path, data: Path, lora: Path) -> None:
    config, _, _ = load_for_inference(base)
    hidden, inner, layers = config.hidden_size, config.ffn_hidden_size, config.num_layers
    found = adapter_file.read_lora(lora, config)
    assert sum(a.size + b.size for a, b in found.matrices.values()) == layers * 2 * 8 * 2 * hidden
    every = adapter_file.layers_of(config, adapter_file.module_names(("all",)))
    counted = sum(8 * sum(adapter_file.sizes_of(config, layer)) for layer in every)
    assert counted == layers * 8 * (4 * 2 * hidden + 2 * (hidden + inner))


def test_an_adapter_that_has_learnt_nothing_changes_no_bit_and_the_base_stays(
    base: Path, data: Path, lora: Path
) -> None:
    import mindspore as ms

    from pangu.device import use_device
    from pangu.model.attention_mask import CausalMask
    from pangu.model.network import build
    from pangu.tuning.methods import Lora

    use_device()
    config, weights, _ = load_for_inference(base)
    ids = ms.Tensor(np.random.default_rng(0).integers(10, 500, (2, 20)).astype(np.int32))
    positions, bias = CausalMask(None)(ids)

    def logits(network) -> np.ndarray:
        network.set_train(False)
        return network(ids, positions, positions, bias, ms.Tensor(0, ms.int32)).asnumpy()

    before = logits(build(config, weights))
    network = build(config, weights)
    every = Lora(network, config, Settings(rank=4, alpha=8.0, seed=3, modules=adapter_file.module_names(("all",))))
    assert logits(network).tobytes() == before.tobytes()
    assert {one.name for one in network.get_parameters()} >= set(parameters.shapes(config))
    found = adapter_file.read_lora(lora, config)
    for layer, (first, second) in found.matrices.items():  # rank 8 does not fit rank 4: a network of its own
        assert first.shape[0] == second.shape[1] == 8 and layer in every.adapters
    trained = build(config, weights)
    for layer, adapter in Lora(trained, config, Settings()).adapters.items():
        adapter.lora_a.set_data(ms.Tensor(found.matrices[layer][0]))
        adapter.lora_b.set_data(ms.Tensor(found.matrices[layer][1]))
    adapted = logits(trained)
    together = logits(build(config, adapter_file.merged(weights, found)))
    assert np.abs(adapted - before).max() > 1e-3 and np.abs(adapted - together).max() < 1e-5
    frozen = {one.name: one.asnumpy() for one in trained.get_parameters() if ".lora_" not in one.name}
    assert adapter_file.digest_of(frozen) == adapter_file.digest_of(weights)


def test_generation_evaluation_and_merging_take_an_adapter(base: Path, lora: Path, tmp_path: Path, capsys) -> None:
    adapted = pangu.load(lora)
    plain = pangu.load(base, tokenizer=base.parent / "tokenizer")
    pair = [("问：他高兴吗？\n答：", "他很高兴。")]
    assert adapted.log_likelihood(pair)[0].total > plain.log_likelihood(pair)[0].total
    assert main(["merge", str(lora), "--out", str(tmp_path / "whole.safetensors")]) == 0
    whole = pangu.load(tmp_path / "whole.safetensors", tokenizer=lora / "tokenizer")
    assert whole.log_likelihood(pair)[0].total == adapted.log_likelihood(pair)[0].total
    assert identity(adapted)["weights"] != identity(plain)["weights"]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("今天\n", encoding="utf-8")
    asked = ["predict", str(lora), "--file", str(prompts), "--out", str(tmp_path / "answers.jsonl"), "--workers", "1"]
    assert main([*asked, "--max-new-tokens", "3"]) == 0
    assert len((tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    capsys.readouterr()
    words = [
        "generate",
        str(lora),
        "--prompt",
        "他高兴吗？",
        "--chat",
        "--json",
        "--temperature",
        "0",
        "--max-new-tokens",
        "6",
    ]
    assert main(words) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["prompt"] == "问：他高兴吗？\n答：" and row["text"] == adapted.chat(
        "他高兴吗？", temperature=0, max_new_tokens=6
    )


WAYS: dict[str, dict[str, object]] = {
    "lora, dropout, two parts": {"method": "lora", "dropout": 0.1, "accumulate": 2},
    "bitfit": {"method": "bitfit"},
    "full": {"method": "full"},
    "adapter": {"method": "adapter", "bottleneck": 3},
    "prefix": {"method": "prefix", "virtual_tokens": 3},
    "prompt": {"method": "prompt", "virtual_tokens": 3, "shift_positions": True},
    "p-tuning": {"method": "p-tuning", "virtual_tokens": 3},
    "dpo": {"objective": "dpo"},
    "distill": {"objective": "distill", "method": "full", "student_layers": 2, "hidden_weight": 0.5},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_run_ends_with_the_same_bits(base: Path, data: Path, tmp_path: Path, way: str) -> None:
    """Killed in the last step: its line of metrics is written, its state is not."""
    settings = Settings(rate=1e-3, **WAYS[way], **FAST)  # type: ignore[arg-type]
    if settings.objective == "dpo":
        pairs = [{"prompt": one, "chosen": two, "rejected": one} for one, two in QUESTIONS]
        data = tmp_path / "pairs.json"
        data.write_text(json.dumps(pairs, ensure_ascii=False), encoding="utf-8")
    tokenizer, out, whole = base.parent / "tokenizer", tmp_path / "out", tmp_path / "whole"
    pangu.finetune(base, data, out, settings, tokenizer=tokenizer)
    shutil.copytree(out, whole)
    written = [name for name in (adapter_file.MATRICES, adapter_file.TRAINED) if (whole / name).is_file()]
    for name in (*written, adapter_file.TUNING):
        (out / name).unlink()
    shutil.rmtree(out / "states/step-00000004")
    assert pangu.finetune(base, data, out, settings, tokenizer=tokenizer).step == 4
    state = [f"states/step-00000004/{name}.safetensors" for name in ("trained", "moments")]
    for file in (*written, *state, "metrics.jsonl", adapter_file.TUNING):
        assert (out / file).read_bytes() == (whole / file).read_bytes(), file
    trained = [adapter_file.read_tensors(whole / f"states/step-0000000{step}/trained.safetensors") for step in (3, 4)]
    assert written and any((trained[0][name] != array).any() for name, array in trained[1].items())
    if way == "bitfit":
        assert all(one.endswith((".bias", ".gamma", ".beta")) for one in trained[1])


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "lora", "modules": ("all",), "rank": 3, "dropout": 0.1, "accumulate": 2},
        {"method": "bitfit"},
        {"method": "full"},
    ],
    ids=lambda changes: changes["method"],
)
def test_compiled_steps_make_what_the_graph_makes(base: Path, data: Path, tmp_path: Path, changes: dict) -> None:
    """Losses, gradients (first moments after the first step), weights and evaluations within 1e-5; small states."""
    tokenizer, results = base.parent / "tokenizer", {}
    settings = {"rate": 1e-3, **FAST, "steps": 2, **changes}
    for engine in ("mindspore", "compiled"):
        tuned = pangu.finetune(base, data, tmp_path / engine, tokenizer=tokenizer, engine=engine, **settings)
        lines = (tmp_path / engine / "metrics.jsonl").read_text().splitlines()
        losses = [json.loads(line)["loss"] for line in lines]
        results[engine] = [*losses, tuned.loss_before, tuned.loss_after]
    assert np.allclose(results["compiled"], results["mindspore"], rtol=1e-5, atol=0)
    first = "states/step-00000001/moments.safetensors"
    moments = [adapter_file.read_tensors(tmp_path / engine / first) for engine in results]
    weights = [load_adapted(tmp_path / engine).weights for engine in results]
    for (theirs, ours), share in ((moments, 1e-3), (weights, 0.0)):
        assert theirs.keys() == ours.keys()
        most = share * max(map(np.linalg.norm, theirs.values()))
        for name, value in theirs.items():
            if name in moments[0] or "dense2.bias" not in name:  # 0 by the formula, so rounding decides its update
                assert np.linalg.norm(ours[name] - value) <= 1e-5 * (np.linalg.norm(value) + most) + 1e-12, name
    with pytest.raises(UserError, match="began with engine = 'compiled', now it is 'mindspore'"):
        pangu.finetune(base, data, tmp_path / "compiled", tokenizer=tokenizer, engine="mindspore", **settings)


def test_metrics_that_cannot_be_written_cost_no_training(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def full(self: tuning_run.BestEffortFile) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tuning_run.BestEffortFile, "write_pending", full)
    result = pangu.finetune(base, data, tmp_path / "out", tokenizer=base.parent / "tokenizer", rate=1e-2, **FAST)
    assert result.step == 4 and (tmp_path / "out" / adapter_file.MATRICES).is_file()
    assert capsys.readouterr().err.count("metrics.jsonl: cannot be written: No space left on device") == 1


def test_peft_reads_the_matrices_and_its_files_are_read(base: Path, lora: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    peft = pytest.importorskip("peft", reason="peft is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config, _, _ = load_for_inference(base)

    class Attention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("q_proj", "k_proj", "v_proj", "c_proj"):
                setattr(self, name, torch.nn.Linear(config.hidden_size, config.hidden_size))

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = Attention()

    class Port(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = transformers.PretrainedConfig()
            self.transformer = torch.nn.Module()
            self.transformer.h = torch.nn.ModuleList([Layer() for _ in range(config.num_layers)])

        def prepare_inputs_for_generation(self, *_):
            return {}

        def forward(self, input_ids, **_):
            x = input_ids
            return sum(layer.attn.q_proj(x) + layer.attn.v_proj(x) for layer in self.transformer.h)

    torch.manual_seed(0)
    port = Port()
    x = torch.randn(3, config.hidden_size)
    plain = port(x).detach().numpy()
    model = peft.PeftModel.from_pretrained(port, str(lora))
    found = adapter_file.read_lora(lora, config)
    delta = sum(found.scale * (second @ first) for first, second in found.matrices.values())
    assert np.abs(model(input_ids=x).detach().numpy() - plain - x.numpy() @ delta.T).max() < 1e-4
    model.save_pretrained(tmp_path)
    again = adapter_file.read_lora(tmp_path, config)
    assert again.scale == found.scale
    for layer, pair in found.matrices.items():
        assert all(a.tobytes() == b.tobytes() for a, b in zip(pair, again.matrices[layer], strict=True))


# -- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 33}, "rank = 33: must be 1 to 32"),
        ({"modules": ("q_prok",)}, "did you mean 'q_proj'"),
        ({"step": 3}, "did you mean 'steps'"),
        ({"template": "qq"}, "did you mean 'qa'"),
        ({"length": 500}, "length = 500"),
        ({"accumulate": 3}, "must divide batch_size"),
        ({"method": "magic"}, "must be one of full, lora, adapter, prefix"),
        ({"steps": 2.5}, "steps = 2.5: must be a whole number"),
        ({"rank": "4"}, "rank = '4': must be a whole number"),
        ({"seed": -1}, "seed = -1: must be in 0..2**31-1"),
        ({"seed": 2**64}, "must be in 0..2**31-1"),
        ({"modules": ("q_proj", "q_proj")}, "module 'q_proj' is there twice"),
        ({"rate": float("nan")}, "rate = nan"),
    ],
)
def test_a_wrong_setting_is_one_line(base: Path, data: Path, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        pangu.finetune(base, data, tmp_path / "out", tokenizer=base.parent / "tokenizer", **changes)
    assert message in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_template_is_its_words_and_not_its_file(tmp_path: Path) -> None:
    said = {"base_digest": "1", "rows": "2", "teacher_digest": None, "rows_version": 2}
    check_same(tmp_path, said | {"template": {"name": "a", "user": "{text}"}, "settings": {"template": "a.yaml"}})
    check_same(tmp_path, said | {"template": {"name": "b", "user": "{text}"}, "settings": {"template": "/x/b.yaml"}})
    with pytest.raises(UserError, match="with another template"):
        check_same(tmp_path, said | {"template": {"name": "a", "user": "<{text}>"}, "settings": {"template": "a.yaml"}})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--virtual-tokens", "5"], "--virtual-tokens: is for method prefix, prompt, p-tuning, not lora"),
        (["--method", "bitfit", "--rank", "3"], "--rank: is for method lora, not bitfit"),
        (["--method", "full", "--module", "c_fc"], "--module: is for method lora, not full"),
        (["--beta", "0.5"], "--beta: is for objective dpo, not answers"),
        (["--objective", "dpo", "--temperature", "3"], "--temperature: is for objective distill, not dpo"),
    ],
)
def test_an_option_that_nothing_listens_to_is_refused(
    base: Path, data: Path, tmp_path: Path, capsys, words, said
) -> None:
    assert main(["finetune", str(base), "--data", str(data), "--out", str(tmp_path / "out"), *words]) == 2
    assert f"error: {said}" in capsys.readouterr().err


def test_answers_depend_on_an_adapter_its_template_and_its_base(base: Path, lora: Path, tmp_path: Path) -> None:
    copy, tokenizer = tmp_path / "copy", str(base.parent / "tokenizer")
    shutil.copytree(lora, copy)
    before = contents_of(base, None, tokenizer, str(lora))
    assert contents_of(base, None, tokenizer, str(copy)) == before != contents_of(base, None, tokenizer)
    fields = json.loads((copy / adapter_file.TUNING).read_text())
    fields["template"]["user"] = "<{text}>"
    (copy / adapter_file.TUNING).write_text(json.dumps(fields))
    assert contents_of(base, None, tokenizer, str(copy))["weights"] != before["weights"]
    (copy / adapter_file.TUNING).unlink()  # as PEFT leaves it, which does not say the base's weights
    other = small_model.write(tmp_path / "other", seed=2)
    assert contents_of(copy, str(base), tokenizer)["weights"] != contents_of(copy, str(other), tokenizer)["weights"]


def test_an_output_never_takes_the_place_of_what_it_is_made_of(base: Path, lora: Path, tmp_path: Path, capsys) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "今天"}\n')
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("今天\n")
    (tmp_path / "link.jsonl").symlink_to(texts)
    before = base.read_bytes()
    for words in (
        ["score", str(base), str(texts), "--out", str(tmp_path / "link.jsonl")],
        ["predict", str(base), "--file", str(prompts), "--out", str(prompts)],
        ["merge", str(lora), "--out", str(base)],
        ["merge", str(lora), "--out", str(lora / adapter_file.MATRICES)],
    ):
        assert main(words) == 2
        assert "is what is read; give another --out" in capsys.readouterr().err
    assert prompts.read_text() == "今天\n" and texts.read_text() == '{"text": "今天"}\n' and base.read_bytes() == before


def test_rows_of_an_earlier_version_are_refused_and_those_that_are_the_same_go_on(base: Path, tmp_path: Path) -> None:
    said = {"base_digest": "1", "template": {}, "rows": "2", "teacher_digest": None, "settings": {}, "rows_version": 2}
    check_same(tmp_path, said)
    old = {name: value for name, value in said.items() if name != "rows_version"}
    (tmp_path / "finetune.json").write_text(json.dumps(old), encoding="utf-8")
    check_same(tmp_path, said)
    with pytest.raises(UserError, match="did not learn the first token of a text, or with other data"):
        check_same(tmp_path, {**said, "rows": "3"})


def test_an_adapter_knows_its_base(base: Path, data: Path, lora: Path, tmp_path: Path) -> None:
    other = small_model.write(tmp_path / "other", seed=9)
    with pytest.raises(UserError, match="was made for other weights"):
        load_adapted(lora, other)
    with pytest.raises(UserError, match="is not there"):
        load_adapted(lora, tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds a fine-tuning with another"):
        pangu.finetune(other, data, lora, tokenizer=base.parent / "tokenizer", rate=1e-2, **FAST)
    with pytest.raises(UserError, match="was begun with rank 8, not 4"):
        pangu.finetune(base, data, lora, tokenizer=base.parent / "tokenizer", rate=1e-2, rank=4, **FAST)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('{"r": 0}', "r of 1 and more"),
        ('{"lora_alpha": NaN}', "a number lora_alpha"),
        ('{"alpha_pattern": {"q_proj": 4}}', "field 'alpha_pattern': {q_proj: 4} is not supported; only {} is"),
        ('{"rank_pattern": {"q_proj": 4}}', "field 'rank_pattern': {q_proj: 4} is not supported"),
        ('{"use_dora": true}', "field 'use_dora': true is not supported; only false is"),
        ('{"target_modules": ["q_proj"]}', "v_proj, which target_modules of adapter_config.json leaves out"),
        ('{"target_modules": ["q_proj", "v_proj", "c_fc"]}', "c_fc, which target_modules of adapter_config.json names"),
        ('{"target_modules": ".*attn.q_proj"}', "has matrices of transformer.h.0.attn.v_proj, which"),
        ('{"target_modules": "all-linear"}', "lacks matrices of transformer.h.0."),
        ('{"layers_to_transform": [0]}', "has matrices of transformer.h.1.attn."),
        ('{"target_modules": 5}', "field 'target_modules': 5 is neither names nor an expression"),
        ('{"target_modules": "("}', "field 'target_modules': '(' is neither names nor an expression"),
        ("[" * 200_000, "cannot be read as JSON: lists or objects stand in one another"),
    ],
)
def test_settings_of_peft_that_change_the_numbers_are_refused(
    base: Path, lora: Path, tmp_path: Path, settings: str, message: str
) -> None:
    shutil.copytree(lora, tmp_path / "other")
    file = tmp_path / "other" / adapter_file.CONFIG
    fields = json.loads(file.read_text()) | {"alpha_pattern": {}, "rank_pattern": None}
    file.write_text(json.dumps(fields))
    config, _, _ = load_for_inference(base)
    for targets in (fields["target_modules"], r".*\.[qv]_proj", None):
        file.write_text(json.dumps(fields | {"target_modules": targets}))
        assert adapter_file.read_lora(tmp_path / "other", config).matrices
    file.write_text(json.dumps(fields | json.loads(settings)) if settings.endswith("}") else settings)
    with pytest.raises(UserError) as caught:
        adapter_file.read_lora(tmp_path / "other", config)
    assert message in str(caught.value)


def test_no_usable_record_says_why_the_first_is_none(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "a", "completion": 3}\n')
    with pytest.raises(UserError, match="jsonl:1: field 'completion' must be text"):
        pangu.finetune(base, path, tmp_path / "out", tokenizer=base.parent / "tokenizer")


def test_a_template_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text('user: "<{text}>"\nanswer: "="\n')
    template = load_template(str(path))
    assert template.name == "mine" and template.prompt([Turn("user", "甲")]) == "<甲>="
    for content, message in (("usr: x", "did you mean 'user'"), ("user: x", "must hold"), ("- 1", "a YAML mapping")):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            load_template(str(path))


def test_mindformers_matrices_are_read_from_its_checkpoint(base: Path, lora: Path, tmp_path: Path) -> None:
    """Names as mindformers' `transform_ckpt_lora.py` knows them; the checkpoint may hold the base's weights too."""
    import mindspore as ms

    config, weights, _ = load_for_inference(base)
    found = adapter_file.read_lora(lora, config)
    arrays = dict(list(weights.items())[:3])
    for layer, pair in found.matrices.items():
        for letter, matrix in zip("ab", pair, strict=True):
            arrays[f"{layer}.mindpet_delta_lora_{letter}"] = matrix

    def write(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
        folder.mkdir()
        ms.save_checkpoint(
            [{"name": name, "data": ms.Tensor(array)} for name, array in tensors.items()],
            str(folder / adapter_file.MINDFORMERS),
        )
        (folder / adapter_file.CONFIG).write_text('{"peft_type": "LORA", "r": 8, "lora_alpha": 16}')
        return folder

    again = adapter_file.read_lora(write(tmp_path / "whole", arrays), config)
    for layer, pair in found.matrices.items():
        assert all(a.tobytes() == b.tobytes() for a, b in zip(pair, again.matrices[layer], strict=True))
    adapted = load_adapted(tmp_path / "whole", base)
    assert adapter_file.digest_of(adapted.weights) == adapter_file.digest_of(load_adapted(lora, base).weights)
    half = {name: array for name, array in arrays.items() if not name.endswith("lora_b")}
    strange = {**arrays, "backbone.blocks.9.attention.dense1.mindpet_delta_lora_a": np.zeros((8, 32), np.float32)}
    for name, tensors, message in (
        ("half", half, r"must be A \[8, 32\] and B \[32, 8\]"),
        ("strange", strange, "is no LoRA matrix of this model"),
        ("none", dict(list(weights.items())[:3]), "holds no LoRA matrix"),
    ):
        with pytest.raises(UserError, match=message):
            adapter_file.read_lora(write(tmp_path / name, tensors), config)
