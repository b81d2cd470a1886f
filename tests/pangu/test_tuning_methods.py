"""Every method of fine-tuning: its start, its size, its files, and both engines against the training graph."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import pangu
from pangu import parameters
from pangu.checkpoint.weights import load_for_inference
from pangu.cli import main
from pangu.foundation.errors import UserError
from pangu.generation.compiled.compiled_network import CompiledNetwork
from pangu.generation.decoding_batch import RowTokens
from pangu.generation.likelihood import score
from pangu.language_model import LanguageModel
from pangu.tokenizer import Tokenizer
from pangu.tuning import adapter_file, soft_prompt
from pangu.tuning.adapted import load_adapted
from pangu.tuning.template import TEMPLATES
from pangu.tuning.training_rows import read_data
from pangu.tuning.tuning_run import Tuned
from pangu.tuning.tuning_settings import Settings
from tests.pangu import small_model

QUESTIONS = [
    ("今天天气怎么样？", "今天天气很好。"),
    ("谁去了北京？", "小明去了北京。"),
    ("他高兴吗？", "他很高兴。"),
] * 8
NEW = ("adapter", "prefix", "p-tuning")  # `prompt` is P-tuning without the network that makes its vectors
FAST = {"steps": 3, "batch_size": 2, "length": 64, "checkpoint_every": 1, "validation": 0.1}
SMALL = {"bottleneck": 3, "virtual_tokens": 5}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model.write(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def data(base: Path) -> Path:
    path = base.parent / "alpaca.json"
    rows = [{"instruction": question, "input": "", "output": answer} for question, answer in QUESTIONS]
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tuned(base: Path, data: Path) -> dict[str, tuple[Path, Tuned]]:
    found = {}
    for method in NEW:
        out = base.parent / method
        tokenizer = base.parent / "tokenizer"
        found[method] = out, pangu.finetune(base, data, out, tokenizer=tokenizer, method=method, **SMALL, **FAST)
    return found


def nats(model: LanguageModel, rows: np.ndarray) -> float:
    """Nats a learnt token of packed rows, each document by itself."""
    half, end = rows.shape[1] // 2, model.tokenizer.special.end_of_document
    pairs = []
    for row in rows:
        start = 0
        for place in np.flatnonzero(row[:half] == end):
            learnt = np.flatnonzero(row[half + start : half + place + 1])
            first = start + int(learnt[0])
            pairs.append((row[start:first].tolist(), row[first : place + 1].tolist()))
            start = place + 1
    return -sum(one.total for one in score(model.generator, pairs)) / sum(len(rest) for _, rest in pairs)


@pytest.mark.parametrize("method", NEW)
def test_both_engines_compute_what_was_trained(method: str, base: Path, data: Path, tuned) -> None:
    out, result = tuned[method]
    chosen = Settings(method=method, **SMALL, **FAST).checked(load_for_inference(base)[0])  # type: ignore[arg-type]
    tokenizer = Tokenizer.load(base.parent / "tokenizer")
    rows = read_data([data], TEMPLATES["qa"], tokenizer, chosen).validation.rows
    compiled, plain = pangu.load(out), pangu.load(base, tokenizer=base.parent / "tokenizer")
    assert nats(compiled, rows) == pytest.approx(result.loss_after, abs=1e-5)
    assert abs(nats(plain, rows) - result.loss_after) > 1e-3
    assert nats(plain, rows) == pytest.approx(result.loss_before, abs=1e-5)  # of the base, without virtual tokens
    other = pangu.load(out, engine="mindspore", batch_size=2)
    texts = ["今天", "谁去了北京？小明"]
    assert other.generate(texts, temperature=0, max_new_tokens=8) == compiled.generate(
        texts, temperature=0, max_new_tokens=8
    )
    pairs = [("今天", "天气很好。"), ("他", "很高兴。")]
    for ours, theirs in zip(compiled.log_likelihood(pairs), other.log_likelihood(pairs), strict=True):
        assert np.abs(ours.log_probabilities - theirs.log_probabilities).max() < 1e-5


def test_trained_weights_are_as_many_as_the_formula_says(base: Path, tuned) -> None:
    config, _, _ = load_for_inference(base)
    hidden, layers, width, count = config.hidden_size, config.num_layers, 3, 5
    encoder = 3 * (hidden * hidden + hidden)  # dropped after training
    assert {method: result.trainable for method, (_, result) in tuned.items()} == {
        "adapter": layers * 2 * (2 * hidden * width + width + hidden),
        "prefix": count * 2 * layers * hidden,
        "p-tuning": count * hidden + encoder,
    }
    assert soft_prompt.read_virtual(tuned["p-tuning"][0], config).size == count * hidden


@pytest.mark.parametrize("method", ["adapter", "prefix", "prompt"])
def test_a_method_begins_as_its_base_and_changes_nothing_of_it(base: Path, method: str) -> None:
    """Virtual tokens begin as words: the base with these words in front computes the same."""
    import mindspore as ms

    from pangu.device import use_device
    from pangu.model.network import build
    from pangu.training.loss import Loss
    from pangu.training.objectives.instruction import Instruction
    from pangu.tuning.methods import METHODS as METHOD_CLASSES

    use_device()
    config, weights, _ = load_for_inference(base)
    network = build(config, weights)
    words = np.array([11, 12, 13])
    vectors = soft_prompt.start_vectors(weights, words)
    starts = {"prefix": soft_prompt.keys_values(config, weights, vectors, True), "adapter": None}
    settings = Settings(method=method, virtual_tokens=3, shift_positions=method != "adapter")  # type: ignore[arg-type]
    inserted = METHOD_CLASSES[method](network, config, settings, starts.get(method, vectors))
    names = {one.name for one in network.get_parameters()}
    assert names >= set(parameters.shapes(config)) and len(names) == len(list(network.get_parameters()))
    frozen = {one.name: one.asnumpy() for one in network.get_parameters() if not one.requires_grad}
    assert adapter_file.digest_of(frozen) == adapter_file.digest_of(weights)
    ids = np.random.default_rng(0).integers(10, 500, 12)
    front = [] if method == "adapter" else words
    row = np.concatenate([ids, np.zeros(2), np.ones(10)]).astype(np.int32)[None]
    whole = np.concatenate([front, ids, np.zeros(2 + len(front)), np.ones(10)]).astype(np.int32)[None]
    loss = Loss(network, inserted.batch(Instruction(9).in_graph()))
    plain = Loss(build(config, weights), Instruction(9).in_graph())
    seed = ms.Tensor(0, ms.int32)
    ours, theirs = (one(ms.Tensor(rows), seed).asnumpy() for one, rows in ((loss, row), (plain, whole)))
    if method == "adapter":
        assert ours.tobytes() == theirs.tobytes()
    else:
        assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING"])
def test_peft_computes_the_same_with_our_files_and_we_with_its(kind: str, base: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    peft = pytest.importorskip("peft", reason="peft is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    assert main(["convert", str(base), "--to", "huggingface", "--out", str(tmp_path / "port")]) == 0
    config, _, _ = load_for_inference(base)
    random, written = np.random.default_rng(3), tmp_path / "written"
    written.mkdir()
    if kind == "PREFIX_TUNING":
        prefix = random.normal(0, 0.5, (config.num_layers, 2, 4, config.hidden_size)).astype(np.float32)
        soft_prompt.write_prefix(written, config, prefix, str(base))
    else:
        vectors = random.normal(0, 0.5, (4, config.hidden_size)).astype(np.float32)
        soft_prompt.write_prompt(written, config, vectors, str(base), kind)
    port = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "port"), trust_remote_code=True)
    model = peft.PeftModel.from_pretrained(port.eval(), str(written))
    model.save_pretrained(tmp_path / "saved")
    ids = random.integers(10, 500, 9)
    with torch.no_grad():
        theirs = model(input_ids=torch.from_numpy(ids[None])).logits[0, -9:].numpy()
        plain = port(torch.from_numpy(ids[None])).logits[0].numpy()
    assert np.abs(theirs - plain).max() > 1e-2
    for folder in (written, tmp_path / "saved"):
        adapted = load_adapted(folder, base)
        assert adapted.config.seq_length == config.seq_length - 4  # the virtual tokens take positions, as PEFT counts
        network = CompiledNetwork(adapted.config, adapted.weights, threads=1, additions=adapted.additions)
        (ours,) = network.open(2, 128).read([RowTokens(1, ids.tolist(), 9)])
        assert np.abs(ours - theirs).max() < 1e-4


@pytest.mark.parametrize("method", NEW)
def test_what_cannot_be_merged_says_so_and_writes_nothing(method: str, tuned, tmp_path: Path, capsys) -> None:
    assert main(["merge", str(tuned[method][0]), "--out", str(tmp_path / "whole.safetensors")]) == 2
    error = capsys.readouterr().err
    assert "its weights cannot hold" in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "prefixx"}, "must be one of full, lora, adapter, prefix, prompt, p-tuning, bitfit"),
        ({"method": "prefix", "virtual_tokens": 0}, "virtual_tokens = 0: must be 1 to 126"),
        ({"method": "prompt", "virtual_tokens": 127}, "virtual_tokens = 127: must be 1 to 126"),
        ({"method": "adapter", "bottleneck": 33}, "bottleneck = 33: must be 1 to 32"),
        ({"method": "lora", "shift_positions": True}, "shift_positions = True: is for prefix, prompt, p-tuning"),
        ({"method": "prefix", "shift_positions": True, "length": 120}, "length = 120: 2 to 108, the context"),
    ],
)
def test_a_wrong_setting_of_a_method_is_one_line(base: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Settings(**changes).checked(load_for_inference(base)[0])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_do_not_fit_are_one_line(base: Path, tuned, tmp_path: Path) -> None:
    def changed(name: str, tensors: dict | None = None, **fields: object) -> Path:
        folder = tmp_path / name
        shutil.copytree(tuned["p-tuning"][0], folder, ignore=shutil.ignore_patterns("states", "lock"))
        settings = json.loads((folder / adapter_file.CONFIG).read_text())
        (folder / adapter_file.CONFIG).write_text(json.dumps(settings | fields))
        if tensors:
            adapter_file.save_tensors(folder / adapter_file.MATRICES, tensors, {})
        return folder

    config, weights, _ = load_for_inference(base)
    for method in NEW:
        with pytest.raises(UserError, match=r"is of method .*; only lora stands beside others: load it as a model$"):
            adapter_file.low_rank(tuned[method][0], config, weights)
    good = np.zeros((5, 32), np.float32)
    cases = (
        (changed("a", num_virtual_tokens=6), "prompt_embeddings must be [6, 32] for this model, is [5, 32]"),
        (changed("b", peft_type="PROMPT_TUNIG"), "did you mean 'PROMPT_TUNING'"),
        (changed("c", {"other": good}), "must hold 'prompt_embeddings' alone; holds other"),
        (changed("d", {"prompt_embeddings": good * np.nan}), "numbers that are NaN or infinite"),
        (changed("e", peft_type="PREFIX_TUNING"), "must be [5, 128]"),
        (changed("f", num_virtual_tokens="five"), "must be ['five', 32]"),
    )
    for folder, message in cases:
        with pytest.raises(UserError) as caught:
            load_adapted(folder)
        assert message in str(caught.value) and "\n" not in str(caught.value)
