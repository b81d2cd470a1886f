"""Text that was decoded with the wrong charset: taken back to its bytes and decoded with the right one.

| what happened | looks like | back |
|---|---|---|
| UTF-8 read as Latin-1 or windows-1252 | `ä¸­æ–‡` | 中文 |
| GBK read as Latin-1 or windows-1252 | `ÖÐÎÄ` | 中文 |
| UTF-8 read as GBK | `浣犲ソ` | 你好; of an odd number of characters the last may be lost |
| the same, and the no-break space among it (byte A0) made a space | `ä½ å¥½` | 你好 |
| UTF-8 read as GBK, after U+FFFD had taken its place | `锟斤拷` | never: only counted |

A run is taken back only where its bytes are valid in the right charset and give common characters; neither happens to
ordinary text. Every repair makes the text shorter, so repairing until nothing changes ends, and also undoes text that
was broken twice."""

import re
from functools import cache

# what windows-1252 has at the bytes 80 to 9F; the five that it lacks stay controls, as browsers read them
_WINDOWS_1252 = {
    ord(bytes([byte]).decode("cp1252")): chr(byte)
    for byte in range(0x80, 0xA0)
    if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}
_LATIN = "\u0080-\u00ff" + "".join(map(chr, _WINDOWS_1252))
_LATIN_RUN = re.compile(f"[{re.escape(_LATIN).replace(chr(92) + '-', '-')}]{{2,}}")
# Chinese, its punctuation and full-width forms are three bytes each in UTF-8, and these are their first bytes
_UTF8_RUN = re.compile("(?:[\xe2-\xe9\xef][\x80-\xbf]{2})+")
# the same where a byte A0 in a character has become a space: no other byte of UTF-8 may stand in its place
_SPACED_CHARACTERS = re.compile("(?:[\xc2-\xdf][\x80-\xbf ]|[\xe2-\xe9\xef][\x80-\xbf ]{2}){2,}")
_SPACED_RUN = re.compile(f"[\xc2-\xdf\xe2-\xe9\xef][{re.escape(_LATIN).replace(chr(92) + '-', '-')} ]{{3,}}")
_GBK_RUN = re.compile("(?:[\xa1-\xf7][\xa1-\xfe]){2,}")
_GBK_ALONE = re.compile("(?<![A-Za-z\x80-\xff])[\xb0-\xf7][\xa1-\xfe](?![A-Za-z\x80-\xff])")
# a run of UTF-8 begins with a byte E2 to EF, so what GBK makes of it begins with a character of those rows
WIDE_FIRST = "".join(
    bytes((lead, trail)).decode("gbk", "ignore") for lead in range(0xE2, 0xF0) for trail in range(0x80, 0xC0)
)
_WIDE_RUN = re.compile(f"[{WIDE_FIRST}](?<![^\0-\x7f][\\s\\S])[^\0-\x7f]{{2,}}[?]?")
_LOST = re.compile("锟斤拷|烫{3,}|屯{3,}|\ufffd+")
_REPLACED = re.compile("\ufffd+")
_MINIMUM_COMMON = 0.6


def repair(text: str) -> tuple[str, int]:
    """Return (text, how many characters came back)."""
    repaired = 0
    while True:
        changed = _SPACED_RUN.sub(_with_lost_spaces, text)
        changed = _LATIN_RUN.sub(_from_latin, changed)
        if changed != text and _GBK_RUN.search(text):
            # where runs of Chinese came back, a pair alone between ASCII is Chinese too
            changed = _GBK_ALONE.sub(_gbk_alone, changed)
        changed = _WIDE_RUN.sub(_from_gbk, changed)
        if changed == text:
            return text, repaired
        # each character that came back stood as two or three before, or as one and a half
        repaired += max(1, len(text) - len(changed))
        text = changed


def lost(text: str) -> int:
    """Return how many places hold what no one can bring back: 锟斤拷, 烫烫烫, 屯屯屯, U+FFFD."""
    if not any(mark in text for mark in "锟烫屯\ufffd"):
        return 0
    return sum(1 for _ in _LOST.finditer(text))


