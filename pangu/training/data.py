"""Packed samples as the training loop reads them: any sample by its index, in an order that a seed and an epoch give.

The directory is what `python -m data_pipeline run` leaves: MindRecord files, `packed.json` and the tokenizer.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pangu.config import TrainConfig
from pangu.foundation.atomic_file import write_whole
from pangu.foundation.best_effort import reason_of
from pangu.foundation.errors import UserError
from pangu.foundation.progress import Progress
from pangu.foundation.small_file import read_small

# Indices handed to MindSpore's reader at a time: its sampler keeps them as a Python list.
INDICES_A_READER = 1 << 16
# Beside each file of samples: {file: SHA-256}.
CHECKSUMS = ".sha256.json"
# Bytes of samples up to which every start compares them with their checksums. Of more it would wait for minutes: files
# that have been compared, and have the same size and time, are not read again.
ALWAYS_COMPARED = 16 << 30
COMPARING_THREADS = 8


@dataclass(frozen=True)
class Split:
    """One split of the packed data, e.g. `train`: `samples` rows of `seq_length` + 1 ids."""

    name: str
    files: tuple[str, ...]
    samples: int
    tokens: int
    bytes_of_text: int

    def read(self, indices: np.ndarray, batch: int) -> Iterator[np.ndarray]:
        """Yield rows int32 [batch, S+1] in the order of `indices`; what is left over at the end comes as a smaller
        batch."""
        import mindspore.dataset as dataset

        for start in range(0, len(indices), INDICES_A_READER // batch * batch):
            chosen = indices[start : start + INDICES_A_READER // batch * batch].tolist()
            try:
                reader = dataset.MindDataset(
                    list(self.files),
                    columns_list=["input_ids"],
                    sampler=dataset.SubsetSampler(chosen),
                    num_parallel_workers=1,
                ).batch(batch)
                for (rows,) in reader.create_tuple_iterator(output_numpy=True, num_epochs=1):
                    yield rows
            except (RuntimeError, ValueError) as error:
                raise UserError(
                    f"{self.files[0]} (split {self.name!r}): cannot be read as MindRecord: {reason_in(str(error))}; "
                    "pack the corpus again (data_pipeline run --verify)"
                ) from None

    def checksums(self) -> dict[Path, str]:
        """Return {file: SHA-256} as packing wrote it; nothing of files without."""
        found: dict[Path, str] = {}
        for file in self.files:
            path = Path(file)
            try:
                digests = json.loads(read_small(path.with_suffix(CHECKSUMS)))
            except (OSError, ValueError):
                continue
            found |= {path.with_name(name): digest for name, digest in digests.items()}
        return found


def check_file(path: Path, expected: str) -> int:
    """Compare a file with its SHA-256 -> its bytes. Raises UserError."""
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.tell()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if digest != expected:
        raise UserError(
            f"{path}: is damaged: its sha256 is not what packing wrote; "
            "pack the corpus again (data_pipeline run --verify)"
        )
    return size


def stamp_of(path: Path, expected: str) -> list[int | str]:
    """Return what tells a file that was compared from one that has changed since. Raises UserError."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return [status.st_size, status.st_mtime_ns, expected]


def reason_in(message: str) -> str:
    """Return the one line that says something in a message of MindSpore's dataset, which frames and repeats it."""
    lines = [line.strip() for line in message.splitlines() if line.strip("- ")]
    telling = [line for line in lines if "Error Message" not in line and "Call Stack" not in line]
    return (telling or lines or ["unreadable"])[0]


