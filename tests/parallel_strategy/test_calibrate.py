"""Measured rows: reading, fitting what may be fitted, scoring without having seen."""

import csv
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from parallel_strategy.calibrate.dryrun import DryRun, DryRunFit, fit_dryruns, parts, predict_dryrun
from parallel_strategy.calibrate.figures import FIGURES, apply
from parallel_strategy.calibrate.fit import Calibration, calibrate
from parallel_strategy.calibrate.known_names import model_traits
from parallel_strategy.calibrate.measured_runs import read_rows
from parallel_strategy.calibrate.protocols import chosen, run_cv, run_p1, run_p2
from parallel_strategy.calibrate.residual import RowShapes, correction, solve
from parallel_strategy.calibrate.score import Outcome, score
from parallel_strategy.cli import main
from parallel_strategy.predict import Prediction

HEADER = (
    "id,split,quality,source,hw,framework,dev_per_node,n_dev,model,layers,hidden,heads,kv_heads,ffn,vocab,seq,tp,pp,dp,cp,ep,vpp,"
    "seq_par,zero,mbs,gbs,recompute,precision,iter_time_s,tflops_per_dev,flops_convention,tokens_s_dev,mem_gib,mem_kind,notes"
)
COLUMNS = HEADER.split(",")


def write_rows(path, changes, hardware="A100-SXM4-80GB, 8/node", framework="Megatron-DeepSpeed"):
    """Rows of a made-up machine: the emulator's own times with `seconds` scaled."""
    base = dict.fromkeys(COLUMNS, "")
    base |= {
        "quality": "A",
        "hw": hardware,
        "framework": framework,
        "dev_per_node": "8",
        "n_dev": "8",
        "model": "GPT",
        "layers": "16",
        "hidden": "2048",
        "heads": "16",
        "ffn": "8192",
        "vocab": "50257",
        "seq": "1024",
        "tp": "2",
        "pp": "2",
        "dp": "2",
        "vpp": "1",
        "mbs": "2",
        "gbs": "32",
        "recompute": "full",
        "precision": "fp16",
        "iter_time_s": "1.0",
    }
    rows = [{**base, "id": f"made_up_{index:04d}", **change} for index, change in enumerate(changes)]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")
    return path


def measured(path, multipliers):
    """The same file with step times that a machine with these figures would show."""
    rows, _ = read_rows(path)
    times = {row.id: Prediction(apply(row.setup, multipliers)).seconds for row in rows}
    with path.open() as file:
        records = list(csv.DictReader(file))
    for record in records:
        record["iter_time_s"] = f"{times[record['id']]:.6f}"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(records)
    return path


