"""Fixtures that every test may use."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# The suite draws the same examples each time; `pytest --hypothesis-profile explore` draws new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile("same")

# What the programs that tests start leave in the temporary directory goes with the session. pytest's own folders lie
# where they always did.
if "PYTEST_DEBUG_TEMPROOT" not in os.environ:  # not in a worker of xdist, which shares the controller's
    os.environ["PYTEST_DEBUG_TEMPROOT"] = tempfile.gettempdir()
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="pangu-tests-")
    OWNER = os.getpid()  # not a process that it forks

    @atexit.register
    def remove_temporary() -> None:
        if os.getpid() == OWNER:
            shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)


# Messages are compared in English, whatever the machine's language.
if os.environ.get("LC_ALL"):
    os.environ["LANG"] = os.environ.pop("LC_ALL")
os.environ["LC_MESSAGES"] = "C"
os.environ.pop("LANGUAGE", None)

# Files that take longest. They begin first, so that two workers end at about the same time.
LONGEST = (
    "test_train_full_disk.py",
    "test_distributed.py",
    "test_train.py",
    "test_run_scripts.py",
    "test_readme.py",
    "test_tuning.py",
    "test_generation.py",
    "test_compile.py",
    "test_compare.py",
    "test_objectives.py",
)

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the checkout; a test that needs it is skipped where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("the reference data (../shared/data) is not here")
    return folder / "data"