@dataclass(frozen=True)
class PackedData:
    """A packed corpus and what must be known of it."""

    directory: Path
    seq_length: int
    vocab_size: int
    end_of_document: int
    pad: int
    fingerprint: str  # sha256 of packed.json: the tokenizer, the seed and the counts, not the samples themselves
    splits: dict[str, Split]
    tokenizer: str | None = None  # its fingerprint

    @classmethod
    def load(cls, directory: Path | str) -> "PackedData":
        """Read `packed.json`. Raises UserError that names the file and what is wrong with it."""
        directory = Path(directory)
        path = directory / "packed.json"
        try:
            content = read_small(path)
            fields = json.loads(content)
        except FileNotFoundError:
            raise UserError(
                f"{directory}: is no packed corpus: it has no packed.json (make one with data_pipeline run)"
            ) from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read: {reason_of(error)}") from None
        try:
            splits = {
                name: Split(
                    name,
                    tuple(str(directory / file) for file in split["files"]),
                    int(split["samples"]),
                    int(split["tokens"]),
                    int(split["bytes_of_text"]),
                )
                for name, split in fields["splits"].items()
            }
            packed = cls(
                directory,
                int(fields["seq_length"]),
                int(fields["vocab_size"]),
                int(fields["end_of_document_id"]),
                int(fields["pad_id"]),
                hashlib.sha256(content).hexdigest(),
                splits,
                fields.get("tokenizer_fingerprint"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: field {error} is missing or wrong") from None
        for split in splits.values():
            for file in split.files:
                if not Path(file).is_file() or not Path(file + ".db").is_file():
                    raise UserError(f"{path}: names {file}, which (or whose .db index) is not there")
        return packed

    @property
    def tokenizer_directory(self) -> Path:
        return self.directory / "tokenizer"

    def verify(self, notes: Path | None = None) -> None:
        """Compare the files of samples with their checksums. Raises UserError that names the first damaged one.

        notes: a file that keeps which of many files have been compared.
        """
        expected = {path: digest for split in self.splits.values() for path, digest in split.checksums().items()}
        stamps = {str(path): stamp_of(path, digest) for path, digest in expected.items()}
        size = sum(int(stamp[0]) for stamp in stamps.values())
        is_large = size > ALWAYS_COMPARED
        known = read_notes(notes) if is_large and notes else {}
        left = [path for path in expected if known.get(str(path)) != stamps[str(path)]]
        title = "comparing samples with their checksums"
        with (
            Progress(title, sum(int(stamps[str(path)][0]) for path in left), unit="B", is_shown=is_large) as progress,
            ThreadPoolExecutor(COMPARING_THREADS) as threads,
        ):
            try:
                for done in threads.map(check_file, left, [expected[path] for path in left]):
                    progress.advance(done)
            finally:
                threads.shutdown(cancel_futures=True)
        if is_large and notes and left:
            with contextlib.suppress(OSError):  # it only saves time
                write_whole(notes, json.dumps(stamps))

    def split(self, name: str) -> Split:
        """Return the split of this name, which must hold at least one sample."""
        split = self.splits.get(name)
        if split is None or split.samples == 0:
            hint = "" if name == "train" else "; pack with a larger pack.heldout_fraction, or more documents"
            raise UserError(f"{self.directory}: split {name!r} holds no samples{hint}")
        return split


def read_notes(path: Path) -> dict[str, list[int | str]]:
    """Return the stamps of files that were compared; none where they cannot be read."""
    try:
        notes = json.loads(read_small(path))
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def epoch_order(samples: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order in which an epoch reads the samples: a permutation that depends on nothing but its arguments."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(samples)


def samples_of_batch(samples: int, config: TrainConfig, batch: int) -> list[int]:
    """Return which samples of the training split the batch with this index holds."""
    chosen = []
    for index in range(batch * config.batch_size, (batch + 1) * config.batch_size):
        epoch, place = divmod(index, samples)
        chosen.append(int(epoch_order(samples, config.seed, epoch)[place]))
    return chosen


def training_batches(split: Split, batch: int, seed: int, first_batch: int) -> Iterator[np.ndarray]:
    """Yield batches int32 [batch, S+1] without end, from the batch with index `first_batch` on.

    Epoch follows epoch without a gap: sample i of the stream is sample i mod n of epoch i div n, so a batch may hold
    the end of one and the beginning of the next, and nothing is left out.
    """
    epoch, offset = divmod(first_batch * batch, split.samples)
    pending = np.empty((0, 0), np.int32)
    while True:
        for rows in split.read(epoch_order(split.samples, seed, epoch)[offset:], batch):
            pending = np.concatenate([pending, rows]) if len(pending) else rows
            while len(pending) >= batch:
                yield pending[:batch]
                pending = pending[batch:]
        epoch, offset = epoch + 1, 0


def token_counts(split: Split, vocab_size: int, pad: int | None = None, most_samples: int = 20_000) -> np.ndarray:
    """Return how often each id is a label, int64 [V], over the first samples; pad: not behind one of these."""
    total = np.zeros(vocab_size, np.int64)
    for rows in split.read(np.arange(min(split.samples, most_samples)), 64):
        labels = rows[:, 1:] if pad is None else rows[:, 1:][rows[:, :-1] != pad]
        total += np.bincount(labels.reshape(-1), minlength=vocab_size)
    return total


def unigram_nats(train: Split, heldout: Split, vocab_size: int, pad: int, most_samples: int = 20_000) -> float:
    """Return nats a token of the validation labels under the add-one unigram model of the training split.

    The baseline that knows how often each token occurs and nothing of order; counted where the loss counts, over the
    first `most_samples` samples of each split.
    """

    smoothed = token_counts(train, vocab_size, pad, most_samples) + 1.0
    tested = token_counts(heldout, vocab_size, pad, most_samples)
    return float(-(tested * np.log(smoothed / smoothed.sum())).sum() / max(tested.sum(), 1))
