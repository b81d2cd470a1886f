"""The compiled training step: losses, gradients and updates as MindSpore's graph has them; a run keeps its engine."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pangu.checkpoint.description import sealed, unsealed
from pangu.checkpoint.open import STATE, WEIGHTS, newest_checkpoint, step_directories
from pangu.config import AttentionConfig, ModelConfig, ObjectivesConfig, TrainConfig
from pangu.foundation.errors import UserError
from pangu.training.run import train
from tests.pangu import packed_corpus
from tests.pangu.small_model import random_weights

ROWS, LENGTH, WORDS, PAD, END = 4, 24, 50, 3, 5
SMALL = {
    **{"num_layers": 3, "hidden_size": 32, "num_heads": 2, "ffn_hidden_size": 64, "seq_length": 160},
    **{"vocab_size": WORDS, "compute_dtype": "fp32", "dropout_rate": 0.0},
}
SETTINGS = {"data": "", "out": "", "batch_size": ROWS}


def two_steps(model: ModelConfig, settings: TrainConfig, objective, length: int):  # type: ignore[no-untyped-def]
    """Return for the graph and for the compiled step: results of two updates, first moments after the first, weights
    after both, and the loss of an evaluation."""
    import mindspore as ms

    from pangu.model.network import build, read_weights
    from pangu.training.compiled.compiled_step import CompiledStep, StepRules
    from pangu.training.loss import Loss
    from pangu.training.optimizer import AdamW
    from pangu.training.step import TrainStep

    ends = []
    for compiled in (False, True):
        network = build(model, random_weights(model))
        network.set_train(True)
        optimizer = AdamW(network.trainable_params(), 0.9, 0.95)
        loss = Loss(network, objective.in_graph())
        rest = (settings.optimizer.clip_norm, settings.accumulate, None, settings.skip_above_norm)
        step = (
            CompiledStep(network, loss.objective, optimizer, StepRules.of(settings))
            if compiled
            else TrainStep(loss, optimizer, *rest)
        )
        results, moments = [], {}
        for number in range(2):
            rows = np.random.default_rng(number).integers(0, WORDS, (ROWS, length + 1)).astype(np.int32)
            prepared = objective.prepare(rows, number * ROWS)
            scalars = (objective.predictions(prepared), 1.0, 1e-3, 1e-8, 0.1)
            numbers = [ms.Tensor(scalar, ms.float32) for scalar in scalars]
            numbers.insert(2, ms.Tensor(11 * number, ms.int32))
            results.append([float(one.asnumpy()) for one in step(ms.Tensor(prepared), *numbers)])
            moments = moments or {name: value.copy() for name, value in optimizer.states().items()}
        network.set_train(False)
        evaluated = (
            step.loss(loss.objective, prepared)
            if compiled
            else float(loss(ms.Tensor(prepared), ms.Tensor(0, ms.int32)).asnumpy())
        )
        ends.append((results, moments, read_weights(network), evaluated))
    return ends


def causal(end_of_document: int | None = END, attention: AttentionConfig | None = None):  # type: ignore[no-untyped-def]
    from pangu.training.objectives.causal import Causal

    return Causal(end_of_document, PAD, attention)


def mixed():  # type: ignore[no-untyped-def]
    """Every kind of row."""
    from pangu.training.objectives.kinds import ObjectiveIds
    from pangu.training.objectives.mixture import Mixture

    shares = {"permuted": {"share": 0.4}, "prefix": {"share": 0.3}, "bidirectional": {"share": 0.3}}
    asked = ObjectivesConfig(**shares, mask_id=7)
    return Mixture(asked, ObjectiveIds(WORDS, 7, ()), END, PAD, 1, ROWS)


STRIDED = AttentionConfig(pattern="strided", span=4)
CASES = {
    "packed documents, accumulation, target": ({"target_in_trunk": True}, {"accumulate": 2}, causal(), LENGTH),
    "no query layer, dropout, recomputation": (
        {"query_layer": False, "activation": "gelu_erf", "dropout_rate": 0.1},
        {"recompute": True, "accumulate": 2},
        causal(),
        LENGTH,
    ),
    # more places than one block of queries has
    "norm at the end, strided attention": (
        {"final_norm": "after_query", "activation": "fast_gelu", "attention": STRIDED.model_dump()},
        {"optimizer": {"clip_norm": 1e-3}},
        causal(None, STRIDED),
        150,
    ),
    "other objectives, dropout": ({"dropout_rate": 0.2}, {"recompute": True}, mixed(), LENGTH),
}


@pytest.mark.parametrize("name", CASES)
def test_losses_gradients_and_weights_are_those_of_the_graph(name: str) -> None:
    changes, settings, objective, length = CASES[name]
    model = ModelConfig.from_fields(SMALL | changes, "test")
    config = TrainConfig.from_fields(SETTINGS | settings, "test")
    (results, moments, weights, evaluated), ours = two_steps(model, config, objective, length)
    np.testing.assert_allclose(ours[0], results, rtol=1e-5)
    np.testing.assert_allclose(ours[3], evaluated, rtol=1e-5)
    for moment, value in moments.items():
        # A gradient that the formula makes 0, as that of the keys' bias, is rounding in both.
        whole = np.linalg.norm(value) + 1e-3 * max(np.linalg.norm(one) for one in moments.values()) * (
            moment.startswith("adam_m")
        )
        assert np.linalg.norm(ours[1][moment] - value) <= 1e-5 * whole + 1e-12, moment
    for weight, value in weights.items():
        if "dense2.bias" not in weight:
            assert np.linalg.norm(ours[2][weight] - value) <= 1e-5 * np.linalg.norm(value), weight


@pytest.mark.parametrize("limit", (1e-6, None))
def test_a_gradient_that_is_too_large_or_no_number_changes_nothing(limit: float | None) -> None:
    import mindspore as ms

    from pangu.model.network import build, read_weights
    from pangu.training.compiled.compiled_step import CompiledStep, StepRules
    from pangu.training.optimizer import AdamW

    model = ModelConfig.from_fields(SMALL, "test")
    weights = random_weights(model)
    if limit is None:
        weights["backbone.blocks.1.output.mapping.weight"][3, 4] = np.inf
    network = build(model, weights)
    optimizer = AdamW(network.trainable_params(), 0.9, 0.95)
    settings = TrainConfig.from_fields(SETTINGS | {"skip_above_norm": limit}, "test")
    step = CompiledStep(network, causal().in_graph(), optimizer, StepRules.of(settings))
    rows = ms.Tensor(np.full((ROWS, LENGTH + 1), 9, np.int32))
    numbers = [ms.Tensor(number, ms.float32) for number in (ROWS * LENGTH, 1.0, 1e-3, 1e-8, 0.1)]
    _, norm, updated = step(rows, *numbers[:2], ms.Tensor(0, ms.int32), *numbers[2:])
    assert not updated.asnumpy() and (limit is None) == (not np.isfinite(norm.asnumpy()))
    assert all((value == weights[name]).all() for name, value in read_weights(network).items())
    assert not any(value.any() for value in optimizer.states().values())


def settings_of(folder: Path, **changes: object) -> TrainConfig:
    """A run of two updates."""
    if not (folder / "packed").is_dir():
        packed_corpus.write(folder / "packed")
        (folder / "model.yaml").write_text(packed_corpus.MODEL)
    fields = {"data": str(folder / "packed"), "model": str(folder / "model.yaml"), "out": str(folder / "run")}
    return TrainConfig.from_fields(fields | {"steps": 2, "batch_size": 4, "checkpoint_every": 1} | changes, "test")


def test_a_run_of_an_earlier_version_goes_on_with_the_graph(tmp_path: Path, capsys) -> None:
    train(settings_of(tmp_path))
    for checkpoint in (tmp_path / "run/checkpoints").glob("step-*"):
        state = unsealed(checkpoint / STATE)
        del state["train"]["engine"]  # which they did not write
        (checkpoint / STATE).write_bytes(sealed(STATE, state))
    with pytest.raises(UserError, match="began with engine = 'mindspore', now it is 'compiled'"):
        train(settings_of(tmp_path, engine="compiled", steps=3))
    train(settings_of(tmp_path, steps=3))
    assert "engine MindSpore, CPU" in capsys.readouterr().err
    saved = newest_checkpoint(tmp_path / "run")
    assert saved is not None and (saved.state.step, saved.train["engine"]) == (3, "mindspore")


def test_a_run_says_its_engine_and_keeps_it(tmp_path: Path, capsys) -> None:
    """What is chosen for the run stands in its checkpoints; train.yaml says what the user said."""
    train(settings_of(tmp_path))
    assert "engine compiled steps, CPU" in capsys.readouterr().err
    assert "engine: null" in (tmp_path / "run/train.yaml").read_text()
    with pytest.raises(UserError, match="began with engine = 'compiled', now it is 'mindspore'"):
        train(settings_of(tmp_path, engine="mindspore", steps=3))
    train(settings_of(tmp_path, engine="compiled", steps=3))
    stopped = (step_directories(tmp_path / "run")[0] / WEIGHTS).read_bytes()
    schedule = {"decay_steps": 2, "warmup_steps": 0}
    train(settings_of(tmp_path, out=str(tmp_path / "at-once"), steps=3, learning_rate=schedule))
    assert (step_directories(tmp_path / "at-once")[0] / WEIGHTS).read_bytes() == stopped


def test_what_compiled_steps_cannot_do_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="engine compiled: fp16 computes with MindSpore; precision: fp32"):
        train(settings_of(tmp_path, engine="compiled", precision="fp16"))


def test_a_profile_names_the_kernels(tmp_path: Path) -> None:
    train(settings_of(tmp_path), profile=1)
    profile = json.loads((tmp_path / "run/profile.json").read_text())
    assert {"attention", "feed-forward", "matrices", "loss", "optimizer"} <= profile["by_part"].keys()
    assert 0 < profile["in_kernels"] <= profile["milliseconds"]


def test_a_run_computes_with_machine_code_from_disk_only(tmp_path: Path) -> None:
    """Just compiled, a sum may have another order, and the first run on a machine other bits (`compile_apart`)."""
    from pangu.training.compiled.compile_apart import MODULES

    corpus = packed_corpus.write(tmp_path / "packed")
    for name, trunk in (("without", False), ("with", True)):
        model = tmp_path / f"{name}.yaml"
        model.write_text(f"{packed_corpus.MODEL}\ntarget_in_trunk: {str(trunk).lower()}\n")
        fields = {"data": str(corpus), "out": str(tmp_path / name), "model": str(model), "steps": 2, "batch_size": 4}
        train(TrainConfig.from_fields(fields, "test"))
    found = {name: one for module in MODULES for name, one in vars(module).items() if hasattr(one, "stats")}
    kept = {name: one.stats for name, one in found.items() if one.stats.cache_path}
    assert len(kept) >= 12 and sum(sum(one.cache_hits.values()) for one in kept.values()) >= 12
    assert {name: dict(one.cache_misses) for name, one in kept.items() if one.cache_misses} == {}


def test_nothing_is_compiled_apart_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    from pangu.training.compiled import compile_apart

    def started(*words: object, **rest: object) -> None:
        raise AssertionError("a process was started")

    nothing = SimpleNamespace(function=numba.njit(lambda x: x))  # as `entry` has it without a folder
    monkeypatch.setattr(compile_apart, "MODULES", (nothing,))
    monkeypatch.setattr(compile_apart.subprocess, "run", started)
    compile_apart.compile_apart()


def test_code_of_older_sources_is_compiled_apart_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where that of other functions is as it was, and where another processor compiled it."""
    from pangu.training.compiled import compile_apart, layer_kernels

    compile_apart.compile_apart()
    assert not compile_apart.is_wanted()
    file = layer_kernels.norm._cache._cache_file
    with monkeypatch.context() as change:
        change.setattr(file, "_source_stamp", "of a file that has changed")
        assert compile_apart.is_wanted()
    there = {(key[0], ("another",), *key[2:]): name for key, name in file._load_index().items()}
    monkeypatch.setattr(file, "_load_index", lambda: there)
    assert compile_apart.is_wanted()


def test_a_compilation_apart_that_fails_is_said(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from pangu.training.compiled import compile_apart

    failure = "import sys; print('Traceback', file=sys.stderr); sys.exit('OSError: No space left on device')"
    own = compile_apart.subprocess.run
    monkeypatch.setattr(compile_apart, "has_code_on_disk", lambda dispatcher: False)
    monkeypatch.setattr(compile_apart.subprocess, "run", lambda words, **rest: own([words[0], "-c", failure], **rest))
    compile_apart.compile_apart()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and said[1].endswith("compiles it by itself: OSError: No space left on device")
