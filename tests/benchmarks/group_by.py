"""The group-by of locality-sensitive hashing at 2 GB: `python -m tests.benchmarks.group_by`.

10 million rows (bucket, document), both int64, in 8 Parquet files; 15 % of the rows share their bucket with one or more
others. Wanted are the edges (first document of the bucket, document), as Parquet. This project runs its own query
(`first_of_group`, the one of dedup_exact) as its local engine does; Spark runs the same SQL in local mode, with the
settings of the Spark engine; Ray data shuffles by hash and reduces each partition with numpy. Two cores each, 2 GB for
DuckDB and the JVM, turns A B C A B C; start-up is told apart. The edges of all are compared.

    python -m tests.benchmarks.group_by --ray-python /envs/ray/bin/python
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

MEMORY_BYTES = 2 << 30
CORES = 2
SHARED = 0.15
REPOSITORY = Path(__file__).resolve().parents[2]


def write_rows(folder: Path, rows: int) -> Path:
    """The table; buckets that are shared hold two rows mostly, a few hold many."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    generator = np.random.default_rng(1)
    bucket = generator.integers(-(2**63), 2**63, rows)
    shared = int(rows * SHARED)
    bucket[:shared] = bucket[(generator.random(shared) ** 1.2 * shared * 0.45).astype(np.int64)]
    generator.shuffle(bucket)
    folder.mkdir(parents=True)
    for number, part in enumerate(np.array_split(np.arange(rows), 8)):
        table = pa.table({"shard": pa.repeat("all", part.size), "bucket": bucket[part], "doc_id": part})
        pq.write_table(table, folder / f"{number}.parquet", compression="zstd")
    return folder


def ours(rows: Path, out: Path) -> tuple[float, str]:
    """DuckDB as the local engine uses it."""
    import duckdb
    import pyarrow as pa
    import pyarrow.parquet as pq

    from data_pipeline.engine.relational import first_of_group, query

    start = time.perf_counter()
    table = (sorted(rows.iterdir()), pa.schema([]))
    sql = first_of_group("keys", ["bucket"], ["doc_id"])
    reader = query(sql, {"keys": table}, MEMORY_BYTES, CORES, out.with_suffix(".spill"))
    with pq.ParquetWriter(out, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
    return time.perf_counter() - start, f"this project (DuckDB {duckdb.__version__})"


def spark(rows: Path, out: Path) -> tuple[float, str]:
    """The same SQL in a local Spark."""
    import pyspark

    from data_pipeline.engine.relational import first_of_group
    from data_pipeline.engine.spark_session import start_session

    session = start_session(out.with_suffix(".spark"), CORES, 2 * MEMORY_BYTES)
    session.range(10).count()  # starts the JVM's executor
    start = time.perf_counter()
    session.read.parquet(f"file://{rows}").createOrReplaceTempView("keys")
    session.sql(first_of_group("keys", ["bucket"], ["doc_id"])).write.parquet(f"file://{out}")
    return time.perf_counter() - start, f"Spark {pyspark.__version__} local[{CORES}]"


def ray(rows: Path, out: Path) -> tuple[float, str]:
    """Ray data: partitions by the hash of the bucket, numpy in each."""
    import numpy as np
    import ray

    ray.init(num_cpus=CORES, object_store_memory=MEMORY_BYTES, logging_level="ERROR", log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.data.range(10).count()

    def edges(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        order = np.lexsort((batch["doc_id"], batch["bucket"]))
        bucket, document = batch["bucket"][order], batch["doc_id"][order]
        first = np.r_[True, bucket[1:] != bucket[:-1]][: bucket.size]
        representative = document[first][np.cumsum(first) - 1]
        return {"doc_id": document[~first], "representative": representative[~first]}

    start = time.perf_counter()
    data = ray.data.read_parquet(str(rows), columns=["bucket", "doc_id"])
    data = data.repartition(8, keys=["bucket"], shuffle=False)
    data.map_batches(edges, batch_size=None, batch_format="numpy").write_parquet(str(out))
    return time.perf_counter() - start, f"Ray data {ray.__version__}"


CANDIDATES: dict[str, Callable[[Path, Path], tuple[float, str]]] = {"ours": ours, "spark": spark, "ray": ray}


def edge_digest(out: Path) -> tuple[int, int]:
    """(edges, a sum over them that does not depend on their order)."""
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(out, columns=["doc_id", "representative"])
    one, other = (table.column(name).to_numpy().astype(np.uint64) for name in ("doc_id", "representative"))
    return table.num_rows, int((one * np.uint64(0x9E3779B97F4A7C15) + other).sum())


def main() -> None:
    """Measure and print the table."""
    if sys.argv[1:2] == ["--only"]:
        seconds, name = CANDIDATES[sys.argv[2]](Path(sys.argv[3]), Path(sys.argv[4]))
        print(json.dumps({"seconds": seconds, "name": name}))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ray-python", type=Path, help="an interpreter that has Ray")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    interpreters = {"ours": Path(sys.executable), "spark": Path(sys.executable)}
    if arguments.ray_python:
        interpreters["ray"] = arguments.ray_python
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in interpreters}
    names: dict[str, str] = {}
    edges: dict[str, tuple[int, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        rows = write_rows(Path(folder) / "rows", arguments.rows)
        for _ in range(arguments.rounds):
            for name, python in interpreters.items():
                out = Path(folder) / f"edges-{name}"
                shutil.rmtree(out, ignore_errors=True)
                out.unlink(missing_ok=True)
                command = [python, "-m", "tests.benchmarks.group_by", "--only", name, rows, out]
                start = time.perf_counter()
                done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env=dict(os.environ))
                if done.returncode:
                    raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
                wall = time.perf_counter() - start
                said = json.loads(done.stdout.strip().splitlines()[-1])
                names[name] = said["name"]
                found[name].append((said["seconds"], wall))
                edges[name] = edge_digest(out)
    print(f"{arguments.rows:,} rows, {edges['ours'][0]:,} edges; best of {arguments.rounds}")
    print(f"{'':32} {'group-by s':>11} {'x':>6} {'with start s':>13} {'x':>6}  edges")
    for name, times in found.items():
        # turn by turn, so that what else the machine does bears on both
        ratios = [statistics.median(t[i] / o[i] for t, o in zip(times, found["ours"])) for i in (0, 1)]
        seconds, wall = (min(t[i] for t in times) for i in (0, 1))
        same = "equal" if edges[name] == edges["ours"] else "DIFFER"
        print(f"{names[name]:32} {seconds:11.2f} {ratios[0]:6.1f} {wall:13.2f} {ratios[1]:6.1f}  {same}")


if __name__ == "__main__":
    main()
