"""The text of pages that hold it only as data for their scripts: `articleBody` of ld+json, `__NEXT_DATA__`,
`window.__INITIAL_STATE__`, the rows that `self.__next_f.push` brings, the arguments of `window.__NUXT__`.

Among the strings of such data the text is found as on a page: sentences count, and the search goes down to the part
that holds most of them."""

import contextlib
import html
import json
import re
from dataclasses import dataclass
from typing import Any

import orjson

MAX_SCRIPT_BYTES = 8 << 20  # characters of one script that are looked at
LEAST_SCRIPT = 60
MAX_SCRIPTS = 40
MAX_VALUES = 300_000  # of one script
SHARE_BELOW = 0.5  # the search goes on in a field that holds this much of the text
SHARE_OF_LIST = 0.9  # or in an entry of a list, which may be one of many paragraphs
MAX_COMPARED = 2000  # strings that are searched for repetitions
_SCRIPT = re.compile(r"<script\b([^<>]{0,1000})>", re.I)
_ASSIGNED = re.compile(r"(?:window|self|globalThis)?\.?[\w$.\[\]\"']{1,60}\s*=\s*(JSON\.parse\(\s*)?(?=[{\[\"'])")
# React's rows: `self.__next_f.push([1, "5:[...]\\n6:T1a,<p>..."])`; a row may be parted among several
_PUSHED = re.compile(r"\b__next_f\s*\.\s*push\(\s*\[\s*1\s*,\s*(?=\")")
_ROW = re.compile(rb"[0-9a-f]{1,6}:(?:T([0-9a-f]{1,7}),|[A-Z]{0,2}(?=[\[{\"]))")
_LITERAL = re.compile(r'"(?:[^"\\\n]|\\.){15,}+"')  # text in a program's object or arguments
_SENTENCE = re.compile(r"[。！？；，、：.!?;,]")
_LETTERS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3A-Za-z]")
_TAG = re.compile(r"<[a-zA-Z/!][^<>]{0,2000}>")
_NO_TEXT = re.compile(r"^\s*(?:https?:|data:|[\w+/=-]{80,}$|[{\[]|function\b|\.[\w-]+\s*\{)")


@dataclass(frozen=True)
class EmbeddedText:
    """Text found in scripts, as markup to be read like a page of which everything is kept."""

    markup: str
    characters: int
    title: str


def embedded_text(markup: str) -> EmbeddedText | None:
    """Return the longest text among the data of a page's scripts, or None."""
    best: EmbeddedText | None = None
    pushed: list[str] = []
    for number, script in enumerate(_SCRIPT.finditer(markup)):
        if number == MAX_SCRIPTS * 10:
            break
        end = markup.find("</script", script.end(), script.end() + MAX_SCRIPT_BYTES)
        content = markup[script.end() : max(end, script.end())].strip()
        if _PUSHED.search(content, 0, 400):
            pushed += _pushed(content)
        elif len(content) >= LEAST_SCRIPT:
            best = _longer(best, _value(script[1].lower(), content))
    return _longer(best, _rows("".join(pushed)[:MAX_SCRIPT_BYTES])) if pushed else best


def _longer(best: EmbeddedText | None, value: Any) -> EmbeddedText | None:
    """Return the text of some data where it is longer than the best one."""
    found = _text_of(value) if isinstance(value, dict | list) else None
    return found if found and (best is None or found.characters > best.characters) else best


def _pushed(content: str) -> list[str]:
    """Return the strings that a script pushes to `__next_f`."""
    found = []
    for push in _PUSHED.finditer(content):
        with contextlib.suppress(ValueError):
            found.append(json.JSONDecoder(strict=False).raw_decode(content, push.end())[0])
    return [text for text in found if isinstance(text, str)]


def _rows(text: str) -> list[Any]:
    """Return the values of React's rows: JSON to the end of a line, or text of so many bytes."""
    data, at, values = text.encode("utf-8", "replace"), 0, list[Any]()
    while at < len(data) and len(values) < MAX_VALUES:
        row = _ROW.match(data, at)
        if row and row[1]:
            end = row.end() + int(row[1], 16)
            values.append(data[row.end() : end].decode("utf-8", "replace"))
        else:
            end = data.find(b"\n", at) % (len(data) + 1)  # the last row may have no end
            if row:
                values.append(_parse(data[row.end() : end].decode("utf-8", "replace")))
        at = end + (data[end : end + 1] == b"\n")
    return values


def _value(attributes: str, content: str) -> Any:
    """Return the data of a script, or None where it is a program."""
    if "json" in attributes or "__next_data__" in attributes or content[:1] in "{[":
        return _parse(content) or _parse(html.unescape(content))
    assigned = _ASSIGNED.search(content, 0, 400)
    if not assigned:
        return _literals(content) if "__NUXT__" in content[:400] else None
    try:
        value, _ = json.JSONDecoder(strict=False).raw_decode(content, assigned.end())
    except (ValueError, RecursionError):
        return _literals(content)
    return _parse(value) if isinstance(value, str) and assigned[1] else value


