"""mypy finds nothing, where it is installed (pip install 'pangu-alpha[dev]')."""

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.timeout(900)
def test_types_agree() -> None:
    """Thirty seconds the first time; mypy keeps what it has seen."""
    pytest.importorskip("mypy", reason="mypy is not installed here (pip install 'pangu-alpha[dev]')")
    found = subprocess.run([sys.executable, "-m", "mypy"], cwd=REPOSITORY, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
