"""Who imports whom, and that planning and cleaning start without what only training needs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGES = ("pangu", "parallel_strategy", "data_pipeline")


def imported_modules(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add(node.module or "")
    return names


def imports_of_package(package: str, prefix: str) -> list[tuple[str, str]]:
    """(file, module) of every import in a package whose module begins with the prefix."""
    found = []
    for file in sorted((REPOSITORY / package).rglob("*.py")):
        for module in imported_modules(file):
            if module == prefix or module.startswith(prefix + "."):
                found.append((str(file.relative_to(REPOSITORY)), module))
    return found


def imports_outside(package: str, *allowed: str) -> list[tuple[str, str]]:
    """(file, module) of every import of this project in a package that neither it nor `allowed` holds."""
    own = (package, *allowed)
    return [
        (file, module)
        for name in PACKAGES
        for file, module in imports_of_package(package, name)
        if not any(module == prefix or module.startswith(prefix + ".") for prefix in own)
    ]


def test_foundation_imports_nothing_of_the_project() -> None:
    assert imports_outside("pangu/foundation", "pangu.foundation") == []


def test_parallel_strategy_imports_only_foundation() -> None:
    assert imports_outside("parallel_strategy", "pangu.foundation") == []


def test_data_pipeline_imports_only_foundation_and_the_tokenizer() -> None:
    assert imports_outside("data_pipeline", "pangu.foundation", "pangu.tokenizer") == []


def test_pangu_imports_nothing_of_data_pipeline() -> None:
    assert imports_of_package("pangu", "data_pipeline") == []


def test_in_pangu_only_distributed_imports_parallel_strategy() -> None:
    found = imports_of_package("pangu", "parallel_strategy")
    assert [(file, module) for file, module in found if not file.startswith("pangu/distributed/")] == []


def test_imports_within_pangu_run_downward() -> None:
    """A wing imports nothing of those above it."""
    above = {
        "pangu/model": ("training", "checkpoint", "formats", "distributed", "generation", "commands"),
        "pangu/formats": ("model", "training", "checkpoint", "distributed", "generation", "commands"),
        "pangu/checkpoint": ("model", "training", "distributed", "generation", "commands"),
        "pangu/generation": ("training", "distributed", "commands"),
        "pangu/distributed": ("generation", "commands"),
    }
    wrong = [
        found for wing, others in above.items() for o in others for found in imports_of_package(wing, f"pangu.{o}")
    ]
    assert wrong == []


def test_the_model_knows_nothing_of_parallelism() -> None:
    for file in (REPOSITORY / "pangu/model").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        for word in (".shard(", ".recompute(", "pipeline_stage", "parallel_strategy", "mindspore.communication"):
            assert word not in text, f"{file.name} has {word}"


@pytest.mark.parametrize("package", PACKAGES)
def test_help_starts_without_heavy_imports(package: str) -> None:
    program = (
        f"import sys; from {package}.cli import VERBS, main\n"
        "try:\n    main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'mindspore', 'numba', 'scipy', 'torch', 'matplotlib', 'plotly', 'duckdb', 'pyarrow', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.stderr.strip() == "[]"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_verb_has_help_with_an_example(package: str) -> None:
    program = (
        f"from {package}.cli import VERBS, main\n"
        "for verb in VERBS:\n"
        "    try:\n        main([verb, '--help'])\n    except SystemExit as stop: assert stop.code == 0, verb\n"
        f"    print('END', verb)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    *helps, _ = result.stdout.split("END ")
    for text in helps:
        assert f"python -m {package}" in text.split("options:")[0].split("\n\n", 1)[1], text


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wrong_verb_is_exit_code_2(package: str) -> None:
    result = subprocess.run([sys.executable, "-m", package, "no-such-verb"], cwd=REPOSITORY, capture_output=True)
    assert result.returncode == 2 and b"no-such-verb" in result.stderr