def _literals(content: str) -> list[Any]:
    """Return the long strings of a program whose object is no JSON: `undefined`, keys without quotes, arguments."""
    found = (_parse(literal[0]) for literal in _LITERAL.finditer(content))
    return [text for text in found if isinstance(text, str)][:MAX_VALUES]


def _parse(content: str) -> Any:
    try:
        return orjson.loads(content)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        pass
    try:
        return json.loads(content.removeprefix("<!--").removesuffix("-->").strip().rstrip(";"), strict=False)
    except (ValueError, RecursionError):
        return None


def _good(text: str) -> int:
    """Return how many letters of running text a string holds."""
    if len(text) < 15 or _NO_TEXT.match(text):
        return 0
    words = _TAG.sub("", text) if "<" in text else text
    letters = len(_LETTERS.findall(words))
    return letters if letters * 2 >= len(words) and _SENTENCE.search(words) else 0


def _text_of(data: Any) -> EmbeddedText | None:
    """Return the main text of parsed data."""
    body = _schema_body(data)
    keys, values, parents = _flatten(data)
    if body is None:
        sums = [_good(value) if isinstance(value, str) else 0 for value in values]
        for index in range(len(values) - 1, 0, -1):
            sums[parents[index]] += sums[index]
        if not sums or sums[0] < 60:
            return None
        top = _main_part(sums, values, parents)
        chosen = [top]
        for index in range(top + 1, len(values)):  # a part and all below it stand together
            if parents[index] < top:
                break
            chosen.append(index)
        own_keys = {keys[index] for index in chosen if isinstance(values[index], str) and _good(values[index])}
        strings = [values[index] for index in chosen if isinstance(values[index], str) and keys[index] in own_keys]
        strings = [text for text in strings if text.strip() and not _NO_TEXT.match(text)]
        body = list(dict.fromkeys(strings))
        if len(body) <= MAX_COMPARED:  # a summary that the text begins with
            long = sorted(body, key=len)[-5:]
            body = [text for text in body if not any(text != other and text.strip("…. ") in other for other in long)]
    titles = (value for key, value in zip(keys, values, strict=True) if key in ("headline", "title"))
    title = next((value for value in titles if isinstance(value, str) and 4 <= len(value) <= 200), "")
    characters = sum(_good(text) for text in body)
    return EmbeddedText("\n".join(map(_as_markup, body)), characters, title) if characters else None


def _schema_body(data: Any) -> list[str] | None:
    """Return `articleBody` of schema.org data, or the question and its answers."""
    keys, values, _ = _flatten(data)
    bodies = [value for key, value in zip(keys, values, strict=True) if key == "articleBody" and isinstance(value, str)]
    return [max(bodies, key=len)] if bodies and max(map(len, bodies)) >= 15 else None


def _flatten(data: Any) -> tuple[list[str], list[Any], list[int]]:
    """Return the values of nested data in their order: key (in a list: its own), value, parent."""
    stack: list[tuple[str, Any, int]] = [("", data, -1)]
    keys: list[str] = []
    values: list[Any] = []
    parents: list[int] = []
    while stack and len(values) < MAX_VALUES:
        key, value, parent = stack.pop()
        own = len(values)
        keys.append(key)
        values.append(value)
        parents.append(max(parent, 0))
        if isinstance(value, dict):
            stack.extend((str(name), item, own) for name, item in reversed(value.items()))
        elif isinstance(value, list):
            is_element = len(value) > 3 and value[0] == "$"  # React's: "$", its tag, its key, what it has
            stack.extend((key, item, own) for item in (value[3:4] if is_element else reversed(value)))
    return keys, values, parents


def _main_part(sums: list[int], values: list[Any], parents: list[int]) -> int:
    """Return the deepest part that holds most of the text of the part above it."""
    best_child: dict[int, int] = {}
    for index in range(1, len(sums)):
        parent = parents[index]
        if parent not in best_child or sums[index] > sums[best_child[parent]]:
            best_child[parent] = index
    top = 0
    while top in best_child:
        share = SHARE_OF_LIST if isinstance(values[top], list) else SHARE_BELOW
        if sums[best_child[top]] < share * sums[top]:
            break
        top = best_child[top]
    return top


def _as_markup(text: str) -> str:
    """Return a string as markup: as it is, or its lines as paragraphs."""
    unescaped = html.unescape(text) if "&lt;" in text and not _TAG.search(text) else text
    if _TAG.search(unescaped):
        return f"<div>{unescaped}</div>"
    return "".join(f"<p>{html.escape(line)}</p>" for line in re.split(r"\r?\n|\u2028", text))