def _with_lost_spaces(match: re.Match[str]) -> str:
    """Return a run with the spaces that were bytes A0 as such, where that gives Chinese; else as it stands."""
    original = match[0]
    if " " not in original:
        return original
    run = original.translate(_WINDOWS_1252)
    parts, position = [], 0
    for found in _SPACED_CHARACTERS.finditer(run):
        characters = found[0]
        # of ordinary text with accents and spaces most sequences would be broken by a space
        if " " not in characters or 4 * characters.count(" ") > len(characters):
            continue
        try:
            text = repair(characters.replace(" ", "\xa0").encode("latin-1").decode("utf-8"))[0]
        except UnicodeError:
            continue
        if _common_share(text) >= _MINIMUM_COMMON:
            parts += [original[position : found.start()], text]
            position = found.end()
    return "".join([*parts, original[position:]])


def _from_latin(match: re.Match[str]) -> str:
    """Return a run of Latin-1 or windows-1252 characters as the bytes it was, decoded where that makes sense."""
    run = match[0].translate(_WINDOWS_1252)
    try:
        # all of it at once: also what was read wrongly twice
        text = repair(run.encode("latin-1").decode("utf-8"))[0]
    except UnicodeError:
        pass
    else:
        return text if _common_share(text) >= _MINIMUM_COMMON else match[0]
    # three bytes of GBK in a row may look like a character of UTF-8: what gives nothing common is the other one
    for pattern, decode in ((_UTF8_RUN, _utf8), (_GBK_RUN, _gbk)):
        if pattern.sub(decode, run) == run:
            continue
        # what was not decoded goes back as it stood
        kept, position = [], 0
        for part in pattern.finditer(run):
            kept += [match[0][position : part.start()], _or_original(decode(part), part, match[0])]
            position = part.end()
        return "".join([*kept, match[0][position:]])
    return match[0]


def _or_original(decoded: str, part: re.Match[str], original: str) -> str:
    return original[part.start() : part.end()] if decoded == part[0] else decoded


def _utf8(match: re.Match[str]) -> str:
    text = match[0].encode("latin-1").decode("utf-8", "replace")
    return text if _common_share(text) >= _MINIMUM_COMMON else match[0]


def _gbk(match: re.Match[str]) -> str:
    # ×××× and °°°° are what writers leave out or measure with
    if len(set(match[0])) < 3:
        return match[0]
    text = match[0].encode("latin-1").decode("gbk", "replace")
    return text if _common_share(text) >= _MINIMUM_COMMON else match[0]


def _gbk_alone(match: re.Match[str]) -> str:
    text = match[0].encode("latin-1").decode("gbk", "replace")
    return text if text in _common() else match[0]


def _from_gbk(match: re.Match[str]) -> str:
    """Return a run of characters as the GBK bytes it was, decoded as UTF-8. Where a byte was lost, so is its
    character: U+FFFD stands for it."""
    run = match[0]
    is_cut = run.endswith("?")
    pieces = (run[:-1] if is_cut else run).split("\ufffd")
    try:
        data = b"\xff".join(piece.encode("gb18030") for piece in pieces)
    except UnicodeEncodeError:
        return run
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        # text that lost nothing is valid, but for an odd byte at the end
        is_cut_short = error.reason == "unexpected end of data" and error.start >= max(6, len(data) - 2)
        if len(pieces) == 1 and not is_cut_short:
            return run
        text, is_cut = _REPLACED.sub("\ufffd", data.decode("utf-8", "replace")), False
    whole = text.replace("\ufffd", "")
    is_chinese = len(whole) >= 2 and len(whole) * 3 == len(whole.encode()) and 3 * len(whole) >= 2 * len(text)
    if not is_chinese or _common_share(whole) < _MINIMUM_COMMON or len(text) >= len(run):
        return run
    return text + "?" * is_cut


def _common_share(text: str) -> float:
    common = _common()
    return sum(character in common for character in text) / len(text) if text else 0.0


@cache
def _common() -> frozenset[str]:
    """Return the common simplified characters (GB 2312, level 1), traditional ones (Big5, level 1), and punctuation."""
    simplified = bytes(b for lead in range(0xB0, 0xD8) for trail in range(0xA1, 0xFF) for b in (lead, trail))
    trails = (*range(0x40, 0x7F), *range(0xA1, 0xFF))
    traditional = bytes(b for lead in range(0xA4, 0xC7) for trail in trails for b in (lead, trail))
    marks = "，。、：；！？“”‘’（）《》〈〉【】「」『』…—·～　％＋－／１２３４５６７８９０"
    return frozenset(simplified.decode("gb2312", "ignore") + traditional.decode("big5", "ignore") + marks) - {"\ufffd"}
