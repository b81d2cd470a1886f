"""A stage for the tests of the engine: some documents raise, kill their worker or never end."""

import ctypes
import faulthandler
import os
import signal
import time
from pathlib import Path

import pyarrow as pa
from pydantic import Field

from data_pipeline import record
from data_pipeline.engine.steps import Map, StageSettings


class Settings(StageSettings):
    """`marks` is a folder where a document leaves a trace that it has been tried."""

    marks: str = Field("", description="where traces go")


def process(batch: pa.RecordBatch, settings: Settings) -> pa.RecordBatch:
    """Obey the first word of each text."""
    for text in batch.column("text").to_pylist():
        word, _, rest = text.partition(" ")
        mark = Path(settings.marks) / rest.strip()
        if word == "raise":
            raise ValueError("as the text says")
        if word == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "segfault":
            faulthandler.disable()  # pytest's, which fills the screen
            ctypes.string_at(0)
        if word == "kill-once" and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "hang":
            time.sleep(1000)
    return record.replace(batch, signals={"seen": pa.array([1.0] * batch.num_rows)})


STEPS = (Map("records", process=process, signals=("seen",)),)
