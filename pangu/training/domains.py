"""The domain of each token of packed samples, for experts that are chosen by it.

Packing leaves beside each file of samples which documents the samples are made of (`NAME.documents.parquet`), and of
each the source that it came from. A domain is a source; its number is its place in `experts.domains`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from pangu.foundation.best_effort import reason_of
from pangu.foundation.errors import UserError
from pangu.foundation.settings import nearest_name
from pangu.training.data import Split


@dataclass(frozen=True)
class DomainSplit(Split):
    """Rows [batch, 2 (S+1)]: the ids, then the domain of each. Padding has the domain of what is before it.

    Pieces of documents, sample after sample: those of sample i are first[i] .. first[i+1] - 1.
    """

    first: np.ndarray | None = None
    offsets: np.ndarray | None = None
    domains: np.ndarray | None = None

    def read(self, indices: np.ndarray, batch: int) -> Iterator[np.ndarray]:
        done = 0
        for rows in super().read(indices, batch):
            told = [self.domains_of(int(index), rows.shape[1]) for index in indices[done : done + len(rows)]]
            done += len(rows)
            yield np.concatenate([rows, np.array(told, rows.dtype)], axis=1)

    def domains_of(self, sample: int, length: int) -> np.ndarray:
        """Return the domain of each id of a sample."""
        assert self.first is not None and self.offsets is not None and self.domains is not None
        here = slice(self.first[sample], self.first[sample + 1])
        ends = np.append(self.offsets[here][1:], length)
        return np.repeat(self.domains[here], ends - self.offsets[here])


def with_domains(split: Split, names: Sequence[str]) -> DomainSplit:
    """Return a split whose rows say domains. Raises UserError where a document is of none of them."""
    import pyarrow.parquet as pq

    samples, offsets, domains, begin = [], [], [], 0
    for file in split.files:
        path = Path(file).with_suffix(".documents.parquet")
        try:
            table = pq.read_table(path, columns=["sample", "offset", "source"])
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: cannot be read: {reason_of(error)}; experts by domain need it: pack the corpus again"
            ) from None
        sources = table.column("source").combine_chunks().dictionary_encode()
        numbers = np.array([number_of(source, names, path) for source in sources.dictionary.to_pylist()] or [0])
        samples.append(np.asarray(table.column("sample")) + begin)
        offsets.append(np.asarray(table.column("offset")))
        domains.append(numbers[np.asarray(sources.indices)])
        begin = int(samples[-1].max(initial=begin - 1)) + 1
    if begin != split.samples:
        raise UserError(f"{split.files[0]}: its .documents.parquet tell of {begin} samples, not of {split.samples}")
    plain = {field.name: getattr(split, field.name) for field in fields(Split)}
    first = np.searchsorted(np.concatenate(samples), np.arange(begin + 1))
    return DomainSplit(**plain, first=first, offsets=np.concatenate(offsets), domains=np.concatenate(domains))


def number_of(source: str | None, names: Sequence[str], path: Path) -> int:
    """Return the place of a source among the domains."""
    if source is None or source not in names:
        hint = nearest_name(source or "", list(names))
        raise UserError(f"{path}: a document's source {source!r} is none of experts.domains {list(names)}{hint}")
    return list(names).index(source)
