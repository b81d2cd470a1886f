"""Changing the layout of checkpoints: bit-exact between any two; mistakes are named; nothing half-written is left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from pangu.checkpoint.open import OPTIMIZER, WEIGHTS, TrainingState, open_checkpoint
from pangu.checkpoint.save import save_checkpoint
from pangu.checkpoint.weights import load_for_inference
from pangu.cli import main
from pangu.config import ModelConfig
from pangu.formats.parameter_layout import ParameterLayout, region
from pangu.formats.strategy_checkpoint import encode_strategy, read_stages
from tests.conftest import REPOSITORY
from tests.pangu.convert_files import random_weights, released_layouts, write_ckpt, write_strategy

Layouts = dict[str, ParameterLayout]
NORM = "backbone.layernorm.gamma"


def with_moments(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A training state: moments are other numbers than weights."""
    return weights | {f"{p}{n}": w * f for p, f in (("adam_m.", 3), ("adam_v.", 5)) for n, w in weights.items()}


def write_layouts(path: Path, layouts: Layouts) -> None:
    path.write_bytes(encode_strategy(layouts.items()))


def write_shards(folder: Path, tensors: dict[str, np.ndarray], layouts: Layouts, suffix: str = "safetensors") -> None:
    """What the ranks of a layout would write."""
    ranks = next(iter(layouts.values())).num_ranks
    for rank in range(ranks):
        held = {}
        for name, array in tensors.items():
            layout = layouts[name]
            held[name] = np.ascontiguousarray(array[region(layout.cell(rank), layout.part_shape(array.shape))])
        place = folder / f"rank_{rank}"
        place.mkdir(parents=True)
        if suffix == "ckpt":
            write_ckpt(place / "checkpoint.ckpt", held)
        else:
            save_file(held, place / "checkpoint.safetensors")
    write_layouts(folder / "strategy.ckpt", layouts)


def reshard(*words: object) -> int:
    return main(["reshard", *map(str, words)])


