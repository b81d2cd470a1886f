"""TensorBoard's event file, written in this thread.

tensorboardX's own writer is a thread with a short queue. When the thread dies of a full disk, the queue fills and the
training waits for ever. Its protocol buffers and its checksum are used here, the file is ours.
"""

import os
import socket
import struct
import time
from pathlib import Path

from pangu.foundation.best_effort import BestEffortFile

CHECKSUM_MASK = 0xA282EAD8  # TFRecord's


class TensorBoardFile:
    """Scalars of a run that has done `step` updates; TensorBoard forgets what earlier files say of later ones."""

    def __init__(self, directory: Path, step: int) -> None:
        from tensorboardX.proto import event_pb2

        self.events = event_pb2
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self.file = BestEffortFile(directory / name)
        self.append(event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2"))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.SessionStatus.START)
        self.append(event_pb2.Event(wall_time=time.time(), step=step + 1, session_log=start))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write some values of one step."""
        from tensorboardX.proto.summary_pb2 import Summary

        if values:
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
            self.append(self.events.Event(wall_time=time.time(), step=step, summary=summary))

    def append(self, event: object) -> None:
        """Write one event as TFRecord frames it: length, its checksum, the bytes, their checksum."""
        content = event.SerializeToString()  # type: ignore[attr-defined]
        length = struct.pack("<Q", len(content))
        self.file.append(length + masked_checksum(length) + content + masked_checksum(content))

    def close(self) -> None:
        self.file.close()


def masked_checksum(content: bytes) -> bytes:
    """Return the CRC-32C of some bytes as TFRecord stores it."""
    from tensorboardX.crc32c import crc32c

    value = crc32c(content)
    return struct.pack("<I", (((value >> 15) | (value << 17)) + CHECKSUM_MASK) & 0xFFFFFFFF)
