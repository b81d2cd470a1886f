"""Preferences and distillation: the formulas, what holds at the start, and bad input in one line."""

import json
import math
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import yaml
from mindspore import Parameter, Tensor, nn

import pangu
from pangu.checkpoint.weights import load_for_inference
from pangu.device import use_device
from pangu.foundation.errors import UserError
from pangu.model.network import build, load_weights
from pangu.tokenizer import Tokenizer
from pangu.training.objectives.distillation import DistillationLoss, Weights, freeze_teacher
from pangu.training.objectives.instruction import Instruction
from pangu.training.objectives.preference import PreferenceLoss
from pangu.tuning import adapter_file
from pangu.tuning.aims import Answers, Distillation
from pangu.tuning.record_rows import pairs_of
from pangu.tuning.records import Pair, Reject, pair_of, read_records
from pangu.tuning.teacher import load_teacher, student_of
from pangu.tuning.template import TEMPLATES
from pangu.tuning.tuning_settings import Settings
from tests.pangu import distributed_run, packed_corpus, small_model

FAST = {"steps": 3, "batch_size": 2, "length": 48, "checkpoint_every": 3, "rate": 1e-2}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    use_device()
    return small_model.write(tmp_path_factory.mktemp("base"), num_layers=3)


# -- preferences -----------------------------------------------------------------------------------------------------


