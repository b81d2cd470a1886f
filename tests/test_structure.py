"""Who imports whom, and that planning and cleaning start without what only training needs."""

import argparse
import ast
import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGES = ("pangu", "parallel_strategy", "data_pipeline")
# What modules of foundation need; all others need nothing.
LIBRARIES = {
    "settings": {"pydantic", "yaml"},
    "yaml_document": {"yaml"},
    "terminal": {"rich"},
    "word_list": {"ahocorasick"},
}
# Modules that import MindSpore at once, and those that do when a function is called.
ON_MINDSPORE = (
    "pangu.model.", "pangu.training.", "pangu.distributed.", "pangu.device", "pangu.generation.mindspore_decoder",
    "pangu.tuning.methods", "pangu.tuning.aims", "pangu.tuning.tuning_run",
    "parallel_strategy.measure.mindspore_", "parallel_strategy.measure.worker", "parallel_strategy.mindspore.apply",
    "data_pipeline.stages.pack",
)  # fmt: skip
WHEN_CALLED = (
    "pangu.commands.",
    "data_pipeline.commands.show",
    "parallel_strategy.mindspore.",
)


@functools.cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@functools.cache
def imports_of(file: Path) -> list[tuple[str, bool]]:
    """(name, whether at the top of the module) of all that a file imports; `from a import b` counts as a and a.b."""
    names = []
    tree = tree_of(file)
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names += [
                (name, id(node) in top) for name in (node.module, *(f"{node.module}.{a.name}" for a in node.names))
            ]
    return names


def imported_modules(file: Path) -> set[str]:
    return {name for name, _ in imports_of(file)}


@functools.cache
def modules() -> dict[str, Path]:
    """{name: file} of the three packages."""
    files = [file for package in PACKAGES for file in sorted((REPOSITORY / package).rglob("*.py"))]
    names = [".".join(file.relative_to(REPOSITORY).with_suffix("").parts) for file in files]
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files, strict=True)}


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


def test_the_tokenizer_imports_only_foundation() -> None:
    assert imports_outside("pangu/tokenizer", "pangu.tokenizer", "pangu.foundation") == []


def test_only_the_distributed_wing_imports_parallel_strategy_and_only_what_it_may() -> None:
    for file, module in imports_of_package("pangu", "parallel_strategy"):
        assert file.startswith("pangu/distributed/"), file
        assert module.split(".")[1:2] in ([], ["mindspore"], ["spec"]), (file, module)


def test_foundation_needs_no_heavy_library_and_pydantic_and_yaml_only_for_settings() -> None:
    for file in (REPOSITORY / "pangu/foundation").glob("*.py"):
        own = {name.split(".")[0] for name, is_top in imports_of(file) if is_top} - sys.stdlib_module_names - {"pangu"}
        assert own <= LIBRARIES.get(file.stem, set()), (file.name, own)


def test_mindspore_is_imported_where_a_network_runs_on_it_and_nowhere_else() -> None:
    for name, file in modules().items():
        for module, is_top in imports_of(file):
            if module.split(".")[0] == "mindspore":
                assert name.startswith(ON_MINDSPORE if is_top else ON_MINDSPORE + WHEN_CALLED), name


def test_no_module_imports_itself_by_way_of_others() -> None:
    known = modules()
    # `from a import b` where a.b is a module is an import of a.b, not of a.
    graph = {}
    for name, file in known.items():
        found = {module for module in imported_modules(file) if module in known} - {name}
        graph[name] = {one for one in found if not any(other.startswith(f"{one}.") for other in found)}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize(
    ("what", "pattern", "allowed"),
    [
        # what is renamed here lies in a hidden directory, is moved aside, or is a cache that another may have filled
        (
            "files and directories appear whole by foundation.atomic_file and foundation.directory",
            r"os\.(replace|rename)\(|\.rename\(|mkstemp|fcntl",
            ("pangu.checkpoint.reshard", "pangu.training.run_directory", "parallel_strategy.mindspore.dryrun.stand_in"),
        ),
        ("YAML is read by foundation.yaml_document", r"yaml\.(safe_|full_|unsafe_)?load|SafeLoader", ()),
        ("progress is shown by foundation.progress", r"rich\.progress", ()),
        ("the command line is foundation.command_line", r"add_subparsers\(", ("data_pipeline.commands.quality",)),
    ],
)
def test_what_foundation_does_is_done_nowhere_else(what: str, pattern: str, allowed: tuple[str, ...]) -> None:
    for name, file in modules().items():
        if not name.startswith(("pangu.foundation", *allowed)):
            found = re.search(pattern, file.read_text(encoding="utf-8"))
            assert found is None, f"{name} has {found[0]}: {what}"


