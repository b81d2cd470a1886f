"""The network computes what the original computes: every case of every oracle file."""

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import save_file

from pangu.cli import main
from pangu.model.attention_mask import CausalMask
from pangu.model.network import build
from pangu.training.loss import Loss
from pangu.training.objectives.causal import Causal
from tests.pangu import oracle

FP32 = ["fp32_gelu", "fp32_fastgelu", "fp32_fastgelu_pipeline2"]
NO_SEED = Tensor(0, ms.int32)


def end_of_document(case: str, meta: dict) -> int | None:
    return {"plain": None, "packed": meta["eod"], "padded": meta["eod"], "eod_is_pad": meta["pad"]}[case]


@pytest.fixture(params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def mode(request):
    ms.set_context(mode=request.param)
    yield request.param
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.mark.parametrize("name", [*FP32, "fp16_fastgelu_softmax32"])
def test_forward_equals_the_oracle(shared: Path, name: str, mode: int) -> None:
    config, weights, arrays, meta = oracle.load(shared / "oracle" / f"pangu_tiny_{name}.npz")
    tolerance = 2e-5 if config.compute_dtype == "fp32" else 5e-2
    network = build(config, weights)
    network.set_train(False)
    for case in ["plain", "packed", "padded", "eod_is_pad"]:
        ids = Tensor(arrays[f"{case}/input_ids"])
        positions, penalty = CausalMask(end_of_document(case, meta))(ids)
        np.testing.assert_array_equal(positions.asnumpy(), arrays[f"{case}/position_ids"])
        np.testing.assert_array_equal(penalty.asnumpy()[:, 0] == 0, arrays[f"{case}/attention_mask"].astype(bool))
        logits = network(ids, positions, positions, penalty, NO_SEED).asnumpy()
        np.testing.assert_allclose(logits, arrays[f"{case}/logits"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", FP32)
def test_every_hidden_state_equals_the_oracle(shared: Path, name: str) -> None:
    config, weights, arrays, meta = oracle.load(shared / "oracle" / f"pangu_tiny_{name}.npz")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    backbone = build(config, weights).backbone
    backbone.set_train(False)
    for case in ["plain", "packed", "padded", "eod_is_pad"]:
        ids = Tensor(arrays[f"{case}/input_ids"])
        positions, penalty = CausalMask(end_of_document(case, meta))(ids)
        query = backbone.top_query_embedding(positions)
        hidden = backbone.embed(ids, positions, NO_SEED)
        states = {"embedding": hidden, "query_embedding": query}
        for index, block in enumerate(backbone.blocks):
            hidden = states[f"block_{index}"] = block(hidden, penalty, NO_SEED)
        if config.final_norm == "before_query":
            hidden = states["final_layernorm"] = backbone.layernorm(hidden)
        hidden = states["query_layer"] = backbone.top_query_layer(hidden, query, penalty, NO_SEED)
        if config.final_norm == "after_query":
            states["final_layernorm"] = backbone.layernorm(hidden)
        expected = {key.split("/")[-1] for key in arrays if key.startswith(f"{case}/hidden/")}
        assert states.keys() == expected
        for key, state in states.items():
            np.testing.assert_allclose(state.asnumpy(), arrays[f"{case}/hidden/{key}"], rtol=0, atol=2e-5)
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.mark.parametrize("name", [*FP32, "fp16_fastgelu_softmax32"])
def test_loss_equals_the_oracle(shared: Path, name: str) -> None:
    config, weights, arrays, meta = oracle.load(shared / "oracle" / f"pangu_tiny_{name}.npz")
    network = build(config, weights)
    network.set_train(False)
    for case in ["packed", "padded", "eod_is_pad"]:
        rows = arrays[f"{case}/full_ids"].astype(np.int32)
        objective = Causal(end_of_document(case, meta), meta["pad"])
        mean = Loss(network, objective.in_graph())(Tensor(rows), NO_SEED).asnumpy() / objective.predictions(rows)
        np.testing.assert_allclose(mean, arrays[f"{case}/loss"][0], atol=2e-5 if name in FP32 else 5e-2)


@pytest.mark.parametrize("name", ["fp32_gelu", "fp32_fastgelu"])
def test_evaluation_log_probabilities_equal_the_oracle(shared: Path, name: str) -> None:
    config, weights, arrays, meta = oracle.load(shared / "oracle" / f"pangu_tiny_{name}.npz")
    network = build(config, weights)
    network.set_train(False)
    ids = Tensor(arrays["eval/input_ids"])
    positions, bias = CausalMask(pad=meta["pad"])(ids)
    logits = network(ids, positions, positions, bias, NO_SEED).asnumpy()[0, arrays["eval/current_index"][0]]
    shifted = logits.astype(np.float64) - logits.max()
    log_probabilities = shifted - np.log(np.exp(shifted).sum())
    np.testing.assert_allclose(log_probabilities, arrays["eval/log_probs"][0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("spelling", ["as stored", "released"])
def test_logits_command_equals_the_oracle(shared: Path, tmp_path: Path, spelling: str) -> None:
    config, weights, arrays, meta = oracle.load(shared / "oracle" / "pangu_tiny_fp32_fastgelu.npz")
    if spelling == "as stored":
        weights = {key.removeprefix("param/"): arrays[key] for key in arrays if key.startswith("param/")}
    save_file(weights, tmp_path / "weights.safetensors")
    (tmp_path / "model.yaml").write_text(config.dump(), encoding="utf-8")
    np.save(tmp_path / "ids.npy", arrays["padded/input_ids"])
    words = ["logits", tmp_path / "model.yaml", "--weights", tmp_path / "weights.safetensors"]
    words += ["--ids", tmp_path / "ids.npy", "--out", tmp_path / "logits.npy"]
    words += ["--eod", meta["eod"], "--pad", meta["pad"]]
    assert main([str(word) for word in words]) == 0
    logits = np.load(tmp_path / "logits.npy")
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, arrays["padded/logits"], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("ids", "complaint"),
    [
        (np.array([[1, 96]], np.int32), "ids must be in 0..95"),
        (np.array([[-1, 3]], np.int32), "ids must be in 0..95"),
        (np.zeros((1, 17), np.int32), "seq_length is 16"),
        (np.zeros(4, np.int32), r"shape \[B, S\]"),
        (np.zeros((1, 4), np.float32), r"integers of shape \[B, S\]"),
    ],
)
def test_logits_command_refuses_ids_that_do_not_fit(tmp_path: Path, capsys, ids: np.ndarray, complaint: str) -> None:
    (tmp_path / "model.yaml").write_text(
        "num_layers: 2\nhidden_size: 8\nnum_heads: 2\nffn_hidden_size: 8\nseq_length: 16\nvocab_size: 96\n"
    )
    np.save(tmp_path / "ids.npy", ids)
    words = ["logits", tmp_path / "model.yaml", "--weights", "none", "--ids", tmp_path / "ids.npy", "--out", "none.npy"]
    assert main([str(word) for word in words]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    import re

    assert re.search(complaint, message)
