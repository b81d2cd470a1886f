"""A stage in the place of `label`, which needs classifiers: domains and buckets by the number in a document's id."""

import json

import pyarrow as pa

from data_pipeline import record
from data_pipeline.engine.steps import Map, StageSettings

Settings = StageSettings


def labelled(batch: pa.RecordBatch, settings: object) -> pa.RecordBatch:
    """Give every document a domain and a bucket; every seventh has none."""
    numbers = [int(name.partition("-")[2]) for name in batch.column("id").to_pylist()]
    domains = [("law", "news", "sports")[number % 3] if number % 7 else None for number in numbers]
    meta = pa.array(["{}" if name is None else json.dumps({"domain": name}) for name in domains], pa.string())
    found = [float(number % 20) if number % 7 else None for number in numbers]
    return record.replace(batch, columns={"meta": meta}, signals={"quality_bucket": pa.array(found, pa.float64())})


STEPS = (Map("records", process=labelled, signals=("quality_bucket",), reads=()),)
