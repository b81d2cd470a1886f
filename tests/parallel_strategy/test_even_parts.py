"""A file whose model does not fall into equal parts, or whose type the device has not, is refused, not priced."""

from pathlib import Path

import pytest

from parallel_strategy.cli import main
from parallel_strategy.search.shapes import Space
from parallel_strategy.spec.even_parts import uneven_parts
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.spec.strategy import Setup

KV2 = "name: kv2\nnum_layers: 4\nhidden_size: 2304\nnum_heads: 18\nkv_heads: 6\nffn_hidden_size: 5760\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("model: {preset: llama2-7b, seq: 4095}\nmesh: {tp: 8}\ntensor: {sequence_parallel: true}\n",
         "field 'tensor.sequence_parallel': mesh.tp 8 must divide the 4095 tokens of a rank; nearest: false"),
        ("model: {preset: llama2-7b, seq: 4100}\nmesh: {cp: 4, tp: 2}\n",
         "field 'mesh.cp': twice 4 must divide the sequence 4100, of which each rank has two parts; nearest: 5"),
        ("model: {preset: llama2-13b}\nmesh: {tp: 5}\n",
         "field 'mesh.tp': 5 must divide ffn_hidden_size 13824; nearest: 4"),
        ("model: {file: kv.yaml}\nmesh: {tp: 9}\n",
         "field 'mesh.tp': 9 must divide the 6 key-value heads, or be a multiple of them; nearest: 6"),
        ("model: {preset: llama2-7b, dtype: bf16}\nmesh: {dp: 8}\n",
         "field 'model.dtype': Ascend910A has no bf16; nearest: 'fp16'"),
    ],
)  # fmt: skip
def test_what_does_not_fall_into_equal_parts_is_one_line(tmp_path: Path, capsys, text: str, complaint: str) -> None:
    (tmp_path / "kv.yaml").write_text(KV2)
    path = tmp_path / "s.yaml"
    cluster = "atlas-800-910a" if "bf16" in text else "dgx-h100"
    path.write_text(text + f"cluster: {{preset: {cluster}}}\nframework: megatron-core\nbatch: {{global: 64}}\n")
    assert main(["predict", str(path)]) == 2
    line = 1 if "model.dtype" in complaint else 3 if "sequence_parallel" in text else 2
    assert capsys.readouterr().err == f"error: {path}:{line}: {complaint}\n"


def test_the_search_tries_none_of_these(tmp_path: Path) -> None:
    (tmp_path / "kv.yaml").write_text(KV2 + "seq_length: 36\n")
    path = tmp_path / "s.yaml"
    path.write_text("model: {file: kv.yaml}\ncluster: {preset: dgx-h100}\nbatch: {global: 72}\nmesh: {dp: 72}\n")
    setup = Setup.load(path)
    layouts = Space(72, 72, cp=[1, 2, 4]).layouts(setup, 1)
    assert {layout.tp for layout in layouts} == {1, 2, 3, 6, 18} and {layout.cp for layout in layouts} == {1, 2}
    assert all(
        not list(uneven_parts(setup.model, one.tp, one.cp, sequence_parallel=one.sequence_parallel)) for one in layouts
    )
    assert {one.sequence_parallel for one in layouts if one.tp == 18 and one.cp == 1} == {False, True}
    assert {one.sequence_parallel for one in layouts if one.tp == 6 and one.cp == 2} == {False, True}


def test_every_preset_is_even_on_one_device() -> None:
    for name in ModelSpec.preset_names():
        assert not list(uneven_parts(ModelSpec.preset(name), 1, 1, sequence_parallel=False))


@pytest.mark.parametrize(("model", "cluster"), [("llama2-7b", "atlas-800-910a"), ("gpt-13b", "dgx-a100")])
def test_init_writes_a_file_that_is_priced(tmp_path: Path, capsys, model: str, cluster: str) -> None:
    path = tmp_path / "s.yaml"
    assert main(["init", str(path), "--model", model, "--cluster", cluster]) == 0
    assert main(["predict", str(path)]) == 0
    assert ("dtype: fp16" in path.read_text()) == (cluster == "atlas-800-910a")
