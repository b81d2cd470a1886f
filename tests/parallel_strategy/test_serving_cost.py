"""`predict --serve`: what answering costs, from the figures of a cluster file."""

import itertools
import json
import re
from pathlib import Path

import pytest

from parallel_strategy.cli import main
from parallel_strategy.cost.serving import Serving, least_parts
from parallel_strategy.report import serving_page
from parallel_strategy.spec.cluster import ClusterSpec
from parallel_strategy.spec.model import ModelSpec
from tests.browser import chromium

A100 = ClusterSpec.preset("a100-server")
# Tokens/s of one row behind a prompt of 5 tokens, 200 written: github.com/pytorch-labs/gpt-fast, README, of eight A100
# that were limited to 330 W. Those of one device and of a split 70B; a 7B on several devices depends on its own
# all-reduce, which is several times faster than NCCL's.
PUBLISHED = [
    ("llama2-7b", "fp16", 1, 104.9, 0.12),
    ("llama2-7b", "int8", 1, 155.58, 0.06),  # fitted, as the next three
    ("llama2-7b", "int4", 1, 196.80, 0.06),
    ("llama2-70b", "int8", 1, 19.13, 0.06),
    ("llama2-70b", "int4", 1, 25.25, 0.06),
    ("llama2-70b", "fp16", 2, 21.32, 0.05),
    ("llama2-70b", "fp16", 4, 38.01, 0.15),
]


@pytest.mark.parametrize(("model", "weights", "tp", "measured", "most"), PUBLISHED)
def test_published_rows_are_met(model: str, weights: str, tp: int, measured: float, most: float) -> None:
    predicted = 1 / Serving(ModelSpec.preset(model), A100, weights, tp).step_seconds(1, 105)
    assert predicted == pytest.approx(measured, rel=most)


@pytest.mark.parametrize(
    ("name", "parameters"), [("pangu-alpha-2.6b", 2_625_295_360), ("chinese-gpt3-13b", 12_795_627_520)]
)
def test_weights_are_counted_as_the_network_has_them(name: str, parameters: int) -> None:
    """But for biases and norms, which are less than a thousandth."""
    serving = Serving(ModelSpec.preset(name), A100, "fp16")
    counted = serving.layer_weights + serving.head_weights + serving.table_weights
    assert counted == pytest.approx(parameters, rel=2e-3) and serving.weight_bytes == 2 * counted
    assert serving.cache_bytes == 2 * serving.model.num_layers * serving.model.hidden_size * 2
    assert Serving(serving.model, A100, "fp16", 4).weight_bytes == serving.weight_bytes / 4


def test_more_never_costs_less() -> None:
    """More rows, context or prompt take longer; fewer bits and a larger batch give more tokens a second."""
    model = ModelSpec.preset("pangu-alpha-13b")
    for name in ("a100-server", "atlas-800-910a", "laptop", "this-machine"):
        cluster = ClusterSpec.preset(name)
        one = Serving(model, cluster, "fp16")
        steps = [one.step_seconds(batch, 512) for batch in (1, 2, 8, 32, 128, 512)]
        assert steps == sorted(steps)
        rates = [batch / step for batch, step in zip((1, 2, 8, 32, 128, 512), steps, strict=True)]
        assert all(later > 0.999 * earlier for earlier, later in itertools.pairwise(rates))
        assert one.step_seconds(8, 1024) > one.step_seconds(8, 64)
        assert one.prefill_seconds(512) > one.prefill_seconds(64) > one.step_seconds(1, 1)
        assert Serving(model, cluster, "int8").step_seconds(1, 1) < one.step_seconds(1, 1)
        # No faster than memory alone allows.
        assert one.step_seconds(1, 0) > (one.layer_weights + one.head_weights) * 2 / one.bytes_a_second


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    serving = Serving(ModelSpec.preset("pangu-alpha-13b"), A100, "fp16")
    most = serving.largest_batch(1024)
    assert serving.fits(most, 1024) and not serving.fits(most + 1, 1024)
    assert serving.bound(1, 512) == "memory" and serving.bound(4000, 1) == "compute"
    large = ModelSpec.preset("pangu-alpha-200b")
    assert least_parts(large, A100, "fp16", 1024) == 8
    assert least_parts(large, ClusterSpec.preset("laptop"), "fp32", 1024) is None


def test_the_verb_prints_a_table_json_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "serving.html"
    assert main(["predict", "--serve", "--page", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "pangu-alpha-13b" in shown and "does not fit" in shown and "laptop" in shown
    words = ["--model", "13B", "--machine", "a100-server", "--weights", "int8", "--batch", "4"]
    assert main(["predict", "--serve", *words, "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["tp"] == 1 and [one["batch"] for one in row["batches"]] == [4, row["most_rows"]]
    assert 0.5 < row["batches"][0]["share_of_bandwidth_limit"] <= 1
    text = page.read_text(encoding="utf-8")
    labels = re.findall(r'text-anchor="end">([^<]+)<', text)  # of the upright axes, at the letters of a phone
    assert "100,000" in labels
    assert max(sum(4.5 if one in ",." else 9 for one in label) for label in labels) + 6 <= serving_page.LEFT
    assert text.count("<svg") == 4 and "http" not in text.replace("http-equiv", "")
    with chromium(tmp_path / "profile") as browser:
        browser.open(page.as_uri())
        browser.wait("document.readyState === 'complete'")
        browser.send("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
        browser.wait("innerWidth === 390")
        assert browser.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a strategy.yaml, or --serve"),
        (["--page", "x", "strategy.yaml"], "--page: goes with --serve"),
        (["--serve", "strategy.yaml"], "leave the strategy"),
        (["--serve", "--model", "14B"], "is no preset"),
        (["--serve", "--machine", "a100"], "is no preset"),
        (["--serve", "--context", "4096"], "has 1024 positions"),
        (["--serve", "--prompt", "2000"], "the context has 1024 tokens"),
        (["--serve", "--model", "13B", "--tp", "3"], "must divide the 40 heads"),
        (["--serve", "--model", "deepseek-v3"], "are not priced"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
