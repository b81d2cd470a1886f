"""Records of files as rows to learn and rows to validate with."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pangu.foundation.errors import UserError
from pangu.tuning.record_rows import Samples, pairs_of, samples_of
from pangu.tuning.records import Pair, Record, Reject, pair_of, read_records, record_of
from pangu.tuning.template import Template
from pangu.tuning.tuning_settings import Settings

if TYPE_CHECKING:
    from pangu.tokenizer import Tokenizer


@dataclass
class Data:
    """Rows to learn and to validate with."""

    train: Samples
    validation: Samples
    rejects: list[Reject] = field(default_factory=list)


def read_data(files: Sequence[Path], template: Template, tokenizer: "Tokenizer", settings: Settings) -> Data:
    """Read records and set some aside to validate with. Raises UserError where none is left."""
    records: list[Record | Pair] = []
    parse: Callable[[Any], Record | Pair] = pair_of if settings.objective == "dpo" else record_of
    make: Callable[..., tuple[Samples, list[Reject]]] = pairs_of if settings.objective == "dpo" else samples_of
    rejects: list[Reject] = []
    for path in files:
        for found in read_records(path, parse):
            if isinstance(found, Reject):
                rejects.append(found)
            else:
                records.append(found)
    if not records:
        first = f"; the first: {rejects[0].place}: {rejects[0].reason}" if rejects else ""
        raise UserError(f"{files[0]}: holds no record that can be used{first}")
    order = random.Random(f"{settings.seed} records").sample(range(len(records)), len(records))
    count = round(len(records) * settings.validation)
    held = set(order[:count])
    assert settings.length is not None
    pad = tokenizer.special.pad
    parts = []
    for chosen in ([one for one in order if one not in held], order[:count]):
        samples, left = make([records[one] for one in chosen], template, tokenizer, settings.length, pad)
        rejects += left
        parts.append(samples)
    train, validation = parts
    if not len(train.rows):
        raise UserError(f"{files[0]}: none of its {len(records)} records fits a context of {settings.length} tokens")
    return Data(train, validation, rejects)


def digest_of_rows(data: Data) -> str:
    """Return a digest of what is learnt and validated."""
    return hashlib.sha256(data.train.rows.tobytes() + data.validation.rows.tobytes()).hexdigest()