@pytest.mark.parametrize("package", PACKAGES)
def test_few_files_lie_loose_at_the_top_of_a_package(package: str) -> None:
    assert len(list((REPOSITORY / package).glob("*.py"))) <= 8  # seven, and the door


@functools.cache
def names_in(module: str) -> set[str] | None:
    """All names that a module gives something to, and the modules in it; None where it makes them as they are asked."""
    names = {name.removeprefix(f"{module}.").split(".")[0] for name in modules() if name.startswith(f"{module}.")}
    file = modules().get(module)  # none of a folder without __init__.py
    for node in ast.walk(tree_of(file)) if file else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return None if "__getattr__" in names else names


def test_every_import_of_the_project_names_what_is_there() -> None:
    for file in sorted([*modules().values(), *(REPOSITORY / "tests").rglob("*.py")]):
        for node in ast.walk(tree_of(file)):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module and module.split(".")[0] in PACKAGES:
                where = f"{file.relative_to(REPOSITORY)}:{node.lineno}"
                known = names_in(module)
                lacking = {alias.name for alias in node.names} - (known or set())
                assert known is None or not lacking, f"{where}: {module} has no {', '.join(sorted(lacking))}"


# A name in several folders says the same thing in each: a package's door, a stage, the report as a page.
SAME_THING = {
    *("__init__", "__main__", "cli", "door", "stage", "fit", "page", "progress", "strategy", "megatron", "tasks"),
    *("attention", "feed_forward", "linear", "ends", "batch", "weights"),  # of the network; `virtual` follows `model`
}


def test_a_file_name_means_one_thing() -> None:
    """A verb may have the name of what it calls."""
    names = [file.stem for file in modules().values() if file.parent.name != "commands"]
    assert {name for name in names if names.count(name) > 1} <= SAME_THING


# Twins for one device; and the file that goes to others, which has the names of transformers.
TWINS = {"Affine", "ExpertsAffine", "NegativeLogLikelihood", "Normalisation"}
WITH_NAMES_OF_OTHERS = "pangu.formats.huggingface.modeling_pangu_alpha"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_class_name_means_one_thing_in_a_package(package: str) -> None:
    """A stage and a fine-tuning each have their `Settings`."""
    names = [
        node.name
        for name, file in modules().items()
        if name.startswith(package) and name != WITH_NAMES_OF_OTHERS
        for node in tree_of(file).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert {name for name in names if names.count(name) > 1} <= TWINS | {"Settings"}


def test_pangu_imports_nothing_of_data_pipeline() -> None:
    assert imports_of_package("pangu", "data_pipeline") == []


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
def test_every_argument_of_every_verb_has_help(package: str) -> None:
    def actions(parser: argparse.ArgumentParser, name: str) -> list[tuple[str, argparse.Action]]:
        found = [(name, action) for action in parser._actions]
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                found += [one for verb, inner in action.choices.items() for one in actions(inner, f"{name} {verb}")]
        return found

    for verb in importlib.import_module(f"{package}.cli").VERBS:
        parser = argparse.ArgumentParser()
        importlib.import_module(f"{package}.commands.{verb.replace('-', '_')}").add_arguments(parser)
        for name, action in actions(parser, verb):
            is_group = isinstance(action, argparse._SubParsersAction)
            assert action.help or is_group, f"{name}: {action.option_strings or action.dest}"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wrong_verb_is_exit_code_2(package: str) -> None:
    result = subprocess.run([sys.executable, "-m", package, "no-such-verb"], cwd=REPOSITORY, capture_output=True)
    assert result.returncode == 2 and b"no-such-verb" in result.stderr


# What describes only parameters may begin with their names, and a cell's `construct` with its arrays.
SHAPES = ("construct", "__init__")
NOT_IMPERATIVE = re.compile(
    r"(The|A|An|Of|What|Whether|Every|Each|How|Where|When|Which|Why|All|From|In|By|At|One|Into|With|Without|As|For)\b"
    r"|[^A-Z\s]|[A-Z]\w*[^s]s\b"
)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_function_says_first_what_it_does(package: str) -> None:
    """The first line of a docstring is an imperative: "Return the rows", not "The rows" or "Returns the rows"."""
    wrong = []
    for name, file in modules().items():
        for node in ast.walk(tree_of(file)) if name.startswith(package) else ():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in SHAPES:
                text = ast.get_docstring(node)
                if text and NOT_IMPERATIVE.match(text):
                    wrong.append(f"{name}.{node.name}: {text.splitlines()[0]}")
    assert wrong == []
