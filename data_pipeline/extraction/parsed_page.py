# ruff: noqa: SIM109, SIM114 (numba compiles comparisons to less than tests of membership)
"""Reads an HTML page once, front to back, into flat arrays: its elements as a tree, and its text as lines.

This is no HTML5 parser. It knows what decides where text stands: block elements and the end tags that pages leave out
(`p`, `li`, `td`, ...), void elements, raw text (`script`, `style`), comments, entities, hidden parts. Inline elements
make no tree nodes, so crossed `<b><font>` need no repair. The time is linear in the page and the depth is capped,
whatever the page.

A *line* is text that no block boundary and no `<br>` parts. A *mark* is a place in the text where something begins or
ends that only Markdown shows: a link, a picture, code inside a sentence. The words of the tables are in
`data_pipeline/extraction/patterns.py`.

Text in hidden blocks is read too, and each of its lines names the block: scripts show some of them
(`hidden.py`). Superscripts become `10⁸`, readings of characters (`<rt>`) are left out, preformatted text keeps its
white space.

One file on purpose: numba renews the machine code that it keeps on disk when this file changes, and not when constants
change that come from another.
"""

from html.entities import html5
from typing import NamedTuple

import numpy as np

from data_pipeline.extraction.patterns import NAME_GROUPS, name_automaton, phrase_automaton
from data_pipeline.kernels.compiled import compiled

MAX_DEPTH = 256  # deeper elements become children of the deepest one kept
MAX_NODES = 400_000  # further elements become no nodes, their text stays; real pages have a few thousand
MAX_LINES = 400_000  # the text behind is not read
MAX_MARKS = 400_000  # further links and pictures are not marked
MAX_SCRIPT = 24  # bytes of a superscript; longer ones stay as they are
MAX_SEARCH = 64  # how far up an end tag looks for its start tag

# What an element does to the tree and to the text.
INLINE, BLOCK, VOID, RAW, SKIP, BREAK, ANCHOR = range(7)

_KIND_OF_TAGS = {
    INLINE: "span b i u em strong font small big s strike del ins sub sup code kbd var samp tt abbr acronym cite dfn q "
    "mark label time bdo bdi ruby rb rt rp rtc wbr nobr data output slot picture",
    BLOCK: "html head body title p div section article main nav aside header footer hgroup ul ol li dl dt dd menu dir "
    "table thead tbody tfoot tr td th caption h1 h2 h3 h4 h5 h6 pre blockquote figure figcaption form fieldset "
    "legend details summary address center listing frameset noframes marquee search dialog text",
    VOID: "img input meta link base area col colgroup embed param source track keygen frame command image bgsound "
    "isindex basefont",
    RAW: "script style iframe xmp noembed textarea plaintext",
    SKIP: "noscript template svg math select optgroup option datalist button object applet audio video canvas map "
    "progress meter",
    BREAK: "br hr",
    ANCHOR: "a",
}
TAGS = [tag for tags in _KIND_OF_TAGS.values() for tag in tags.split()]
TAG = {tag: number for number, tag in enumerate(TAGS)}
# one more than there are tags: custom elements are taken as blocks
_KINDS = np.array([kind for kind, tags in _KIND_OF_TAGS.items() for _ in tags.split()] + [BLOCK], np.int8)

HIDDEN_NAME = 1 << list(NAME_GROUPS).index("hidden")


def _code(word: bytes) -> int:
    """Return the number under which a tag or entity name is looked up: its bytes in base 131.

    Modulo 2^55, so that no step overflows: the compiler may take signed numbers not to wrap around.
    """
    code = 0
    for byte in word:
        code = (code * 131 + byte) % (1 << 55)
    return code


