"""The frame of all pages: nothing from elsewhere, readable in the light, in the dark and on a phone."""

import re

import pytest

from pangu.foundation.page import STYLE, page, policy
from tests.conftest import REPOSITORY

STYLES = {
    "all pages": STYLE,
    "corpus report": (REPOSITORY / "data_pipeline/report/style.css").read_text(encoding="utf-8"),
    "review": (REPOSITORY / "data_pipeline/review/page.html").read_text(encoding="utf-8"),
}
TEXT = ("ink", "soft", "faint", "dim", "link", "good", "bad")


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    digits = colour.lstrip("#") if len(colour) == 7 else "".join(2 * digit for digit in colour.lstrip("#"))
    parts = [int(digits[index : index + 2], 16) / 255 for index in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("name", STYLES)
def test_text_can_be_read_on_both_grounds_in_the_light_and_in_the_dark(name: str) -> None:
    light, dark = re.split(r"prefers-color-scheme: dark", STYLES[name])[:2]
    for part in (light, dark):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})\b", part))
        for text in TEXT:
            for ground in ("paper", "ground"):
                if text in colours:
                    assert contrast(colours[text], colours[ground]) >= 4.5, (name, text, ground)


def test_a_page_runs_and_loads_only_what_it_needs() -> None:
    plain = page("<title>", "<p>text</p>")
    assert "&lt;title&gt;" in plain and "default-src 'none'" in plain and "script-src" not in plain
    assert 'content="width=device-width, initial-scale=1"' in plain
    with_script = page("a", "", script="let a = 1;")
    assert "script-src 'unsafe-inline'" in with_script and "connect-src" not in with_script
    assert "connect-src 'self'" in policy(has_server=True)
    assert not re.search(r"https?://", plain + with_script)


def test_no_chart_sends_data_to_a_foreign_server() -> None:
    pytest.importorskip("plotly")
    from parallel_strategy.loading import load_prediction
    from parallel_strategy.report.page import page as report

    text = report(
        load_prediction(str(REPOSITORY / "parallel_strategy/spec/presets/strategies/pangu-alpha-200b-paper.yaml"))
    )
    assert '"showSendToCloud": false' in text and "default-src 'none'" in text
    # The library itself names hosts; the policy forbids to reach them.
    assert "connect-src" not in text.split("<title>")[0]
