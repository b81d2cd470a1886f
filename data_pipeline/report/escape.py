"""Text of records as HTML that can do nothing: no markup, no controls, no marks that turn the writing direction."""

import html
import re

# a control shows as its picture (U+2400 and on), a mark of direction or of no width as a box
_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f]")
_INVISIBLE = re.compile(
    "[\x80-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def text(value: object) -> str:
    """Escape for the inside of an element or of an attribute in quotation marks."""
    shown = _CONTROLS.sub(lambda match: "␡" if match[0] == "\x7f" else chr(0x2400 + ord(match[0])), str(value))
    return html.escape(_INVISIBLE.sub("▯", shown), quote=True)


def excerpt(value: str | None, characters: int) -> str:
    """Return the beginning of a text, escaped, with a note of how long it is."""
    value = value or ""
    more = f'<span class="more"> … {len(value):,} characters</span>' if len(value) > characters else ""
    return text(value[:characters]) + more