def _sorted_table(values: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    keys = np.array(sorted(values), np.int64)
    return keys, np.array([values[int(key)] for key in keys], np.int64)


_TAG_CODES, _TAG_NUMBERS = _sorted_table({_code(tag.encode()): number for tag, number in TAG.items()})
# entities of one character; the few of two characters stay as they are written
_ENTITY_CODES, _ENTITY_CHARACTERS = _sorted_table(
    {_code(name.rstrip(";").encode()): ord(text) for name, text in html5.items() if len(text) == 1 and len(name) > 2}
)
_WINDOWS_1252 = np.array(
    [ord(bytes([byte]).decode("cp1252", "replace")) for byte in range(0x80, 0xA0)], np.int64
)  # what browsers read in &#128; ... &#159;


def _tags_among(words: str) -> np.ndarray:
    return np.array([tag in words.split() for tag in [*TAGS, ""]])


_IS_TABLE_PART = _tags_among("tr td th tbody thead tfoot caption")
_IS_LIST = _tags_among("table td th ul ol dl menu dir")  # they also bound the search for an open `li`
_ENDS_SEARCH = _tags_among("table td th caption")  # no other end tag inside reaches beyond these
_P, _LI, _DT, _DD, _TR, _TD, _TH = (TAG[tag] for tag in ("p", "li", "dt", "dd", "tr", "td", "th"))
_TABLE, _BODY, _HTML, _PRE = (TAG[tag] for tag in ("table", "body", "html", "pre"))
_SUP, _SUB, _CODE, _IMG, _BR = (TAG[tag] for tag in ("sup", "sub", "code", "img", "br"))
_TEMPLATE = TAG["template"]
_IS_READING = _tags_among("rt rp rtc")
_IS_RUBY = _tags_among("ruby rb rt rp rtc")

# kinds of marks
LINK, LINK_END, IMAGE, CODE, CODE_END = range(5)


class FlatPage(NamedTuple):
    """A page as arrays. Nodes are in document order, so a parent comes before its children; node 0 is the root."""

    text: np.ndarray  # uint8: all visible text, UTF-8, entities resolved, white space collapsed
    node_parent: np.ndarray  # int32 [nodes]
    node_tag: np.ndarray  # int16 [nodes]
    node_names: np.ndarray  # int64 [nodes]: groups of NAME_GROUPS that class, id and role speak of
    node_source: np.ndarray  # int64 [nodes]: where the start tag stands in the page
    line_start: np.ndarray  # int64 [lines]: where in `text`
    line_end: np.ndarray  # int64 [lines]
    line_node: np.ndarray  # int32 [lines]
    line_phrases: np.ndarray  # int64 [lines]: groups of PHRASE_GROUPS
    line_counts: np.ndarray  # int32 [lines, COUNTS]
    line_hidden: np.ndarray  # int32 [lines]: the hidden element that the line is in, or 0
    line_breaks: np.ndarray  # int32 [lines]: how many <br> or ends of preformatted lines since the line before
    mark_place: np.ndarray  # int64 [marks]: where in `text`
    mark_kind: np.ndarray  # int8 [marks]: LINK, LINK_END, IMAGE, CODE, CODE_END
    mark_source: np.ndarray  # int64 [marks]: where its tag stands in the page
    truncated: bool  # MAX_NODES or MAX_LINES was reached


_CLASS, _ID, _HREF, _STYLE, _HIDDEN, _POPOVER, _SHADOW = (
    _code(key) for key in (b"class", b"id", b"href", b"style", b"hidden", b"popover", b"shadowrootmode")
)

# columns of `line_counts`, in characters except ANCHORS; HAN are Han, kana and Hangul
CHARACTERS, HAN, MARKS, STOPS, LINKED, ANCHORS, DIGITS, SPACES = range(8)
COUNTS = 8


@compiled
def _look_up(keys, values, code):
    place = np.searchsorted(keys, code)
    if place < keys.size and keys[place] == code:
        return values[place]
    return -1


@compiled
def _put_character(text, size, point):
    """Write one code point in UTF-8 at `size`; returns the new size. What is no character becomes U+FFFD."""
    if point <= 0 or point > 0x10FFFF or 0xD800 <= point < 0xE000:
        point = 0xFFFD
    if point < 0x80:
        text[size] = point
        return size + 1
    if point < 0x800:
        text[size] = 0xC0 | point >> 6
        text[size + 1] = 0x80 | point & 63
        return size + 2
    if point < 0x10000:
        text[size] = 0xE0 | point >> 12
        text[size + 1] = 0x80 | point >> 6 & 63
        text[size + 2] = 0x80 | point & 63
        return size + 3
    text[size] = 0xF0 | point >> 18
    text[size + 1] = 0x80 | point >> 12 & 63
    text[size + 2] = 0x80 | point >> 6 & 63
    text[size + 3] = 0x80 | point & 63
    return size + 4


@compiled
def _read_entity(page, at):
    """Return the entity at `page[at] == '&'`: (code point, its length in bytes), or (-1, 0) where it is a plain
    ampersand."""
    end = page.size
    i = at + 1
    if i < end and page[i] == 35:  # '#'
        i += 1
        hexadecimal = i < end and (page[i] | 32) == 120
        if hexadecimal:
            i += 1
        point, first = 0, i
        while i < end and i - first < 8:
            c = page[i]
            if 48 <= c <= 57:
                digit = c - 48
            elif hexadecimal and 97 <= (c | 32) <= 102:
                digit = (c | 32) - 87
            else:
                break
            point = point * (16 if hexadecimal else 10) + digit
            i += 1
        if i == first:
            return -1, 0
        if 0x80 <= point < 0xA0:
            point = _WINDOWS_1252[point - 0x80]
        if i < end and page[i] == 59:
            i += 1
        return point, i - at
    code, first = np.int64(0), i
    while i < end and i - first < 32:
        c = page[i]
        if not (48 <= c <= 57 or 97 <= (c | 32) <= 122):
            break
        code = (code * 131 + c) & 0x7FFFFFFFFFFFFF
        i += 1
    if i == first:
        return -1, 0
    point = _look_up(_ENTITY_CODES, _ENTITY_CHARACTERS, code)
    if point < 0:
        return -1, 0
    if i < end and page[i] == 59:
        i += 1
    elif i - first > 6:
        return -1, 0
    return point, i - at


@compiled
def _name_bits(page, start, end, names):
    """Return the groups of names that the attribute value `page[start:end]` holds."""
    step, found, whole_length, whole_bits = names
    bits, state = np.int64(0), 0
    for i in range(start, min(end, start + 400)):
        c = page[i]
        lower = c | 32 if 65 <= c <= 90 else c
        state = step[state, lower]
        bits |= found[state]
        if whole_length[state, 0]:
            after = page[i + 1] if i + 1 < end else 32
            # a word ends before anything that is no small letter
            if not 97 <= after <= 122:
                for slot in range(2):
                    length = whole_length[state, slot]
                    if length:
                        first = i - length + 1
                        before = page[first - 1] if first > start else 32
                        is_letter = 97 <= (before | 32) <= 122
                        if not is_letter or (65 <= page[first] <= 90 and 97 <= before <= 122):
                            bits |= whole_bits[state, slot]
    return bits


@compiled
def _hides(page, start, end):
    """Return whether a `style` value says display:none or visibility:hidden."""
    matched_none, matched_hidden = 0, 0
    none, hidden = b"display:none", b"visibility:hidden"
    for i in range(start, min(end, start + 400)):
        c = page[i]
        if c <= 32:
            continue
        if 65 <= c <= 90:
            c |= 32
        matched_none = matched_none + 1 if c == none[matched_none] else (1 if c == none[0] else 0)
        matched_hidden = matched_hidden + 1 if c == hidden[matched_hidden] else (1 if c == hidden[0] else 0)
        if matched_none == len(none) or matched_hidden == len(hidden):
            return True
    return False


@compiled
def _find_raw_end(page, at, name_at, name_end):
    """Return the place past the `</name>` that ends raw text which starts at `at`; the end of the page where there is
    none."""
    length, end = name_end - name_at, page.size
    i = at
    while i + 2 + length <= end:
        if page[i] == 60 and page[i + 1] == 47:
            k = 0
            while k < length and (page[i + 2 + k] | 32) == (page[name_at + k] | 32):
                k += 1
            if k == length:
                while i < end and page[i] != 62:
                    i += 1
                return min(i + 1, end)
        i += 1
    return end


@compiled
def _skip_markup(page, at, comment_may_end):
    """Return the place past the comment, doctype or instruction at `page[at:]` = '<!' or '<?': (where it ends, whether
    comments still can).

    A comment without an end is read up to its next '>', and no later one is searched for its end: the page is read
    once."""
    end = page.size
    if at + 3 < end and page[at + 2] == 45 and page[at + 3] == 45 and comment_may_end:
        i = at + 4
        if i < end and page[i] == 62:  # <!-->
            return i + 1, True
        while i + 2 < end:
            if page[i] == 45 and page[i + 1] == 45 and page[i + 2] == 62:
                return i + 3, True
            i += 1
        comment_may_end = False
    i = at + 2
    while i < end and page[i] != 62:
        i += 1
    return min(i + 1, end), comment_may_end


@compiled
def _read_name(page, at):
    """Return the tag name at `page[at:]`: (its code, where it ends)."""
    code, i = np.int64(0), at
    while i < page.size and page[i] > 32 and page[i] != 62 and page[i] != 47 and page[i] != 60:
        code = (code * 131 + (page[i] | 32 if 65 <= page[i] <= 90 else page[i])) & 0x7FFFFFFFFFFFFF
        i += 1
    return code, i


@compiled
def _read_attributes(page, at, names):
    """Return the attributes of a start tag: (group bits of class and id, whether it is hidden, whether it has a target
    or, a template, is shown as the shadow root of its element, its end)."""
    end = page.size
    bits, hidden, has_target = np.int64(0), False, False
    i = at
    while i < end and page[i] != 62:
        if page[i] <= 32 or page[i] == 47:
            i += 1
            continue
        if page[i] == 60:  # the tag was never finished; the next one begins
            return bits, hidden, has_target, i
        key, first = np.int64(0), i
        while i < end and page[i] > 32 and page[i] != 61 and page[i] != 62 and page[i] != 47:
            key = (key * 131 + (page[i] | 32)) & 0x7FFFFFFFFFFFFF
            i += 1
        if i == first:  # a stray '='
            i += 1
        while i < end and page[i] <= 32:
            i += 1
        value_start, value_end = i, i
        if i < end and page[i] == 61:
            i += 1
            while i < end and page[i] <= 32:
                i += 1
            quote = page[i] if i < end else 0
            if quote == 34 or quote == 39:
                i += 1
                value_start = i
                while i < end and page[i] != quote:
                    i += 1
                if i == end:  # no second quote: the value ends with the tag
                    i = value_start
                    while i < end and page[i] != 62:
                        i += 1
                    value_end = i
                    return bits, hidden, has_target, min(i + 1, end)
                value_end = i
                i += 1
            else:
                value_start = i
                while i < end and page[i] > 32 and page[i] != 62:
                    i += 1
                value_end = i
        if key == _CLASS or key == _ID:
            bits |= _name_bits(page, value_start, value_end, names)
        elif key == _HREF:
            has_target = value_end > value_start
        elif key == _SHADOW:
            has_target = True
        elif key == _STYLE:
            hidden |= _hides(page, value_start, value_end)
        elif key == _POPOVER:
            hidden = True
        elif key == _HIDDEN:  # what is hidden until it is found (until-found) is text that is folded
            hidden |= value_end == value_start or page[value_start] | 32 != 117
    return bits, hidden, has_target, min(i + 1, end)


@compiled
def _end_tag_depth(number, tag_of, stack, depth):
    """Return the depth that remains after the end tag `number`, or -1 where it has no start tag within reach."""
    k = depth
    while k > max(0, depth - MAX_SEARCH):
        open_tag = tag_of[stack[k]]
        if open_tag == number:
            return k - 1
        if number == _TABLE:
            k -= 1
            continue
        if _IS_TABLE_PART[number]:
            if open_tag == _TABLE:
                return -1
        elif _ENDS_SEARCH[open_tag] or number == _P or (number == _LI and _IS_LIST[open_tag]):
            return -1
        k -= 1
    return -1


@compiled
def _start_tag_depth(number, tag_of, stack, depth):
    """Return the depth at which the start tag `number` stands, after the elements that it ends (`<li>` ends an open
    `li`, ...)."""
    is_cell = number == _TD or number == _TH
    left = depth
    if depth > 0 and tag_of[stack[depth]] == _P:
        left = depth - 1
    k = depth
    if _IS_TABLE_PART[number]:
        while k > max(0, depth - MAX_SEARCH):
            open_tag = tag_of[stack[k]]
            if open_tag == _TABLE:
                break
            if open_tag == _TD or open_tag == _TH or open_tag == number:
                left = k - 1
            elif open_tag == _TR:
                if not is_cell:
                    left = k - 1
            elif _IS_TABLE_PART[open_tag] and not is_cell and number != _TR:
                left = k - 1
            k -= 1
    elif number == _LI or number == _DT or number == _DD:
        while k > max(0, depth - MAX_SEARCH):
            open_tag = tag_of[stack[k]]
            if open_tag == number or (number != _LI and (open_tag == _DT or open_tag == _DD)):
                return k - 1
            if _IS_LIST[open_tag]:
                break
            k -= 1
    elif number == _BODY:
        while left > 0 and tag_of[stack[left]] != _HTML:
            left -= 1
    return left


@compiled
def _count(point, counts):
    """Count one visible character in a row of `line_counts`."""
    counts[0] += 1
    if (
        0x4E00 <= point <= 0x9FFF or 0x3400 <= point <= 0x4DBF or 0x20000 <= point <= 0x3FFFF
        or 0x3041 <= point <= 0x30FF or 0xAC00 <= point <= 0xD7A3
    ):  # fmt: skip
        counts[1] += 1
    elif 48 <= point <= 57:
        counts[6] += 1
    elif point == 0x3002 or point == 0xFF01 or point == 0xFF1F or point == 0xFF1B:  # 。！？；
        counts[2] += 1
        counts[3] += 1
    elif point == 0xFF0C or point == 0x3001 or point == 0xFF1A or point == 44:  # ，、：,
        counts[2] += 1
    elif point == 0x201C or point == 0x201D or point == 0x2026 or point == 0x2014:  # “”…—
        counts[2] += 1


@compiled
def _read_character(page, at):
    """Return the character at `page[at]`, entities resolved: (code point, bytes)."""
    c, left = np.int64(page[at]), page.size - at
    if c == 38:
        point, width = _read_entity(page, at)
        return (point, width) if width else (c, 1)
    if c < 0x80:
        return c, 1
    if c < 0xE0 and left >= 2:
        return (c & 31) << 6 | (page[at + 1] & 63), 2
    if c < 0xF0 and left >= 3:
        return (c & 15) << 12 | (page[at + 1] & 63) << 6 | (page[at + 2] & 63), 3
    if left >= 4:
        return (c & 7) << 18 | (page[at + 1] & 63) << 12 | (page[at + 2] & 63) << 6 | (page[at + 3] & 63), 4
    return np.int64(0xFFFD), 1


@compiled
def _is_space(point):
    return (
        point <= 32 or point == 0xA0 or point == 0x3000 or 0x2000 <= point <= 0x200A or point == 0x2028
        or point == 0x2029 or point == 0x85 or point == 0x202F or point == 0x205F or point == 0x1680
    )  # fmt: skip


@compiled
def _is_invisible(point):
    """Return whether it is a zero-width character, soft hyphen or mark of direction: they stand inside words and show
    nothing."""
    return (
        0x200B <= point <= 0x200F or point == 0xFEFF or point == 0xAD or 0x202A <= point <= 0x202E
        or 0x2060 <= point <= 0x2069 or point == 0x180E
    )  # fmt: skip


@compiled
def _joins(joiner, before, after):
    """Return whether a joiner (U+200C, U+200D) means something: in an emoji of several, in Arabic and Indian
    scripts."""
    if 0x0600 <= before <= 0x0DFF and 0x0600 <= after <= 0x0DFF:
        return True
    is_emoji = before >= 0x1F000 or 0x2190 <= before <= 0x2BFF or before == 0xFE0F
    return joiner == 0x200D and is_emoji and (after >= 0x1F000 or 0x2190 <= after <= 0x2BFF)


@compiled
def _write_script(text, start, size, is_superscript, is_linked):
    """Rewrite `text[start:size]`, which stood in `<sup>` or `<sub>`: 10⁸, H₂O, x^{a+b}, [3]; returns the new size."""
    while start < size and text[start] == 32:
        start += 1
    length = size - start
    if length == 0 or length > MAX_SCRIPT or text[start] == 91:
        return size
    letters, others, plain = 0, 0, True
    for i in range(start, size):
        c = text[i]
        plain &= c < 0x80
        letters += 97 <= (c | 32) <= 122
        others += not (48 <= c <= 57 or c == 43 or c == 45 or c == 61 or c == 40 or c == 41 or c == 110 or c == 105)
    if is_linked and plain:  # the number of a footnote
        text[size + 1] = 93
        for i in range(size, start, -1):
            text[i] = text[i - 1]
        text[start] = 91
        return size + 2
    if plain and others == 0:
        packed = np.empty(length, np.uint8)
        packed[:] = text[start:size]
        size = start
        for c in packed:
            size = _put_character(text, size, _script_point(c, is_superscript))
        return size
    # 1st, 2nd, TM are words, not exponents
    if not plain or (letters == length and length > 1 and is_superscript):
        return size
    extra = 1 if length == 1 else 2
    for i in range(size - 1, start - 1, -1):
        text[i + extra] = text[i]
    text[start] = 94 if is_superscript else 95
    size += extra
    if length > 1:
        text[start + 1] = 123
        text[size] = 125
        size += 1
    return size


@compiled
def _is_linked(mark_place, mark_kind, marks, start):
    """Return whether the text from `start` on is a link of its own: the last link began there."""
    found = False
    for k in range(max(0, marks - 2), marks):
        found |= mark_kind[k] == LINK and mark_place[k] >= start
    return found


@compiled
def _script_point(c, is_superscript):
    """Return the raised or lowered form of a digit, sign, `n` or `i`."""
    if c == 110:
        return 0x207F if is_superscript else 0x2099
    if c == 105:
        return 0x2071 if is_superscript else 0x1D62
    if is_superscript and c == 49:
        return 0xB9
    if is_superscript and (c == 50 or c == 51):
        return c - 50 + 0xB2
    base = 0x2070 if is_superscript else 0x2080
    if 48 <= c <= 57:
        return base + c - 48
    return base + (10 if c == 43 else 11 if c == 45 else 12 if c == 61 else 13 if c == 40 else 14)


@compiled
def _read(page, names, phrase_step, phrase_found, hidden_name):
    end = page.size
    opens, newlines = 0, 0
    for i in range(end):
        opens += page[i] == 60
        newlines += page[i] == 10
    node_capacity, line_capacity = min(opens, MAX_NODES) + 2, min(opens + newlines, MAX_LINES) + 2
    parent = np.zeros(node_capacity, np.int32)
    tag_of = np.full(node_capacity, -1, np.int16)
    names_of = np.zeros(node_capacity, np.int64)
    line_start = np.zeros(line_capacity, np.int64)
    line_end = np.zeros(line_capacity, np.int64)
    line_node = np.zeros(line_capacity, np.int32)
    line_phrases = np.zeros(line_capacity, np.int64)
    counts = np.zeros((line_capacity, COUNTS), np.int32)
    node_source = np.zeros(node_capacity, np.int64)
    line_hidden = np.zeros(line_capacity, np.int32)
    line_breaks = np.zeros(line_capacity, np.int32)
    mark_capacity = min(opens, MAX_MARKS) + 2
    mark_place = np.zeros(mark_capacity, np.int64)
    mark_kind = np.zeros(mark_capacity, np.int8)
    mark_source = np.zeros(mark_capacity, np.int64)
    # a digit of one byte becomes a superscript of three
    text = np.empty(4 * end + 16, np.uint8)

    stack = np.zeros(MAX_DEPTH + 1, np.int32)
    depth, overflow, nodes, lines, size = 0, 0, 1, 0, 0
    marks = 0
    skip_depth = MAX_DEPTH + 1  # elements at this depth and below show no text
    hidden_depth, hidden_node = MAX_DEPTH + 1, 0  # those of a hidden block
    hidden_tag, hidden_opens = -1, 0  # the inline element that shows no text, and how many of its kind are open
    in_link, link_open, in_reading, preformatted = False, False, False, 0
    script_tag, script_start = -1, 0  # the open <sup> or <sub>, and where its text begins
    started, space_due, phrase_state = False, 0, 0  # of the line
    joiner_due, point_before = 0, 0
    # in preformatted text: ends of lines so far, and what came last
    breaks, just_opened, after_block, after_break, after_code = 0, False, False, False, False
    comment_may_end, truncated = True, False
    i = 0
    while i < end:
        c = page[i]
        follower = page[i + 1] if i + 1 < end else 32
        if c == 60 and (follower == 33 or follower == 63):
            i, comment_may_end = _skip_markup(page, i, comment_may_end)
            continue
        if c == 60 and (97 <= (follower | 32) <= 122 or follower == 47):
            closing = follower == 47
            name_at = i + 2 if closing else i + 1
            code, name_end = _read_name(page, name_at)
            number = _look_up(_TAG_CODES, _TAG_NUMBERS, code)
            if number < 0:
                number = _KINDS.size - 1
            source = i
            bits, hidden, has_target, i = _read_attributes(page, name_end, names)
            kind = _KINDS[number]
            if number == _TEMPLATE and has_target:
                kind = BLOCK
            if kind == VOID:
                if number == _IMG and skip_depth > MAX_DEPTH and hidden_tag < 0 and marks < mark_capacity - 1:
                    mark_place[marks], mark_kind[marks], mark_source[marks] = size, IMAGE, source
                    marks += 1
                continue
            if kind == RAW:
                if not closing:
                    i = _find_raw_end(page, i, name_at, name_end)
                continue
            if kind == INLINE:
                if _IS_RUBY[number]:
                    in_reading = _IS_READING[number] and not closing
                elif number == _SUP or number == _SUB:
                    if script_tag == number and closing and started:
                        is_linked = _is_linked(mark_place, mark_kind, marks, script_start)
                        size = _write_script(text, script_start, size, number == _SUP, is_linked)
                        for k in range(max(0, marks - 2), marks):
                            if mark_place[k] > script_start:
                                mark_place[k] = size
                    script_tag = -1 if closing else number
                    script_start = size
                elif number == _CODE and preformatted > 0:
                    # each line of a program in its own <code>
                    if not closing and after_code:
                        if started:
                            line_end[lines], line_node[lines] = size, stack[depth]
                            lines += 1
                            started, phrase_state, script_tag = False, 0, -1
                            if lines > MAX_LINES:
                                truncated = True
                                break
                            breaks = 1
                        else:
                            breaks += not after_break
                        after_break, space_due = False, 0
                    after_code = closing
                elif number == _CODE and skip_depth > MAX_DEPTH and marks < mark_capacity - 1:
                    mark_place[marks], mark_kind[marks] = size, CODE_END if closing else CODE
                    mark_source[marks] = source
                    marks += 1
                if hidden_tag == number:
                    hidden_opens += -1 if closing else 1
                    if hidden_opens == 0:
                        hidden_tag = -1
                elif hidden_tag < 0 and not closing and (hidden or bits & hidden_name):
                    hidden_tag, hidden_opens = number, 1
                continue
            if kind == ANCHOR:
                in_link = has_target and not closing
                counts[lines, ANCHORS] += in_link and started
                if (in_link or link_open) and marks < mark_capacity - 1:
                    mark_place[marks], mark_kind[marks] = size, LINK if in_link else LINK_END
                    mark_source[marks] = source
                    marks += 1
                link_open = in_link
                continue
            hidden_tag, in_reading, script_tag = -1, False, -1
            # every other tag ends the line
            if started:
                line_end[lines], line_node[lines] = size, stack[depth]
                lines += 1
            breaks = 1 if started else breaks + (kind == BREAK or (closing and just_opened))
            just_opened, after_block = kind != BREAK and not closing, kind != BREAK and closing
            after_break, after_code = kind == BREAK, False
            started, space_due, phrase_state, joiner_due = False, 0, 0, 0
            if kind == BREAK:
                pass
            elif closing:
                if number == _BODY or number == _HTML:
                    continue
                if overflow > 0:
                    overflow -= 1
                    continue
                left = _end_tag_depth(number, tag_of, stack, depth)
                if left >= 0:
                    depth = left
                    if number == _PRE:
                        preformatted = max(0, preformatted - 1)
                    if _ENDS_SEARCH[number]:
                        in_link = False
            else:
                left = _start_tag_depth(number, tag_of, stack, depth)
                if left < depth:
                    depth, overflow = left, 0
                if depth < skip_depth <= MAX_DEPTH:
                    skip_depth = MAX_DEPTH + 1
                if depth < hidden_depth <= MAX_DEPTH:
                    hidden_depth = MAX_DEPTH + 1
                if nodes == node_capacity:
                    truncated = True
                    overflow += 1
                    continue
                parent[nodes], tag_of[nodes], names_of[nodes] = stack[depth], number, bits
                node_source[nodes] = source
                if depth < MAX_DEPTH:
                    depth += 1
                    stack[depth] = nodes
                    if number == _PRE:
                        preformatted += 1
                        breaks, just_opened = 0, False
                    # of what is hidden in a hidden element nothing is read
                    if skip_depth > MAX_DEPTH and (kind == SKIP or (hidden and hidden_depth <= MAX_DEPTH)):
                        skip_depth = depth
                    elif hidden and hidden_depth > MAX_DEPTH:
                        hidden_depth, hidden_node = depth, nodes
                else:
                    overflow += 1
                nodes += 1
            if depth < skip_depth <= MAX_DEPTH:
                skip_depth = MAX_DEPTH + 1
            if depth < hidden_depth <= MAX_DEPTH:
                hidden_depth = MAX_DEPTH + 1
            if lines > MAX_LINES:
                truncated = True
                break
            continue
        if skip_depth <= MAX_DEPTH or hidden_tag >= 0 or in_reading:
            i += 1
            continue
        point, width = _read_character(page, i)
        i += width
        if _is_space(point):
            if preformatted == 0:
                space_due = min(started, 1)
            elif point == 10:
                if started:
                    line_end[lines], line_node[lines] = size, stack[depth]
                    lines += 1
                    breaks = 0
                    started, phrase_state = False, 0
                    if lines > MAX_LINES:
                        truncated = True
                        break
                breaks += not after_block
                space_due, just_opened, after_block, after_code, joiner_due = 0, False, False, False, 0
            elif point != 13:  # code keeps its indentation
                text[size + space_due] = 9 if point == 9 else 32
                space_due += 1
            continue
        if point >= 0xAD and _is_invisible(point):
            joiner_due = point if started and (point == 0x200C or point == 0x200D) else 0
            continue
        if not started:
            started = True
            line_start[lines] = size
            line_hidden[lines] = hidden_node if hidden_depth <= MAX_DEPTH else 0
            line_breaks[lines] = breaks
            counts[lines, ANCHORS] = in_link
            breaks, just_opened, after_block, after_break = 0, False, False, False
        after_code = False
        if space_due:
            counts[lines, SPACES] += 1
            phrase_state = 0
            if preformatted == 0:
                text[size] = 32
            size += space_due
        elif joiner_due and _joins(joiner_due, point_before, point):
            size = _put_character(text, size, joiner_due)
        space_due, joiner_due, point_before = 0, 0, point
        first = size
        size = _put_character(text, size, point)
        for k in range(first, size):
            byte = text[k]
            phrase_state = phrase_step[phrase_state, byte | 32 if 65 <= byte <= 90 else byte]
            line_phrases[lines] |= phrase_found[phrase_state]
        _count(point, counts[lines])
        counts[lines, LINKED] += in_link
    if started:
        line_end[lines], line_node[lines] = size, stack[depth]
        lines += 1
    return (
        text[:size].copy(),
        parent[:nodes].copy(),
        tag_of[:nodes].copy(),
        names_of[:nodes].copy(),
        node_source[:nodes].copy(),
        line_start[:lines].copy(),
        line_end[:lines].copy(),
        line_node[:lines].copy(),
        line_phrases[:lines].copy(),
        counts[:lines].copy(),
        line_hidden[:lines].copy(),
        line_breaks[:lines].copy(),
        mark_place[:marks].copy(),
        mark_kind[:marks].copy(),
        mark_source[:marks].copy(),
        truncated,
    )


@compiled
def _signs(page):
    formulas, latin = False, 0
    for i in range(4, page.size - 5):
        byte = page[i]
        latin += byte == 0xC3
        c = byte | 32
        if c == 109:  # <math, math/, MathJax, mathtex, mjx-, mwe-, eeimg
            if (page[i + 1] | 32) == 97 and (page[i + 2] | 32) == 116 and (page[i + 3] | 32) == 104:
                after = page[i + 4] | 32
                formulas |= page[i - 1] == 60 or page[i + 4] == 47 or after == 106 or after == 116
            elif page[i + 3] == 45:
                formulas |= (page[i + 1] == 106 and page[i + 2] == 120) or (page[i + 1] == 119 and page[i + 2] == 101)
            formulas |= page[i - 1] == 105 and page[i - 2] == 101 and page[i - 3] == 101
        elif c == 120:  # KaTeX, latex, ?tex=, data-tex=, cht=tx
            if (page[i - 1] | 32) == 101 and (page[i - 2] | 32) == 116:
                formulas |= (page[i - 3] | 32) == 97 or page[i + 1] == 61
            formulas |= page[i - 1] == 116 and page[i - 2] == 61
    return formulas, latin


def signs_of(utf8: bytes) -> tuple[bool, int]:
    """Say whether a page has markup of formulas, and how many letters from À to ÿ it has."""
    formulas, latin = _signs(np.frombuffer(utf8, np.uint8))
    return bool(formulas), int(latin)


def read_page(utf8: bytes) -> FlatPage:
    """Return the elements and the lines of a page given as valid UTF-8."""
    names, phrases = name_automaton(), phrase_automaton()
    return FlatPage(
        *_read(
            np.frombuffer(utf8, np.uint8),
            (names.step, names.found, names.whole_length, names.whole_bits),
            phrases.step,
            phrases.found,
            HIDDEN_NAME,
        )
    )