LAYOUTS = [
    {
        "hidden": str(hidden),
        "ffn": str(4 * hidden),
        "tp": str(tp),
        "pp": str(pp),
        "dp": str(8 // tp // pp),
        "mbs": mbs,
        "layers": layers,
    }
    for hidden in (2048, 4096)
    for layers in ("16", "32")
    for tp, pp in ((1, 1), (2, 2), (4, 2), (8, 1))
    for mbs in ("2", "4")
]


def test_a_known_machine_is_recovered(tmp_path):
    path = measured(write_rows(tmp_path / "rows.csv", LAYOUTS), {"gemm_eff": 0.9, "host_launch": 1.3})
    rows, _ = read_rows(path)
    calibration = calibrate(rows)
    (fit,) = calibration.groups.values()
    # what all of so few shapes share may be the figure's or the shapes': the interval says so
    assert abs(math.log(fit.multipliers["gemm_eff"] / 0.9)) < fit.deviations["gemm_eff"] < 0.13
    assert fit.rows == sorted(row.id for row in rows)
    for row in rows:
        assert calibration.predict(row).seconds == pytest.approx(row.seconds, rel=0.02)


def test_links_are_not_among_the_figures(tmp_path):
    path = write_rows(tmp_path / "rows.csv", LAYOUTS[:4])
    (row, *_), _ = read_rows(path)
    moved = apply(row.setup, {figure.name: 0.8 for figure in FIGURES})
    assert moved.cluster.topology == row.setup.cluster.topology


def test_p1_sees_a_fifth_and_scores_the_rest(tmp_path):
    path = measured(write_rows(tmp_path / "rows.csv", LAYOUTS), {"gemm_eff": 0.8})
    rows, _ = read_rows(path)
    seen = chosen(rows)
    outcomes, calibration = run_p1(rows)
    assert calibration.rows_seen() == seen and len(seen) <= 0.2 * len(rows)
    assert not seen & {outcome.row.id for outcome in outcomes} and len(outcomes) + len(seen) == len(rows)
    assert sum(abs(o.error) for o in outcomes) / len(outcomes) < 0.06


def test_p2_scores_each_size_unseen(tmp_path):
    path = measured(write_rows(tmp_path / "rows.csv", LAYOUTS[::2]), {"gemm_eff": 0.9})
    folds = run_p2(read_rows(path)[0])
    assert [size for size, _ in folds] == ["16x2048", "16x4096", "32x2048", "32x4096"]
    assert sum(len(members) for _, members in folds) == len(LAYOUTS[::2])


def test_cross_validation_scores_every_row_unseen(tmp_path):
    path = measured(write_rows(tmp_path / "rows.csv", LAYOUTS[::4]), {"gemm_eff": 0.8})
    outcomes = run_cv(read_rows(path)[0])
    assert len(outcomes) == len({one.row.id for one in outcomes}) == len(LAYOUTS[::4])
    assert sum(abs(one.error) for one in outcomes) / len(outcomes) < 0.08


def shapes_of(features, software="one"):
    return RowShapes(np.array(features), np.array([software] * len(features)))


def test_a_residual_that_neighbours_share_is_the_shapes_and_a_lone_one_is_noise(tmp_path):
    changes = [{**LAYOUTS[0], "mbs": str(size), "gbs": "64"} for size in (1, 2, 4, 8, 16)]
    rows, _ = read_rows(write_rows(tmp_path / "rows.csv", changes))
    shapes = RowShapes.of(rows)
    nothing, widths = np.zeros((5, 1)), np.array([0.2])

    def corrected(residuals):
        return correction(RowShapes.of([rows[2]]), shapes, solve(np.array(residuals), nothing, widths, shapes).weights)

    assert corrected([0.3] * 5) > 0.25
    assert abs(corrected([0, 0, 0.6, 0, 0])) < 0.15


def test_rows_of_one_shape_move_a_figure_little_more_than_one_of_them():
    widths, spread = np.array([0.2]), np.arange(8.0)
    one_shape = np.tile([11.0, 1.0, 10.0, 0.0, 5.0], (8, 1))
    many_shapes = np.stack([11 + 4 * spread, *np.tile([[1.0], [10], [0], [5]], 8)], axis=1)
    single, alike, different = (
        solve(np.full(len(features), 0.2), np.ones((len(features), 1)), widths, shapes_of(features))
        for features in (one_shape[:1], one_shape, many_shapes)
    )
    assert alike.figures[0] < single.figures[0] + 0.05
    assert different.figures[0] > alike.figures[0] + 0.05
    assert different.deviations[0] < alike.deviations[0] < widths[0]


def test_a_release_of_the_software_has_its_own_speed(tmp_path):
    def released(name, seconds, layout):
        return {**layout, "source": f"maker/library@{name}:card.md", "iter_time_s": str(seconds)}

    wide = {"hidden": "4096", "ffn": "16384", "tp": "4", "pp": "1", "dp": "2"}
    plain, _ = read_rows(write_rows(tmp_path / "plain.csv", [*LAYOUTS[:4], wide]))
    times = [Prediction(row.setup).seconds for row in plain]
    changes = [released("r1.0", 1.4 * times[i], LAYOUTS[i]) for i in (0, 1)]
    changes += [released("r2.0", times[i], LAYOUTS[i]) for i in (2, 3)]
    seen = write_rows(tmp_path / "seen.csv", [{"id": f"seen_{i}", **change} for i, change in enumerate(changes)])
    calibration = calibrate(read_rows(seen)[0])
    old, new = read_rows(write_rows(tmp_path / "new.csv", [released(name, 1, wide) for name in ("r1.0", "r2.0")]))[0]
    assert calibration.predict(old).factor > 1.05 * calibration.predict(new).factor


def test_regret_is_over_strategies_for_one_model_and_one_release(tmp_path):
    source = {"source": "maker/library@r1.0:card.md"}
    first = {"tp": "1", "pp": "1", "dp": "8", "iter_time_s": "2.0", **source}
    second = {"tp": "2", "pp": "1", "dp": "4", "iter_time_s": "1.0", **source}
    again = {**first, "iter_time_s": "8.0"}
    others = [{**second, "source": "maker/library@r2.0:card.md"}, {**second, "heads": "32"}, {**second, "gbs": "64"}]

    def regret(changes, predicted):
        rows, _ = read_rows(write_rows(tmp_path / "rows.csv", changes))
        outcomes = [Outcome(row, seconds, 0.0, False, 1.0) for row, seconds in zip(rows, predicted, strict=True)]
        return score("made_up", outcomes).regret

    assert regret([first, second], [1.0, 2.0]) == pytest.approx((1.0, 1.0, 1))
    assert regret([first, again, second], [1.0, 1.0, 2.0]) == pytest.approx((3.0, 3.0, 1))  # one candidate of 4 s
    for other in others:
        assert regret([first, other], [1.0, 2.0]) is None


def test_a_shape_far_from_all_rows_is_not_corrected(tmp_path):
    path = measured(write_rows(tmp_path / "rows.csv", LAYOUTS[:8]), {"vector_eff": 0.7})
    calibration = calibrate(read_rows(path)[0])
    far = write_rows(tmp_path / "far.csv", [{"hidden": "16384", "ffn": "65536", "heads": "128", "seq": "16384"}])
    assert math.log(calibration.predict(read_rows(far)[0][0]).factor) == pytest.approx(0, abs=0.02)


def test_one_row_that_contradicts_the_others_corrects_little_and_several_correct_much(tmp_path):
    truth = measured(write_rows(tmp_path / "rows.csv", LAYOUTS), {"gemm_eff": 0.9})
    rows, _ = read_rows(truth)
    lonely = next(i for i, row in enumerate(rows) if row.setup.strategy.mesh.tp == 8)
    strange = [replace(row, seconds=row.seconds * (2.0 if i == lonely else 1.0)) for i, row in enumerate(rows)]
    slow = [replace(row, seconds=row.seconds * (1.5 if row.setup.strategy.mesh.tp == 8 else 1.0)) for row in rows]
    asked = rows[lonely]
    base, one, many = (calibrate(seen).predict(asked).factor for seen in (rows, strange, slow))
    assert abs(math.log(one / base)) < 0.12
    assert math.log(many / base) > 0.15


def test_the_interval_is_wider_far_from_all_rows_and_holds_four_errors_of_five(tmp_path):
    rows, _ = read_rows(measured(write_rows(tmp_path / "rows.csv", LAYOUTS), {"gemm_eff": 0.9}))
    noise = np.exp(0.08 * np.random.default_rng(0).standard_normal(len(rows)))
    noisy = [replace(row, seconds=row.seconds * factor) for row, factor in zip(rows, noise, strict=True)]
    calibration = calibrate(noisy)
    far, _ = read_rows(
        write_rows(tmp_path / "far.csv", [{"hidden": "16384", "ffn": "65536", "heads": "128", "seq": "16384"}])
    )
    intervals = [calibration.predict(row).interval for row in (noisy[0], far[0])]
    assert 1.0 < intervals[0] < intervals[1]
    outcomes = run_cv(noisy, parts=4)
    inside = [1 / one.interval <= one.row.seconds / one.seconds <= one.interval for one in outcomes]
    assert 0.7 <= sum(inside) / len(inside) <= 0.95


def test_unknown_machines_are_named_and_skipped(tmp_path, capsys):
    path = write_rows(tmp_path / "rows.csv", LAYOUTS[:3], hardware="abacus, wooden")
    assert main(["validate", str(path), "--json"]) == 0
    captured = capsys.readouterr()
    assert "skipped 3 rows: hw 'abacus, wooden' is not known" in captured.err


def test_a_row_that_needs_more_than_the_peak_is_not_scored(tmp_path):
    rows, _ = read_rows(write_rows(tmp_path / "rows.csv", [{"iter_time_s": "0.0001"}]))
    assert rows[0].impossible


def test_commands_write_calibration_predictions_and_scatter(tmp_path, capsys):
    path = measured(write_rows(tmp_path / "rows.csv", LAYOUTS[:10]), {"gemm_eff": 0.9})
    file = tmp_path / "calibration.json"
    assert main(["calibrate", str(path), "--share", "0.5", "--out", str(file)]) == 0
    assert "gemm_eff" in capsys.readouterr().out
    assert len(Calibration.load(file).rows_seen()) == 5
    predictions, picture = tmp_path / "predictions.csv", tmp_path / "scatter.png"
    code = main(
        ["validate", str(path), "--calibration", str(file), "--out", str(predictions), "--scatter", str(picture)]
    )
    assert code == 0 and "made_up" in capsys.readouterr().out
    with predictions.open() as text:
        table = list(csv.DictReader(text))
    assert list(table[0])[:4] == ["id", "predicted_s", "predicted_gib", "oom"] and len(table) == 5
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("content", ["", "id,hw\n", "{}"])
def test_a_file_that_is_no_table_is_one_line(tmp_path, capsys, content):
    path = tmp_path / "rows.csv"
    path.write_text(content, encoding="utf-8")
    assert main(["validate", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_development_rows_of_the_megatron_papers(shared):
    """P3 on two tables whose times no figure of the presets was fitted to."""
    for table, limit in (("korthikanti_table5", 0.05), ("megatron_sc21_table1", 0.08)):
        rows, skipped = read_rows(shared / "validation" / f"{table}.csv")
        assert not skipped
        errors = [abs(Prediction(row.setup).closed_form_seconds / row.seconds - 1) for row in rows]
        assert sum(errors) / len(errors) < limit


def test_every_named_machine_resolves(shared):
    from parallel_strategy.calibrate.known_names import cluster_of, framework_of

    for line in (shared / "validation/clusters.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            _, hardware, framework, *_ = line.split("\t")
            assert cluster_of(hardware) and framework_of(framework), line


@pytest.mark.parametrize(
    ("name", "experts", "latent"),
    [
        ("DeepSeek V3", 256, True),
        ("Qwen3_30B_A3B", 128, False),
        ("GPT-OSS 120B", 128, False),
        ("Mixtral-8x22B", 8, False),
        ("llama3_70b", None, False),
        ("GPT 18.4B", None, False),
        ("deepseek-33b", None, False),
        ("DeepSeek LLM 3B", None, False),
        ("deepseek-coder-33b", None, False),
        ("DeepSeek-R1-Distill-Llama-70B", None, False),
        ("deepseek-v3.1", 256, True),
        ("DeepSeek_V3-0324", 256, True),
        ("deepseek3_671b", 256, True),
        ("DeepSeek-R1", 256, True),
        ("deepseek-v2.5", 160, True),
        ("DeepSeek-Coder-V2", 160, True),
        ("deepseek-v2-lite", 64, True),
        ("deepseek-236b", None, False),
        ("Qwen-32B", None, False),
    ],
)
def test_families_are_known_by_name(name, experts, latent):
    traits = model_traits(name)
    assert (traits.get("experts") or {}).get("count") == experts
    assert ("latent_attention" in traits) == latent


def test_generations_of_llama_have_vocabularies_of_their_own():
    names = ("llama-33b", "Llama-3-8B", "llama3_70b", "Llama3.1 405B", "llama31-405b", "llama2-7b", "LLaMA-30B")
    sizes = [model_traits(name)["vocab_size"] for name in names]
    assert sizes == [32000, 128256, 128256, 128256, 128256, 32000, 32000]


@pytest.mark.parametrize(
    ("text", "dtype"), [("FP8-CS", "fp8"), ("nvfp4", "fp4"), ("amp_bf16", "bf16"), ("float16", "fp16"), ("", "fp16")]
)
def test_precisions_are_known_by_what_tables_call_them(tmp_path, text, dtype):
    (row,), skipped = read_rows(write_rows(tmp_path / "rows.csv", [{"precision": text}]))
    assert not skipped and row.setup.model.compute_dtype == dtype


def test_dry_run_peaks_of_experts(tmp_path, capsys):
    """Two figures fitted to five layouts give the others; a wrong table is one line."""
    rows = [DryRun(f"r{i}", "DeepSeek-V3-671B", dp, tp, pp, ep, 0.0, False) for i, (dp, tp, pp, ep) in enumerate(
        [(32, 1, 32, 4), (16, 2, 32, 4), (8, 4, 32, 8), (32, 2, 16, 8), (64, 4, 4, 8), (128, 4, 2, 4), (64, 8, 2, 8)]
    )]  # fmt: skip
    truth = DryRunFit(activations=1.4, constant=3e9)
    measured_rows = [replace(row, megabytes=predict_dryrun(row, truth) / 1e6) for row in rows]
    fit = fit_dryruns(measured_rows[:5])
    assert fit.activations == pytest.approx(1.4, rel=1e-3) and fit.constant == pytest.approx(3e9, rel=1e-2)
    # 32 experts of a rank divide by 32 copies, not by 64: then every rank holds all states
    assert parts(rows[6])[0] > 2.5 * parts(rows[4])[0]
    path = tmp_path / "peaks.csv"
    lines = [f"made up,,DeepSeek-V3-671B,{r.dp},{r.tp},{r.pp},{r.ep},{r.megabytes:.0f}" for r in measured_rows]
    path.write_text("source,split,model,dp,tp,pp,ep,peak_mb_dryrun\n" + "\n".join(lines) + "\n", encoding="utf-8")
    out = tmp_path / "out.csv"
    assert main(["validate", str(path), "--protocol", "CV", "--json", "--out", str(out)]) == 0
    (table,) = json.loads(capsys.readouterr().out)["tables"]
    assert table["rows"] == 7 and table["memory_worst"] < 0.01 and out.read_text().count("\n") == 8
    path.write_text("model,dp,tp,pp,ep,peak_mb_dryrun\nabacus,1,1,1,1,5\n", encoding="utf-8")
    assert main(["validate", str(path)]) == 2


def test_every_verb_sees_the_number_that_validate_scores(tmp_path, capsys):
    """The shipped calibration moves figures, memory and shapes; the search ranks by what it says."""
    path, best = tmp_path / "strategy.yaml", tmp_path / "best.yaml"
    path.write_text(
        "model: {preset: gpt-6.7b}\ncluster: {preset: a100-server}\nframework: megatron-deepspeed\n"
        "batch: {global: 32}\nmesh: {dp: 2, tp: 4}\n"
    )
    use = ["--calibration", "shipped"]
    assert main(["search", str(path), *use, "--tp", "2", "4", "--out", str(best), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["best"][0]
    assert main(["predict", str(best), *use, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["step_seconds"] == pytest.approx(found["seconds"], rel=1e-9)
    least, most = said["four_of_five_within_seconds"]
    assert least < said["step_seconds"] < most
    assert main(["predict", str(best), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step_seconds"] != pytest.approx(found["seconds"], rel=1e-3)
