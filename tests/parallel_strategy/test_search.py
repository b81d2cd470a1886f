"""The search: what it prices is what `predict` predicts, and its winner is the best of a small space tried out one by
one."""

import json
import random

import numpy as np
import pytest
import yaml

from parallel_strategy.cli import main
from parallel_strategy.predict import Prediction
from parallel_strategy.search.balance import balance
from parallel_strategy.search.find import search
from parallel_strategy.search.parts import parts_of
from parallel_strategy.search.pricing import evaluate
from parallel_strategy.search.refine import alternatives
from parallel_strategy.search.shapes import Space
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.spec.strategy import Setup, StrategySpec
from tests.parallel_strategy.strategies import setup_of


def predicted(asked: Setup, strategy: StrategySpec) -> Prediction:
    return Prediction(Setup(model=asked.model, cluster=asked.cluster, framework=asked.framework, strategy=strategy))


@pytest.mark.parametrize(
    ("model", "cluster", "framework", "devices"),
    [
        ("pangu-alpha-13b", "cloudbrain2-2048", "mindspore", 64),
        ("gpt-22b", "dgx-a100", "megatron-lm-2022", 32),
        ("mixtral-8x7b", "dgx-h100", "megatron-core", 32),
        ("deepseek-v3", "dgx-h100", "megatron-core", 64),  # prediction layers, experts from the fourth layer on
        ("pangu-alpha-2.6b", "cloudbrain2-2048", "mindspore-2.10", 16),  # a collective for every weight
    ],
)
def test_candidates_cost_what_predict_says_to_the_last_digit(model, cluster, framework, devices):
    asked = setup_of(ModelSpec.preset(model), cluster, framework, batch={"global": 64}, mesh={"dp": devices})
    space = Space(devices, 64, cp=[1, 2], tp=[1, 4] if asked.model.experts else [])
    groups = evaluate(asked, space, (4.0,))
    assert sum(len(group.seconds) for group in groups) > 1000
    choose = random.Random(4)
    for number in range(60):
        group = choose.choice(groups)
        index = choose.randrange(len(group.seconds))
        kind = (group.interleave > 1, group.activation > 0, np.ones(len(group.seconds), dtype=bool))[number % 3]
        if kind.any():
            index = choose.choice(np.flatnonzero(kind).tolist())
        prediction = predicted(asked, group.strategy(index, asked))
        assert prediction.closed_form_seconds == pytest.approx(group.seconds[index], rel=1e-9)
        assert prediction.gib == pytest.approx(group.gib[index], rel=1e-9)


