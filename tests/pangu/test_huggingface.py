"""Directories for transformers: what they hold comes back equal, and computes the same where PyTorch is."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pangu.checkpoint.weights import load_for_inference
from pangu.cli import main
from pangu.config import ModelConfig
from pangu.formats.huggingface.gpt2 import config_of, model_in_config
from pangu.foundation.errors import UserError
from tests.pangu.convert_files import shapes_of
from tests.pangu.test_convert_network import save

SIZES = {"num_layers": 3, "hidden_size": 16, "num_heads": 4, "ffn_hidden_size": 40, "seq_length": 12, "vocab_size": 50}
KINDS = [
    {"query_layer": query, "final_norm": norm, "activation": activation, "compute_dtype": "fp32"}
    for query, norm, activation in itertools.product(
        (True, False), ("before_query", "after_query"), ("gelu_tanh", "gelu_erf", "fast_gelu")
    )
    if query or norm == "before_query"
]


def weights_of(model: ModelConfig) -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    shapes = shapes_of(model.num_blocks, 16, 40, 12, 50)
    weights = {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    return {n: (0.3 * a + ("gamma" in n)) for n, a in weights.items() if model.query_layer or "top_query" not in n}


def export(tmp_path: Path, model: ModelConfig, *words: str) -> tuple[Path, dict[str, np.ndarray]]:
    weights = weights_of(model)
    run = save(tmp_path / "run", model, weights)
    out = tmp_path / "exported"
    assert main(["convert", str(run), "--to", "huggingface", "--out", str(out), *words]) == 0
    return out, weights


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(str(value) for value in kind.values()))
def test_what_was_exported_is_read_back_equal(tmp_path: Path, kind: dict) -> None:
    model = ModelConfig(**SIZES, **kind)
    out, weights = export(tmp_path, model)
    for place in (out, out / "model.safetensors"):
        config, loaded, _ = load_for_inference(place)
        assert config == model and loaded.keys() == weights.keys()
        for name, weight in weights.items():
            np.testing.assert_array_equal(loaded[name], weight)
    fields = json.loads((out / "config.json").read_text())
    assert fields["model_type"] == ("pangu_alpha" if model.query_layer else "gpt2")
    assert (out / "modeling_pangu_alpha.py").exists() == model.query_layer
    assert "AutoModelForCausalLM" in (out / "README.md").read_text()


def test_a_gpt2_that_others_wrote_is_read(tmp_path: Path) -> None:
    """Without our description: config.json says the network, and the constant masks are left out."""
    from safetensors.numpy import load_file, save_file

    model = ModelConfig(**SIZES, query_layer=False, activation="fast_gelu", compute_dtype="fp32", dropout_rate=0.2)
    out, weights = export(tmp_path, model)
    theirs = {
        name.removeprefix("transformer."): tensor for name, tensor in load_file(out / "model.safetensors").items()
    }
    theirs["h.0.attn.bias"] = np.ones((1, 1, 12, 12), np.uint8)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    save_file(theirs, foreign / "model.safetensors")
    shutil.copy(out / "config.json", foreign)
    config, loaded, _ = load_for_inference(foreign)
    assert config == model
    for name, weight in weights.items():
        np.testing.assert_array_equal(loaded[name], weight)
    assert main(["convert", str(foreign), "--to", "mindspore", "--out", str(tmp_path / "a.ckpt")]) == 0
    assert load_for_inference(tmp_path / "a.ckpt")[0] == model


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "field 'scale_attn_by_inverse_layer_idx': is true; this network"),
        ({"scale_attn_weights": False}, "field 'scale_attn_weights': is false; this network has true only"),
        ({"layer_norm_epsilon": 1e-6}, "field 'layer_norm_epsilon': is 1e-06"),
        ({"activation_function": "relu"}, "field 'activation_function': this network has gelu_new"),
        ({"resid_pdrop": None}, "is no configuration of GPT-2"),
        ({"n_head": 0}, "field 'num_heads': 0 is out of range"),
    ],
)
def test_a_gpt2_that_computes_something_else_is_refused(tmp_path: Path, fields: dict, said: str) -> None:
    path = tmp_path / "config.json"
    whole = config_of(ModelConfig(**SIZES, query_layer=False), 9)
    path.write_text(json.dumps(whole))
    assert model_in_config(path) is not None
    path.write_text(json.dumps(whole | fields))
    with pytest.raises(UserError) as caught:
        model_in_config(path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_an_output_matrix_of_its_own_is_refused_by_every_reader(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    out, _ = export(tmp_path, ModelConfig(**SIZES, query_layer=False))
    tensors = load_file(out / "model.safetensors")
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].copy()
    save_file(tensors, out / "model.safetensors")
    for as_stored in (False, True):
        load_for_inference(out, as_stored=as_stored)
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, out / "model.safetensors")
    for as_stored in (False, True):
        with pytest.raises(UserError, match="was trained apart from its word table"):
            load_for_inference(out, as_stored=as_stored)


def test_the_tokenizer_goes_along(run_directory: Path, tmp_path: Path, capsys) -> None:
    from pangu.tokenizer import Tokenizer

    out = tmp_path / "exported"
    assert main(["convert", str(run_directory), "--to", "huggingface", "--out", str(out)]) == 0
    tokenizer = Tokenizer.load(run_directory / "tokenizer")
    assert Tokenizer.load(out / "tokenizer").fingerprint == tokenizer.fingerprint
    assert json.loads((out / "config.json").read_text())["eos_token_id"] == tokenizer.special.end_of_document
    capsys.readouterr()
    for place in (run_directory, out):
        assert main(["generate", str(place), "--prompt", "今天", "--seed", "1", "--max-new-tokens", "6"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_what_cannot_be_is_one_line_and_leaves_nothing(tmp_path: Path, capsys) -> None:
    model = ModelConfig(**SIZES)
    out, _ = export(tmp_path, model)
    words = ["convert", str(tmp_path / "run"), "--to", "huggingface", "--out"]
    assert main([*words, str(out)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "no/where")]) == 2
    assert "no such directory" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "new"), "--quantize", "int8"]) == 2
    assert "--quantize does not go with --to huggingface" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exported", "run"]


def last_logits(model: ModelConfig, weights: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """The logits after the last of the ids, by the project's own engine."""
    from pangu.generation.compiled.compiled_network import CompiledNetwork
    from pangu.generation.decoding_batch import RowTokens

    batch = CompiledNetwork(model, weights, threads=1).open(1, 128)
    return batch.read([RowTokens(0, ids)])[0][-1]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(str(value) for value in kind.values()))