@st.composite
def layouts_of(draw: st.DrawFn, shapes: dict[str, tuple[int, ...]]) -> Layouts:
    """A device matrix for all, and for each parameter any split that divides it."""
    matrix = draw(st.sampled_from([(1,), (2,), (4,), (2, 2), (2, 1), (1, 4), (2, 2, 2)]))
    found = {}
    for name, shape in shapes.items():
        free = list(range(len(matrix)))
        tensor_map: list[tuple[int, ...]] = []
        for length in shape:
            axis = draw(st.sampled_from([None, *free]))
            if axis is None or length % matrix[-1 - axis]:
                tensor_map.append(())
            else:
                free.remove(axis)
                tensor_map.append((axis,))
        plain = ParameterLayout(matrix, tuple(tensor_map))
        rows = shape[0] // plain.grid[0]
        sizes = [size for size in (0, -1, 2) if rows % (plain.group_size if size == -1 else size or 1) == 0]
        size = draw(st.sampled_from([s for s in sizes if s != 2 or plain.group_size % 2 == 0]))
        found[name] = ParameterLayout(matrix, tuple(tensor_map), plain.group_step if size else 0, size)
    return found


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_any_layout_into_any_other_and_back(tmp_path_factory, data) -> None:
    folder = tmp_path_factory.mktemp("any")
    shapes = {"a.weight": (8, 16), "b.weight": (16, 4, 8), "c.bias": (16,), "d.gamma": (3,)}
    generator = np.random.default_rng(1)
    tensors = {name: generator.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    first, second = data.draw(layouts_of(shapes)), data.draw(layouts_of(shapes))
    write_shards(folder / "a", tensors, first)
    write_layouts(folder / "second.ckpt", second)
    assert reshard(folder / "a", "--to", folder / "second.ckpt", "--out", folder / "b") == 0
    write_shards(folder / "expected", tensors, second)
    for path in (folder / "expected").glob("rank_*/checkpoint.safetensors"):
        expected, found = load_file(path), load_file(folder / "b" / path.relative_to(folder / "expected"))
        assert expected.keys() == found.keys()
        assert all(np.array_equal(expected[name], found[name]) for name in expected)
    assert reshard(folder / "b", "--out", folder / "whole.safetensors") == 0
    whole = load_file(folder / "whole.safetensors")
    assert all(np.array_equal(tensors[name], whole[name]) for name in tensors)


def ours(layouts: dict[str, tuple[list[int], list[int], int, int]], moments: bool = True) -> Layouts:
    found = {
        name: ParameterLayout(tuple(matrix), tuple(() if a == -1 else (a,) for a in axes), step, size)
        for name, (matrix, axes, step, size) in layouts.items()
    }
    return found | ({p + n: lay for p in ("adam_m.", "adam_v.") for n, lay in found.items()} if moments else {})


@pytest.mark.parametrize(("before", "after"), [((4, 2), (2, 4)), ((2, 4), (8, 1))])
def test_equal_to_mindspores_own_transformation(tmp_path: Path, before: tuple, after: tuple) -> None:
    import mindspore as ms

    weights = random_weights(hidden=32, ffn=64)
    layouts = {shape: released_layouts(weights, *shape) for shape in (before, after)}
    for shape in (before, after):
        write_strategy(tmp_path / f"{shape[0]}x{shape[1]}.ckpt", layouts[shape])
    source, target = (tmp_path / f"{shape[0]}x{shape[1]}.ckpt" for shape in (before, after))
    write_shards(tmp_path / "shards", weights, ours(layouts[before], moments=False), "ckpt")
    words = ("--from", source, "--to", target, "--out", tmp_path / "out", "--format", "ckpt")
    assert reshard(tmp_path / "shards", *words) == 0
    ms.transform_checkpoints(str(tmp_path / "shards"), str(tmp_path / "theirs"), "c", str(source), str(target))
    for rank in range(8):
        expected = ms.load_checkpoint(str(tmp_path / f"theirs/rank_{rank}/c{rank}.ckpt"))
        found = ms.load_checkpoint(str(tmp_path / f"out/rank_{rank}/checkpoint.ckpt"))
        assert expected.keys() == found.keys()
        for name, parameter in expected.items():
            np.testing.assert_array_equal(parameter.asnumpy(), found[name].asnumpy())


def test_mindspore_reads_the_strategy_file_that_is_written(tmp_path: Path) -> None:
    """Its protobuf, not ours: device matrix, tensor map and optimizer sharding of every parameter; stages by name."""
    from tests.pangu.convert_files import node_strategy_pb2

    layouts = ours(released_layouts(random_weights(), 4, 2))
    write_layouts(tmp_path / "strategy.ckpt", layouts)
    message = node_strategy_pb2.ParallelStrategyMap()
    message.ParseFromString((tmp_path / "strategy.ckpt").read_bytes())
    assert len(message.parallel_layout_item) == len(layouts)
    for item in message.parallel_layout_item:
        said, layout = item.parallel_layouts, layouts[item.param_name]
        assert tuple(said.dev_matrix[0].dim) == layout.device_matrix
        assert [(n,) if n >= 0 else () for n in said.tensor_map[0].dim] == list(layout.tensor_map)
        assert said.opt_weight_shard_size == layout.optimizer_shard_size
    staged = [("a", ParameterLayout((2,), ((0,),))), ("a", ParameterLayout((2,), ((0,),), first_rank=2))]
    (tmp_path / "stages.ckpt").write_bytes(encode_strategy(staged))
    assert read_stages([tmp_path / "stages.ckpt"]) == {0: {"a": staged[0][1]}, 2: {"a": staged[1][1]}}


def exported(folder: Path, name: str, mesh: dict[str, int], **more: object) -> Path:
    """The parameter strategies that `export` writes for a strategy NAME.yaml of the small model, in a folder."""
    import yaml

    fields = {"num_layers": 3, "hidden_size": 32, "num_heads": 4, "ffn_hidden_size": 64, "seq_length": 6}
    (folder / "model.yaml").write_text(yaml.safe_dump(fields | {"vocab_size": 11, "query_layer": True}))
    strategy = {"model": {"file": "model.yaml"}, "cluster": {"preset": "atlas-800-910a"}, "mesh": mesh, **more}
    strategy |= {"batch": {"global": 4}, "tensor": {"vocab": "whole"}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(strategy))
    out = folder / f"exported-{name}"
    words = [sys.executable, "-m", "parallel_strategy", "export", str(folder / f"{name}.yaml"), "--out", str(out)]
    subprocess.run(words, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    return out / "parameters"


def test_mindspore_transforms_by_what_is_exported(tmp_path: Path) -> None:
    """From one strategy's shards to another's: by ours from the YAML, by MindSpore from what is exported."""
    import mindspore as ms

    weights = random_weights(hidden=32, ffn=64)
    save_file(weights, tmp_path / "whole.safetensors")
    sharded = {"zero": {"optimizer_shard": True, "threshold_kb": 0}}
    source = exported(tmp_path, "a", {"dp": 2, "tp": 2}, **sharded) / "strategy_0.ckpt"
    target = exported(tmp_path, "b", {"dp": 4}, **sharded) / "strategy_0.ckpt"
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    assert reshard(tmp_path / "whole.safetensors", "--to", a, "--out", tmp_path / "shards", "--format", "ckpt") == 0
    assert reshard(tmp_path / "shards", "--from", a, "--to", b, "--out", tmp_path / "out", "--format", "ckpt") == 0
    (tmp_path / "shards/strategy.ckpt").unlink()
    ms.transform_checkpoints(str(tmp_path / "shards"), str(tmp_path / "theirs"), "c", str(source), str(target))
    for rank in range(4):
        expected = ms.load_checkpoint(str(tmp_path / f"theirs/rank_{rank}/c{rank}.ckpt"))
        found = ms.load_checkpoint(str(tmp_path / f"out/rank_{rank}/checkpoint.ckpt"))
        assert expected.keys() == found.keys() == weights.keys()
        for name, parameter in expected.items():
            np.testing.assert_array_equal(parameter.asnumpy(), found[name].asnumpy())


def test_mindspore_merges_the_exported_stages(tmp_path: Path) -> None:
    import mindspore as ms

    parameters = exported(tmp_path, "p", {"pp": 2, "dp": 2}, zero={"optimizer_shard": True, "threshold_kb": 0})
    ms.merge_pipeline_strategys(str(parameters), str(tmp_path / "merged.ckpt"))
    merged = read_stages([tmp_path / "merged.ckpt"])
    assert merged == read_stages(sorted(parameters.iterdir())) and set(merged) == {0, 2}


@pytest.fixture
def training(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A whole training checkpoint, step-00000007 of a run."""
    weights = random_weights(hidden=16, ffn=48)
    model = ModelConfig(num_layers=3, hidden_size=16, num_heads=2, ffn_hidden_size=48, seq_length=6, vocab_size=11)
    moments = {name: array for name, array in with_moments(weights).items() if name.startswith("adam_")}
    state = TrainingState(7, 1.0, 0, 0, 99, 2.5)
    return save_checkpoint(tmp_path / "run", state, weights, moments, model, {"seed": 1}), weights


def test_a_training_checkpoint_stays_one(tmp_path: Path, training) -> None:
    path, weights = training
    write_layouts(tmp_path / "four.ckpt", ours(released_layouts(weights, 4, 1)))
    assert reshard(path, "--to", tmp_path / "four.ckpt", "--out", tmp_path / "four") == 0
    saved = open_checkpoint(tmp_path / "four")
    assert saved.state == open_checkpoint(path).state
    for found, expected in (
        (saved.weights(), load_file(path / WEIGHTS)),
        (saved.optimizer(), load_file(path / OPTIMIZER)),
    ):
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    # What else reads checkpoints reads this one too.
    _, loaded, _ = load_for_inference(tmp_path / "four")
    assert all(np.array_equal(loaded[name], weights[name]) for name in weights)
    words = (
        "convert",
        tmp_path / "four",
        "--to",
        "safetensors",
        "--heads",
        2,
        "--out",
        tmp_path / "converted.safetensors",
    )
    assert main([str(word) for word in words]) == 0
    assert np.array_equal(load_file(tmp_path / "converted.safetensors")[NORM], weights[NORM])
    assert reshard(tmp_path / "four", "--out", tmp_path / "whole") == 0
    assert json.loads((tmp_path / "whole/state.json").read_text())["state"]["step"] == 7
    for name in (WEIGHTS, OPTIMIZER):
        expected, found = load_file(path / name), load_file(tmp_path / "whole" / name)
        assert all(np.array_equal(found[key], expected[key]) for key in expected)
    assert reshard(tmp_path / "four", "--weights-only", "--out", tmp_path / "weights.safetensors") == 0
    assert load_file(tmp_path / "weights.safetensors").keys() == weights.keys()


def test_strategy_files_in_place_of_mindspores(tmp_path: Path, training, capsys) -> None:
    """By two strategies of other shapes, a pipeline among them: bit-exact; a strategy of another model is refused."""
    import yaml

    path, _ = training
    fields = {"num_layers": 3, "hidden_size": 16, "num_heads": 2, "ffn_hidden_size": 48, "seq_length": 6}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(fields | {"vocab_size": 12, "query_layer": True}))
    for name, mesh in (("a", {"dp": 2, "tp": 2}), ("b", {"pp": 3, "dp": 2})):
        strategy = {"model": {"file": "model.yaml"}, "cluster": {"preset": "atlas-800-910a"}, "mesh": mesh}
        strategy |= {"batch": {"global": 4}, "zero": {"optimizer_shard": True, "threshold_kb": 0}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(strategy | {"tensor": {"vocab": "whole"}}))
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    # The strategy's vocabulary gives way to the checkpoint's: 11 words.
    assert reshard(path, "--to", a, "--out", tmp_path / "on-a") == 0
    assert reshard(tmp_path / "on-a", "--from", a, "--to", b, "--out", tmp_path / "on-b") == 0
    assert reshard(tmp_path / "on-b", "--from", b, "--out", tmp_path / "back") == 0
    for name in (WEIGHTS, OPTIMIZER):
        expected, found = load_file(path / name), load_file(tmp_path / "back" / name)
        assert all(np.array_equal(found[key], expected[key]) for key in expected)
    held = [load_file(tmp_path / f"on-b/rank_{rank}/checkpoint.safetensors") for rank in (0, 2, 4)]
    assert ["backbone.word_embedding.embedding_table" in stage for stage in held] == [True, False, True]
    assert "num_layers 32, this one has 3" in complaint(capsys, path, "--to", released(tmp_path), "--out", "x")
    (tmp_path / "on-a/state.json").unlink()
    words = (tmp_path / "on-a", "--from", a, "--out", tmp_path / "x.safetensors")
    assert "must have [12, 16]" in complaint(capsys, *words)


def released(folder: Path) -> Path:
    """A strategy for the 2.6B model."""
    path = folder / "released.yaml"
    path.write_text("batch: {global: 8}\ncluster: {preset: atlas-800-910a}\nmesh: {dp: 8}\n")
    return path


def complaint(capsys, *words: object) -> str:
    capsys.readouterr()
    assert reshard(*words) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_what_is_wrong_is_named_and_nothing_is_written(tmp_path: Path, training, capsys) -> None:
    path, weights = training
    layouts = ours(released_layouts(weights, 4, 1))
    write_layouts(tmp_path / "four.ckpt", layouts)
    assert reshard(path, "--to", tmp_path / "four.ckpt", "--out", tmp_path / "four") == 0
    shards, out = tmp_path / "four", tmp_path / "out"
    third = shards / "rank_2/checkpoint.safetensors"
    content = third.read_bytes()
    third.write_bytes(content[:-4] + b"\0\0\0\1")
    assert "rank_2/checkpoint.safetensors: is damaged" in complaint(capsys, shards, "--out", out)
    third.unlink()
    assert "rank_2/checkpoint.safetensors: is missing" in complaint(capsys, shards, "--out", out)
    # Without the description of a training checkpoint the shards must tell by themselves.
    (shards / "state.json").unlink()
    assert "1 missing (rank_N/checkpoint.safetensors, N = 2)" in complaint(capsys, shards, "--out", out)
    third.write_bytes((shards / "rank_1/checkpoint.safetensors").read_bytes())
    assert "copies of another rank's shard" in complaint(capsys, shards, "--out", out)
    third.write_bytes(content[: len(content) // 2])
    assert "1 unreadable: rank_2/checkpoint.safetensors" in complaint(capsys, shards, "--out", out)
    foreign = {name: array * 2 for name, array in load_file(shards / "rank_1/checkpoint.safetensors").items()}
    save_file(foreign, third)
    assert "of another model or training step: rank_2/" in complaint(capsys, shards, "--out", out)
    third.write_bytes(content)
    other = ours(released_layouts([name for name in weights if "blocks.1" not in name], 4, 1))
    write_layouts(tmp_path / "other.ckpt", other)
    assert "and the new layout has not," in complaint(capsys, shards, "--to", tmp_path / "other.ckpt", "--out", out)
    write_layouts(tmp_path / "odd.ckpt", ours(released_layouts(weights, 5, 1)))
    assert "does not fit the new layout" in complaint(capsys, path, "--to", tmp_path / "odd.ckpt", "--out", out)
    assert "must end in .safetensors or .ckpt" in complaint(capsys, shards, "--out", out)
    assert "already exists" in complaint(capsys, path, "--out", shards)
    assert not out.exists() and not list(tmp_path.glob(".out*"))


def test_shards_that_do_not_belong_are_named(tmp_path: Path, capsys) -> None:
    """Without the checksums of a training checkpoint: by shapes, ranks, strategy, and MindSpore's own checksum."""
    weights = random_weights(hidden=16, ffn=48)
    layouts = ours(released_layouts(weights, 4, 1), moments=False)
    shards, out = tmp_path / "shards", tmp_path / "out.safetensors"
    write_shards(shards, weights, layouts)
    second, third = (shards / f"rank_{rank}/checkpoint.safetensors" for rank in (1, 2))
    content = third.read_bytes()

    held = load_file(third)
    name = "backbone.blocks.0.attention.dense1.weight"
    save_file(held | {name: held[name][:2]}, third)
    assert f"1 unlike the others: rank_2/checkpoint.safetensors ({name} is [2, 16] instead of [4, 16])" in complaint(
        capsys, shards, "--out", out
    )
    save_file({key: value for key, value in held.items() if key != name}, third)
    assert f"rank_2/checkpoint.safetensors (lacks {name})" in complaint(capsys, shards, "--out", out)
    third.write_bytes(content)
    (shards / "rank_1/other.safetensors").write_bytes(second.read_bytes())
    assert "1 there twice: rank_1/other.safetensors (rank 1, as rank_1/checkpoint.safetensors)" in complaint(
        capsys, shards, "--out", out
    )
    (shards / "rank_1/other.safetensors").unlink()
    for ranks, told in ((8, "4 missing (rank_N/checkpoint.safetensors, N = 4-7)"), (2, "2 of no rank of the strategy")):
        write_layouts(tmp_path / "other.ckpt", ours(released_layouts(weights, ranks, 1), moments=False))
        assert told in complaint(capsys, shards, "--from", tmp_path / "other.ckpt", "--out", out)
    (shards / "strategy.ckpt").write_bytes(b"no strategy")
    assert "is not a MindSpore parallel strategy file" in complaint(capsys, shards, "--out", out)
    header = int.from_bytes(content[:8], "little")
    write_layouts(shards / "strategy.ckpt", layouts)
    for place in (8, 8 + header // 2, 7 + header):
        third.write_bytes(content[:place] + b"!" + content[place + 1 :])
        assert "rank_2/checkpoint.safetensors" in complaint(capsys, shards, "--out", out)
    third.write_bytes(content)
    assert not out.exists() and reshard(shards, "--out", out) == 0


# Killed before its n-th write, for every n until it ends by itself; then once in peace.
KILLS = """
import os, signal, sys
from pathlib import Path
from pangu.cli import main
import pangu.commands.reshard, pangu.checkpoint.reshard, pangu.checkpoint.reshard_write
words, out, kills = sys.argv[1:], Path(sys.argv[-1]), 0
while True:
    pid = os.fork()
    if not pid:
        left, real = kills, pangu.checkpoint.reshard_write.ShardFile.write
        def write(file, pieces):
            global left
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            real(file, pieces)
        pangu.checkpoint.reshard_write.ShardFile.write = write
        os._exit(main(["reshard", *words]))
    if os.waitpid(pid, 0)[1] != signal.SIGKILL:
        break
    assert not out.exists() and out.with_name(f".{out.name}.partial").exists()
    kills += 1
print(kills)
"""


def test_killed_before_any_write_it_leaves_nothing_and_the_next_call_succeeds(tmp_path: Path, training) -> None:
    path, weights = training
    write_layouts(tmp_path / "four.ckpt", ours(released_layouts(weights, 4, 1)))
    words = [str(path), "--to", str(tmp_path / "four.ckpt"), "--weights-only", "--out", str(tmp_path / "out")]
    told = subprocess.run([sys.executable, "-c", KILLS, *words], cwd=REPOSITORY, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    # Each of four files: its header and a write for each parameter; and the strategy, and model.yaml.
    assert int(told.stdout.splitlines()[-1]) == 4 * (1 + len(weights)) + 2
    assert not list(tmp_path.glob(".out*"))
    assert reshard(tmp_path / "out", "--out", tmp_path / "whole.safetensors") == 0
    whole = load_file(tmp_path / "whole.safetensors")
    assert all(np.array_equal(whole[name], weights[name]) for name in weights)


def test_kill_9_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    rows = {f"{i}.weight": np.full((1024, 1024), i, np.float32) for i in range(16)}
    layouts = {name: ParameterLayout((4,), ((), (0,))) for name in rows}
    save_file(rows, tmp_path / "whole.safetensors")
    write_layouts(tmp_path / "four.ckpt", layouts)
    words = [sys.executable, "-m", "pangu", "reshard", str(tmp_path / "whole.safetensors")]
    words += ["--to", str(tmp_path / "four.ckpt"), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(words, cwd=REPOSITORY)
    hidden = tmp_path / ".out.partial"
    while process.poll() is None and not list(hidden.glob("rank_0/*")):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists() and hidden.exists()
    subprocess.run(words, cwd=REPOSITORY, check=True, env=os.environ)
    assert not hidden.exists()
    found = load_file(tmp_path / "out/rank_3/checkpoint.safetensors")
    assert all(np.array_equal(found[name], rows[name][:, 768:]) for name in rows)