def test_the_gradient_of_a_preference_is_the_formulas() -> None:
    """d loss / dθ = -beta · sigmoid(-beta · margin) · x, for margins θ · x."""
    use_device()

    class Linear(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.theta = Parameter(Tensor(np.array([0.5, -2.0], np.float32)), name="theta")

        def construct(self, rows: Tensor, seed: Tensor) -> Tensor:
            return (rows * self.theta).sum(-1)

    toy, beta = Linear(), 0.3
    x = np.array([[1.0, 2.0], [-3.0, 0.5], [100.0, -400.0], [-100.0, 400.0]], np.float32)
    loss = PreferenceLoss(toy, beta)
    value, (gradient,) = ms.value_and_grad(loss, None, [toy.theta])(Tensor(x), Tensor(0, ms.int32))
    margins = (x.astype(np.float64) * [0.5, -2.0]).sum(-1)
    assert float(value.asnumpy()) == pytest.approx(np.logaddexp(0, -beta * margins).sum(), rel=1e-6)
    wanted = (-beta / (1 + np.exp(beta * margins)))[:, None] * x
    np.testing.assert_allclose(gradient.asnumpy(), wanted.sum(0), rtol=1e-5)


def test_preferences_begin_at_ln_2_and_their_margin_rises(base: Path, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"今天{n}", "chosen": "天气很好。", "rejected": "他很高兴。"} for n in range(12)]
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    tokenizer = base.parent / "tokenizer"
    result = pangu.finetune(base, data, tmp_path / "out", tokenizer=tokenizer, objective="dpo", validation=0.25, **FAST)
    assert result.loss_before == pytest.approx(math.log(2), abs=1e-5)
    first = json.loads((tmp_path / "out/metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert result.loss_after < result.loss_before and result.reward_margin > 0 and result.preferred == 1
    adapted, plain = pangu.load(tmp_path / "out"), pangu.load(base, tokenizer=tokenizer)
    pairs = [("问：今天0\n答：", answer) for answer in ("天气很好。", "他很高兴。")]
    (a, b), (c, d) = ([one.total for one in model.log_likelihood(pairs)] for model in (adapted, plain))
    assert a - b > c - d


def test_a_pair_is_one_row_whose_answers_have_opposite_weights(base: Path) -> None:
    tokenizer = Tokenizer.load(base.parent / "tokenizer")
    pairs = [Pair("今天天气" * 40, "很好。", "不好，下雨。"), Pair("今天", "很好。" * 40, "好")]
    samples, rejects = pairs_of(pairs, TEMPLATES["qa"], tokenizer, 30, tokenizer.special.pad)
    (row,) = samples.rows
    ids, weights = row[:62], row[62:124]
    end = np.flatnonzero(ids == tokenizer.special.end_of_document)
    answers = [tokenizer.encode(text) for text in ("很好。", "不好，下雨。")]
    assert ids[weights == 1].tolist() == [*answers[0], 9] and ids[weights == -1].tolist() == [*answers[1], 9]
    before = [ids[: end[0] - len(answers[0])], ids[end[0] + 1 : end[1] - len(answers[1])]]
    assert np.array_equal(*before) and max(end[0], end[1] - end[0] - 1) == 30 and row[124] == 0
    assert samples.cut == 1 and "do not fit a context of 30" in rejects[0].reason


def test_bad_pairs_are_named_and_the_others_are_used(tmp_path: Path) -> None:
    good = {"prompt": "甲", "chosen": "乙", "rejected": "丙"}
    rows = [
        good,
        {**good, "rejected": "乙"},
        {**good, "chosen": " "},
        {"prompt": "甲"},
        {**good, "rejected": 3},
        [],
        "x",
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = list(read_records(path, pair_of))
    assert found[0] == Pair("甲", "乙", "丙") and all(isinstance(one, Reject) for one in found[1:])
    reasons = [one.reason for one in found[1:] if isinstance(one, Reject)]
    wanted = ["are the same", "'chosen' is empty", "'chosen' is missing", "'rejected' must be text", "no object"]
    assert all(part in reason for part, reason in zip([*wanted, "no object"], reasons, strict=True)), reasons
    text = tmp_path / "pairs.txt"
    text.write_text("甲\n")
    (reject,) = read_records(text, pair_of)
    assert isinstance(reject, Reject) and "pairs are JSON objects" in reject.reason


# -- distillation ----------------------------------------------------------------------------------------------------


def test_a_student_that_is_its_teacher_has_nothing_to_learn_and_the_loss_is_the_formulas(base: Path) -> None:
    config, weights, _ = load_for_inference(base)
    network, teacher = build(config, weights), freeze_teacher(build(config, weights))
    objective = Instruction(9).in_graph()
    temperature, share, hidden = 3.0, 0.75, 0.5
    loss = DistillationLoss(network, objective, teacher, objective, Weights(share, temperature, hidden))
    random = np.random.default_rng(1)
    rows = np.concatenate([random.integers(10, 500, (2, 13)), random.integers(0, 2, (2, 13))], 1).astype(np.int32)
    step = ms.value_and_grad(loss, None, [*network.trainable_params(), *loss.parameters])
    arguments = Tensor(rows), Tensor(0, ms.int32)
    same, gradients = step(*arguments)
    positions = np.arange(12)
    causal = np.where(np.tril(np.ones((12, 12))), 0, -10000).astype(np.float32)[None, None].repeat(2, 0)
    plain = build(config, weights)
    ids, labels, counted = Tensor(rows[:, :12]), rows[:, 1:13], rows[:, 14:]

    def outputs(chosen: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        load_weights(plain, chosen)
        place = Tensor(positions[None].repeat(2, 0).astype(np.int32))
        inner = plain.backbone(ids, place, place, Tensor(causal), Tensor(0, ms.int32))
        return plain.logits(inner).asnumpy().astype(np.float64), inner.asnumpy().astype(np.float64)

    def log_softmax(x: np.ndarray) -> np.ndarray:
        x = x - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    def formula(teachers: dict[str, np.ndarray]) -> float:
        (ours, inner), (theirs, their_inner) = outputs(weights), outputs(teachers)
        p, q = log_softmax(theirs / temperature), log_softmax(ours / temperature)
        distance = (np.exp(p) * (p - q)).sum(-1)
        nll = -np.take_along_axis(log_softmax(ours), labels[..., None], -1)[..., 0]
        gap = ((inner - their_inner) ** 2).mean(-1)
        return float((counted * (share * temperature**2 * distance + (1 - share) * nll + hidden * gap)).sum())

    assert float(same.asnumpy()) == pytest.approx(formula(weights), rel=1e-5)
    others = {
        name: weight + random.normal(0, 0.05, weight.shape).astype(np.float32) for name, weight in weights.items()
    }
    for parameter in teacher.get_parameters():
        parameter.set_data(Tensor(others[parameter.name.removeprefix("teacher.")]))
    assert float(step(*arguments)[0].asnumpy()) == pytest.approx(formula(others), rel=1e-4)
    # With the labels left out, equal networks have no distance: what is left of the gradient is the labels' share.
    alone = DistillationLoss(network, objective, freeze_teacher(build(config, weights)), objective, Weights(1.0, 2.0))
    value, gradients = ms.value_and_grad(alone, None, list(network.trainable_params()))(*arguments)
    assert abs(float(value.asnumpy())) < 1e-4 and max(np.abs(one.asnumpy()).max() for one in gradients) < 1e-5


def test_without_a_share_of_the_teacher_training_is_the_plain_one(base: Path) -> None:
    """Bit for bit, because the graph is the same: no teacher stands in it."""
    config, weights, _ = load_for_inference(base)
    network, teacher = build(config, weights), build(config, weights)

    def aim(**settings: float) -> Distillation:
        return Distillation(network, lambda batch: batch, 9, config, Settings(**settings), teacher)

    assert type(aim(teacher_weight=0.0).loss) is type(Answers(network, lambda batch: batch, 9, config).loss)
    assert isinstance(aim(teacher_weight=0.5).loss, DistillationLoss)
    assert [one.name for one in aim(teacher_weight=0.0, hidden_weight=1.0).parameters] == ["distillation.projection"]


def test_a_student_of_some_layers_learns_and_is_a_model_of_its_own(base: Path, tmp_path: Path) -> None:
    data = tmp_path / "texts.txt"
    data.write_text("今天天气很好。\n谁去了北京？小明去了北京。\n" * 6, encoding="utf-8")
    tokenizer, out = base.parent / "tokenizer", tmp_path / "out"
    settings = {"objective": "distill", "student_layers": 2, "method": "full", "validation": 0.2, **FAST}
    before = base.read_bytes()
    result = pangu.finetune(base, data, out, tokenizer=tokenizer, **settings)
    assert result.loss_after < result.loss_before and base.read_bytes() == before
    assert pangu.load(out).config.num_layers == 2
    config, weights, _ = load_for_inference(base)
    small, kept = student_of(config, weights, 2)
    assert small.num_layers == 2 and kept.keys() < weights.keys()
    assert all(np.array_equal(kept[name], weights[name]) for name in kept)
    assert adapter_file.read_tensors(out / adapter_file.TRAINED).keys() == kept.keys()


def test_a_teacher_that_does_not_fit_is_one_line(base: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(base.parent / "tokenizer")
    config, _, _ = load_for_inference(base)
    other = small_model.write(tmp_path / "other", seq_length=16)
    (tmp_path / "other/tokenizer").rename(tmp_path / "away")
    with pytest.raises(UserError, match="has a context of 16; rows have 48"):
        load_teacher(other, config, tokenizer, 48)
    with pytest.raises(UserError, match="the student 700: they must be as many"):
        load_teacher(other, config.model_copy(update={"vocab_size": 700}), tokenizer, 8)
    with pytest.raises(UserError, match="a student of 4 layers: must have 2 to 3"):
        student_of(config, {}, 4)
    for settings, message in (
        ({"objective": "distill"}, "needs --teacher, or --student-layers"),
        ({"teacher": base}, "is for objective distill, not answers"),
        ({"student_layers": 2}, "is for objective distill, not answers"),
        ({"objective": "dop"}, "must be one of answers, dpo, distill"),
        ({"objective": "dpo", "beta": 0.0}, "beta = 0.0: must be above 0"),
        ({"teacher_weight": 1.5}, "teacher_weight = 1.5: must be 0 to 1"),
    ):
        with pytest.raises(UserError, match=message):
            pangu.finetune(base, tmp_path / "no.txt", tmp_path / "out", tokenizer=base.parent / "tokenizer", **settings)


# -- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_two_processes_end_where_one_does(base: Path, tmp_path: Path) -> None:
    """With answers of different lengths, so that a mean of each process's means would be another loss."""
    from pangu.cli import main

    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"今天{n}", "completion": "天气很好。" * (1 + n % 4)} for n in range(12)]
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    words = ["finetune", str(base), "--data", str(data), "--tokenizer", str(base.parent / "tokenizer"), "--steps", "3"]
    words += ["--batch-size", "4", "--accumulate", "2", "--length", "48", "--rate", "1e-2", "--module", "q_proj"]
    for name, more in (("one", []), ("two", ["--workers", "2"])):
        assert main([*words, "--out", str(tmp_path / name), *more]) == 0
    one, two = (adapter_file.read_tensors(tmp_path / name / adapter_file.MATRICES) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, array in one.items():
        assert np.abs(array - two[name]).max() < 1e-5, name
    assert max(np.abs(array).max() for name, array in one.items() if "lora_B" in name) > 1e-3
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_what_processes_cannot_share_is_one_line(base: Path, tmp_path: Path, capsys) -> None:
    from pangu.cli import main

    words = ["finetune", str(base), "--data", "no.txt", "--out", str(tmp_path / "out")]
    (tmp_path / "machine.yaml").write_text(yaml.safe_dump(distributed_run.MACHINE))
    (tmp_path / "model.yaml").write_text(packed_corpus.MODEL)
    strategy = {
        "model": {"file": "model.yaml"},
        "cluster": {"file": "machine.yaml"},
        "batch": {"global": 4, "micro": 2},
    }
    two = ["--accumulate", "2"]
    for number, (changes, more, message) in enumerate(
        (
            ({}, ["--workers", "0"], "--workers 0: must be at least 1"),
            ({"mesh": {"tp": 2}}, [], "only mesh.dp may be larger than 1"),
            ({"mesh": {"dp": 2}}, [], "'batch.global': 4; fine-tuning has 8"),
            (
                {"mesh": {"dp": 2}, "batch": {"global": 8, "micro": 2}},
                [],
                "so many micro-batches: 2; fine-tuning has 1",
            ),
            ({"mesh": {"dp": 2}, "batch": {"global": 8, "micro": 2}, "zero": {"optimizer_shard": True}}, two, "true;"),
        )
    ):
        path = tmp_path / f"strategy{number}.yaml"
        path.write_text(yaml.safe_dump({**strategy, **changes}))
        asked = ["--strategy", str(path)] if changes else []
        assert main([*words, *asked, *more]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
