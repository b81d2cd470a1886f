"""The description of a checkpoint or of a fine-tuning's state: JSON with the sha256 of every file, its own among them.

A file cannot hold the digest of its bytes, so its own is that of what it says: of its JSON with sorted names, without
this one entry. A bit that turns a number or a name into another is noticed; one that changes nothing is not.
"""

import hashlib
from pathlib import Path
from typing import Any

from pangu.foundation.json_text import dumps, loads
from pangu.foundation.small_file import read_small

DIGESTS = "sha256"


def digest_of(value: object) -> str:
    """Return the sha256 of what JSON can say."""
    return hashlib.sha256(dumps(value, sort_keys=True).encode()).hexdigest()


def sealed(name: str, said: dict[str, Any]) -> bytes:
    """Return the text of a description `name`, which has the digests of the other files, with its own beside them."""
    own = digest_of(loads(dumps(said)))
    return dumps(said | {DIGESTS: {**said[DIGESTS], name: own}}, indent=1).encode()


def unsealed(path: Path) -> dict[str, Any]:
    """Return what a description says, without its own digest. Earlier versions gave none.

    Raises OSError, ValueError, KeyError and TypeError for one that is missing or damaged.
    """
    said = loads(read_small(path))
    digests = said[DIGESTS] = dict(said[DIGESTS])
    own = digests.pop(path.name, None)
    if own is not None and own != digest_of(said):
        raise ValueError(f"its own {DIGESTS} is not that of what it says")
    return said