def test_a_winner_fits_on_every_size_of_device():
    """Sizes that lie between what candidates need, so that a rounded figure would let one through."""
    asked = setup_of(
        ModelSpec.preset("pangu-alpha-350m"), "atlas-800-910a", "mindspore", batch={"global": 16}, mesh={"dp": 4}
    )
    space = Space(4, 16, schedules=["1f1b", "interleaved"], largest_micro=4, simulated=["zb_v"])
    needs = np.unique(np.concatenate([group.gib for group in evaluate(asked, space)]))
    for usable in [*np.linspace(0.6 * needs[0], needs[-1], 3), *needs[:: len(needs) // 7] - 1e-4]:
        hbm = asked.cluster.device.hbm.model_copy(update={"gb": 1000.0, "usable_gb": float(usable)})
        device = asked.cluster.device.model_copy(update={"hbm": hbm})
        other = asked.model_copy(update={"cluster": asked.cluster.model_copy(update={"device": device})})
        found = search(other, space, keep=3)
        for prediction in found.best:
            again = predicted(other, prediction.setup.strategy)
            assert again.gib <= usable and not again.out_of_memory
            assert again.seconds == pytest.approx(prediction.seconds, rel=1e-9)
        assert bool(found.best) == (found.nearest is None)
        if found.nearest is not None:
            assert found.nearest.gib > usable


def test_where_nothing_fits_the_command_says_what_lacks_least(tmp_path, capsys):
    path = tmp_path / "strategy.yaml"
    path.write_text(
        "model: {preset: pangu-alpha-13b}\ncluster: {preset: atlas-800-910a}\nbatch: {global: 8}\nmesh: {dp: 1}\n"
    )
    assert main(["search", str(path), "--on-device", "--out", str(tmp_path / "best.yaml")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{path}: none of " in said and " GiB, 30.50 usable: " in said
    assert not (tmp_path / "best.yaml").exists()
    assert main(["search", str(path), "--on-device", "--json"]) == 2
    data = json.loads(capsys.readouterr().out)
    assert data["best"] == [] and data["nearest"]["gib"] > 30.5 and "none of " in data["error"]


def test_other_devices_than_the_files_are_priced_as_predict_prices_them(tmp_path, capsys):
    """Devices that share a machine's cores are slower the more of them compute."""
    path, best = tmp_path / "strategy.yaml", tmp_path / "best.yaml"
    path.write_text(
        "model: {preset: pangu-alpha-350m, seq: 128}\ncluster: {preset: this-machine}\nframework: pangu-cpu\n"
        "batch: {global: 4}\n"
    )
    assert main(["search", str(path), "--devices", "2", "--out", str(best), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["best"][0]
    assert main(["predict", str(best), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step_seconds"] == pytest.approx(found["seconds"], rel=1e-9)


def test_the_winner_beats_every_candidate_that_fits():
    asked = setup_of(
        ModelSpec.preset("pangu-alpha-2.6b"), "atlas-800-910a", "mindspore", batch={"global": 32}, mesh={"dp": 8}
    )
    space = Space(8, 32, schedules=["1f1b", "gpipe"], chunks=[1], zero=[0, 1], offload=[False], largest_micro=4)
    found = search(asked, space)
    times = []
    for group in evaluate(asked, space):
        for index in range(0, len(group.seconds), 7):
            prediction = predicted(asked, group.strategy(index, asked))
            if not prediction.out_of_memory:
                times.append(prediction.seconds)
    assert found.best[0].seconds <= min(times) * 1.0001
    assert not found.best[0].out_of_memory


def test_pareto_front_why_not_and_sensitivity():
    asked = setup_of(
        ModelSpec.preset("pangu-alpha-13b"), "cloudbrain2-2048", "mindspore", batch={"global": 128}, mesh={"dp": 64}
    )
    found = search(asked, Space(64, 128))
    seconds, gib = [s for s, _, _ in found.front], [g for _, g, _ in found.front]
    assert seconds == sorted(seconds) and gib == sorted(gib, reverse=True)
    changes = " ".join(n.change for n in found.neighbours)
    for choice in ("tensor parallel", "pipeline stages", "micro-batch", "order", "recompute", "optimizer sharding"):
        assert choice in changes
    assert all(any(word in n.reason for word in ("slower", "fit", "closed form", "as fast")) for n in found.neighbours)
    moved = dict(found.sensitivity)
    assert moved["network cards half as fast"] > 0 and moved["half the device memory"] >= 0
    assert moved["twice the device memory"] <= 0
    assert moved["twice the global batch, per sequence"] < moved["half the global batch, per sequence"]
    winner = found.best[0]
    assert sum(parts_of(winner).values()) == pytest.approx(winner.closed_form_seconds, rel=0.02)


def test_activations_go_to_the_host_only_where_the_winner_may_need_it():
    """The bound that spares most of these candidates loses no winner: pricing all of them finds nothing faster."""
    asked = setup_of(
        ModelSpec.preset("gpt-6.7b"), "a100-40gb-roce-1600", "megatron-lm-2022",
        batch={"global": 32, "micro": 4}, mesh={"dp": 4},
    )  # fmt: skip
    space = Space(4, 32, recompute=[("none", 0.0)], offload=[False], schedules=["1f1b"], micro=[2, 4, 8])
    tight = 45.0
    pruned = evaluate(asked, space, (tight,))
    fastest = min(float(group.seconds[group.gib <= tight].min(initial=np.inf)) for group in pruned)
    everything = []
    for group in evaluate(asked, space):
        for index in range(len(group.seconds)):
            for share in (0.0, 0.5, 1.0):
                strategy = group.strategy(index, asked)
                offload = strategy.offload.model_copy(update={"activation": share})
                prediction = predicted(asked, strategy.model_copy(update={"offload": offload}))
                if prediction.gib <= tight:
                    everything.append(prediction.closed_form_seconds)
    assert fastest == pytest.approx(min(everything), rel=1e-6)
    moved = sum(int((group.activation > 0).sum()) for group in pruned)
    assert 0 < moved < 2 * sum(int((group.activation == 0).sum()) for group in pruned)


def test_two_halves_and_steps_beside_the_space():
    asked = setup_of(
        ModelSpec.preset("pangu-alpha-13b"), "atlas-800-910a", "mindspore", batch={"global": 64}, mesh={"dp": 8}
    )
    space = Space(32, 64, tp=[8], pp=[1, 2], largest_micro=4, simulated=["zb_v"])
    found = search(asked, space)
    choices = {neighbour.choice for neighbour in found.neighbours}
    assert {"gradient buckets", "activations on the host", "halves of a micro-batch", "vocabulary"} <= choices
    winner = found.best[0].setup.strategy
    assert winner.tensor.interleave == 2  # eight-way collectives over PCIe hide behind the other half
    assert found.refinements > 10
    plain = Prediction(asked.with_strategy(winner.model_copy(update={"zero": winner.zero})))
    for step in alternatives(plain.setup, space):
        other = predicted(asked, step.strategy)
        assert other.out_of_memory or other.seconds >= 0.998 * found.best[0].seconds


def test_the_papers_placement_comes_out_of_the_search():
    """200B on 2,048, the whole space: tensor parallelism inside a server, stages across the servers of a rack, data
    parallelism across racks; and the paper's own 16 stages with the schedules of its time."""
    from parallel_strategy.placement import axis_levels

    asked = setup_of(
        ModelSpec.preset("pangu-alpha-200b"), "cloudbrain2-2048", "mindspore", batch={"global": 512}, mesh={"dp": 16}
    )
    whole = Space(2048, 512)
    of_its_time = Space(
        2048, 512, pp=[8, 16, 32], schedules=["1f1b"], chunks=[1], largest_micro=2, recompute=[("full", 1.0)],
        offload=[False],
    )  # fmt: skip
    for space, least in ((whole, 500_000), (of_its_time, 1)):
        found = search(asked, space)
        mesh = found.best[0].setup.strategy.mesh
        levels = axis_levels(mesh, asked.cluster)
        assert found.candidates >= least
        assert mesh.axes[0] == "dp" and levels["dp"] == "spine"
        assert levels["tp"] in ("hccs", "server") and levels["pp"] == "rack"


def test_balance_moves_layers_away_from_the_ends():
    """A large vocabulary makes the last stage heavy; the program finds stages that are faster and still hold all
    layers."""
    model = ModelSpec(
        num_layers=32, hidden_size=2048, num_heads=16, ffn_hidden_size=8192, seq_length=1024, vocab_size=250000
    )
    asked = setup_of(model, framework="megatron-core", batch={"global": 64}, mesh={"pp": 8})
    before = Prediction(asked)
    found = balance(before)
    assert found is not None and sum(found.stages) == 32 and found.stages[-1] < 4
    assert predicted(asked, found.strategy).seconds < before.seconds


def test_balance_recomputes_only_where_memory_asks_for_it():
    model = ModelSpec.preset("gpt-6.7b")
    asked = setup_of(
        model, "a100-40gb-roce-1600", "megatron-lm-2022", batch={"global": 64, "micro": 4}, mesh={"pp": 8, "tp": 1}
    )
    before = Prediction(asked)
    assert before.out_of_memory
    found = balance(before)
    assert found is not None
    after = predicted(asked, found.strategy)
    assert not after.out_of_memory
    assert 0 < sum(found.recomputed) < model.num_layers and found.recomputed[0] >= found.recomputed[-1]


def test_the_written_strategy_finds_its_files_from_where_it_lies(tmp_path, capsys, monkeypatch):
    files = tmp_path / "files"
    assert main(["init", str(files / "strategy.yaml"), "--cluster", "atlas-800-910a", "--copy-presets"]) == 0
    monkeypatch.chdir(files)
    best = tmp_path / "other" / "deep" / "best.yaml"
    assert main(["search", "strategy.yaml", "--out", str(best), "--keep", "1", "--schedules", "1f1b"]) == 0
    written = yaml.safe_load(best.read_text(encoding="utf-8"))
    assert written["model"]["file"] == "../../files/model.yaml" and written["framework"] == "../../files/framework.yaml"
    monkeypatch.chdir("/")
    assert main(["predict", str(best)]) == 0
    assert main(["search", str(files / "strategy.yaml"), "--schedules", "zb_v"]) == 2
    assert "add one of" in capsys.readouterr().err


def test_the_command_writes_a_strategy_that_predict_accepts(tmp_path, capsys):
    path, best = tmp_path / "strategy.yaml", tmp_path / "best.yaml"
    path.write_text(
        "model: {preset: pangu-alpha-2.6b}\ncluster: {preset: atlas-800-910a}\nbatch: {global: 32}\nmesh: {dp: 8}\n"
    )
    assert main(["search", str(path), "--out", str(best), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["candidates"] > data["fitting"] > 0 and data["why_not"] and data["pareto"]
    assert best.read_text(encoding="utf-8").startswith("# Found by search: ")
    assert main(["predict", str(best), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step_seconds"] == pytest.approx(data["best"][0]["seconds"])
    assert main(["search", str(path), "--schedules", "nope"]) == 2