def test_transformers_computes_the_same(tmp_path: Path, kind: dict) -> None:
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    import torch

    model = ModelConfig(**SIZES, **kind)
    out, weights = export(tmp_path, model)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(str(out), trust_remote_code=True).eval()
    ids = np.random.default_rng(1).integers(0, 50, 12)
    with torch.no_grad():
        logits = loaded(torch.from_numpy(ids[None])).logits[0].numpy()
    for length in (1, 7, 12):
        np.testing.assert_allclose(
            logits[length - 1], last_logits(model, weights, ids[:length].tolist()), atol=1e-5, rtol=1e-5
        )
    greedy = loaded.generate(
        torch.from_numpy(ids[None, :4]), max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=None
    )
    assert greedy.shape == (1, 8)


def test_transformers_loads_the_tokenizer_and_gives_the_same_ids(tmp_path: Path) -> None:
    """White space, marks that stand for it in pieces, bytes, and names of bytes are what a text holds, nothing else."""
    transformers = pytest.importorskip("transformers")
    from pangu.formats.huggingface.fast_tokenizer import files_of
    from pangu.tokenizer import Tokenizer
    from tests.pangu import small_model

    tokenizer = Tokenizer.load(small_model.write(tmp_path / "model").parent / "tokenizer")
    for name, content in (files_of(tokenizer) or {}).items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    texts = ["", " ", "\n \n", "你好，世界。\n\n  再见\t两个\r\n", "▁▂▃", "<0x41> <0xGG> <s></s><pa d>"]
    texts += ["😀🇨🇳é \u200b\x00\x01", "𠮷龘"]
    for text in texts:
        ids = tokenizer.encode(text)
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids and theirs.decode(ids) == text, text
    ids = tokenizer.special
    assert (theirs.eos_token_id, theirs.pad_token_id) == (ids.end_of_document, ids.pad)
    assert len(theirs) == tokenizer.vocab_size


def test_the_released_tokenizer_goes_along_as_a_class_of_its_own(shared: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from pangu.formats.huggingface.export import write_directory
    from pangu.formats.huggingface.fast_tokenizer import files_of
    from pangu.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(shared / "released/vocab.model")
    assert files_of(tokenizer) is None
    tokenizer.save(tmp_path / "own")
    model = ModelConfig(**SIZES, compute_dtype="fp32", query_layer=True)
    write_directory(tmp_path / "out", model, weights_of(model), tmp_path / "own", None)
    again = tmp_path / "again"
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=True)
    theirs.save_pretrained(again)
    texts = ["", " ", "\n \n", "你好，世界。\n\n  再见\t两个\r\n", "😀é龘 𠮷"]
    texts += ["小明硕士毕业于中国科学院，ABC abc １２３"]
    for loaded in (theirs, transformers.AutoTokenizer.from_pretrained(again, trust_remote_code=True)):
        for text in texts:
            ids = tokenizer.encode(text)
            assert loaded(text, add_special_tokens=False)["input_ids"] == ids, text
            assert loaded.decode(ids) == tokenizer.decode(ids), text
        assert len(loaded) == loaded.vocab_size == tokenizer.vocab_size
        ids = tokenizer.special
        assert (loaded.eos_token_id, loaded.pad_token_id) == (ids.end_of_document, ids.pad)
        assert loaded("<eot>一", add_special_tokens=False)["input_ids"][0] == ids.end_of_document
    assert "trust_remote_code=True" in (tmp_path / "out/README.md").read_text()
