"""clean: the rules of the PanGu-α paper (section 3.1) and what web text needs besides.

0. Markup that was left in the text goes, entities are resolved (stages/clean/markup.py).
1. Mojibake back to what it was (stages/mojibake.py).
2. Characters in one form with full-width punctuation kept; no special symbols (PanGu-α; stages/clean/characters.py).
3. Traditional to simplified characters (PanGu-α, by OpenCC; stages/simplified.py).
4. No navigation bars, repeated paragraphs (PanGu-α), contact lines (MNBVC; stages/boilerplate_lines.py), paths to the
   page and editors' lines (stages/clean/publisher_lines.py).
5. Private data masked or removed (WuDao; stages/privacy.py).
6. Drop what has less than 60 % Chinese characters, less than 150 characters, only a title, or the words of
   advertisements (PanGu-α).
7. Drop documents of which more than 20 % were contact lines (MNBVC).

Code, tables, verse and dialogue are structure, of which no rule takes a line or an indent (stages/clean/structure.py).
The share of Chinese is that of Chinese characters among these and the words of alphabets, in the prose of the text
(stages/clean/prose.py): by the paper's letter, a share of all characters, hardly an article on technology is Chinese.
What a kind of text needs otherwise stands in a preset (stages/presets.py); `pangu-alpha` is the paper's letter.

The paper names its rules and two numbers; the lists of words and symbols are not published and are ours. The text is
changed first (0 to 5, until nothing changes any more, so that cleaning twice is cleaning once), then measured (6, 7).

Most texts need most rules not at all. One compiled look at a column (kernels/survey.py) says which texts need which,
and only these pass through the rules, which are plain functions on one text."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from data_pipeline import record
from data_pipeline.engine.steps import Map, StageSettings
from data_pipeline.kernels import survey_flags
from data_pipeline.stages.clean import boilerplate_lines, characters, markup, mojibake, publisher_lines, structure
from data_pipeline.stages.clean import privacy as private_data
from data_pipeline.stages.clean.needs import character_classes, navigation_words
from data_pipeline.stages.clean.prose import prose
from data_pipeline.stages.clean.simplified import Conversion, simplify
from data_pipeline.stages.presets import PRESETS, PresetName
from pangu.foundation.errors import UserError

# Phrases that an article does not use. Ours; kept short, because the paper drops a document for a single one.
ADVERTISEMENT_WORDS = (
    "加微信", "加我微信", "微信同号", "扫码加", "扫码关注", "扫描二维码关注", "代开发票", "开发票联系", "办证联系",
    "免费咨询热线", "咨询热线：", "全国统一热线", "在线客服QQ", "客服QQ", "招商加盟热线", "加盟热线", "点击购买",
    "立即购买", "立即抢购", "限时抢购", "包邮到家", "信用卡套现", "无抵押贷款", "贷款热线", "网上赌场", "真人娱乐",
    "六合彩特码", "私服发布", "刷单兼职", "月入过万",
)  # fmt: skip

# what indents a paragraph; spaces indent code
_INDENT = "\t\u00a0\u3000"
_WHITE = " \t\u00a0\u3000"
_BLANK_LINES = re.compile(r"\n{3,}")
# removing may bring together what the next round removes; more rounds than this no text has needed
_ROUNDS = 20
_CONTACT_LINES = 3
# where so much of the whole text is Chinese already, its prose need not be looked for
_SURE_SHARE = 0.8
# fewer Chinese characters among all those of the prose: numbers, signs and little else
_LEAST_CHARACTER_SHARE = 0.1


class Settings(StageSettings):
    """The switches and thresholds; the defaults are the paper's where it gives one."""

    preset: PresetName = Field(
        default="web",
        description="the recipe's, or one of web, technical, poetry, classical, dialogue, pangu-alpha: sets what is not"
        " set here",
    )
    of_source: dict[str, dict[str, Any]] = Field(
        default={}, description="other settings for single sources, like {poems: {preset: poetry}}"
    )
    minimum_han_share: float = Field(default=0.6, description="a smaller share of Chinese is dropped", ge=0, le=1)
    han_share_of: Literal["words", "characters"] = Field(
        default="words",
        description="words: Chinese characters among these and foreign words, outside code, addresses and markup;"
        " characters: among all characters, as the paper has it",
    )
    minimum_characters: int = Field(
        default=150, description="characters that are not white space; fewer are dropped (reviews: about 15)", ge=0
    )
    drop_title_only: bool = Field(default=True, description="drop a page that has nothing but its title")
    keep_structure: bool = Field(
        default=True,
        description="code, tables, verse and dialogue stay as they are: no line and no indent of them goes",
    )
    remove_markup: bool = Field(default=True, description="remove tags of HTML outside code, resolve entities")
    repair_mojibake: bool = Field(default=True, description="bring back text that was read in the wrong charset")
    unify_characters: bool = Field(
        default=True, description="full-width letters and digits, half-width kana, radicals; ，。！？ stay full-width"
    )
    remove_symbols: bool = Field(
        default=True, description="remove controls, zero-width, private use, emoji, rows of ornament"
    )
    keep_text_symbols: bool = Field(
        default=True, description="★ ♀ ■ ✓ and box drawing stay; false: they go too, as in the paper"
    )
    simplify: Conversion = Field(
        default="auto",
        description="traditional to simplified characters by OpenCC: auto, t2s, tw2s, tw2sp (words, too), hk2s, off",
    )
    remove_navigation: bool = Field(default=True, description="remove lines that are navigation bars")
    remove_publisher_lines: bool = Field(
        default=True, description="remove paths to the page (首页 > 新闻 > 正文) and lines of editors and rights"
    )
    remove_contact_lines: bool = Field(
        default=True, description="remove lines that only say how to call, write to or follow somebody"
    )
    maximum_contact_share: float = Field(
        default=0.2, description="a document is dropped if more of its lines were contact lines (and 3 at least)", ge=0
    )
    privacy: Literal["mask", "remove", "keep"] = Field(
        default="mask", description="numbers of phones, identity and bank cards, mail, QQ, WeChat: mask, remove or keep"
    )
    privacy_kinds: tuple[private_data.Kind, ...] = Field(default=private_data.KINDS, description="which of these")
    remove_repeated_paragraphs: bool = Field(
        default=True, description="keep the first of equal paragraphs of a document"
    )
    repeated_paragraph_characters: int = Field(default=10, description="shorter paragraphs may repeat", ge=1)
    advertisement_words: tuple[str, ...] | None = Field(
        default=None, description="null: the built-in list; [] switches the rule off"
    )
    maximum_advertisements: int = Field(
        default=0, description="different advertisement words a document may hold", ge=0
    )

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, given: Any) -> Any:
        preset = given.get("preset") if isinstance(given, dict) else None
        return {**PRESETS.get(preset, {}), **given} if isinstance(preset, str) else given

    @field_validator("simplify", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        return {True: "auto", False: "off"}.get(value, value) if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _sources_are_settings(self) -> "Settings":
        for name, changes in self.of_source.items():
            if "of_source" in changes:
                raise ValueError(f"of_source.{name}: settings of a source hold no further `of_source`")
            self.for_source(name)
        return self

    def with_presets(self, preset: str | None, of_source: Mapping[str, str]) -> "Settings":
        """Return these settings with the presets of the recipe and of its sources, where none is given here."""
        if "preset" in self.model_fields_set:
            return self
        given = {name: getattr(self, name) for name in self.model_fields_set - {"of_source"}}
        if preset is not None:
            given["preset"] = preset
        sources = {name: {"preset": preset, **self.of_source.get(name, {})} for name, preset in of_source.items()}
        return Settings(**given, of_source={**self.of_source, **sources})

    def completed(self, seed: int, source_names: Sequence[str], base: Path) -> "Settings":
        """Return these settings; a source that they name and the recipe has not is a mistake."""
        unknown = [name for name in self.of_source if name not in source_names]
        if unknown:
            raise UserError(f"clean.of_source: no source {unknown[0]!r}; there are {', '.join(source_names)}")
        return self

    def for_source(self, name: str) -> "Settings":
        """Return the settings for the documents of one source."""
        changes = self.of_source.get(name)
        if changes is None:
            return self
        own = (
            {} if "preset" in changes else {name: getattr(self, name) for name in self.model_fields_set - {"of_source"}}
        )
        return Settings(**{**own, **changes})


SIGNALS = (
    "han_share",
    "characters",
    "symbols_removed",
    "repeated_paragraphs",
    "navigation_lines",
    "advertisements",
    "simplified",
    "mojibake_repaired",
    "mojibake_lost",
    "contact_lines",
    "private_items",
)
# reason -> (signal, the setting that bounds it, which bound that is), for `tune`
THRESHOLDS = {
    "too_short": ("characters", "minimum_characters", "minimum"),
    "han_share": ("han_share", "minimum_han_share", "minimum"),
    "advertisement": ("advertisements", "maximum_advertisements", "maximum"),
}


@dataclass
class Changes:
    """What the rules did to a text."""

    symbols_removed: int = 0
    repeated_paragraphs: int = 0
    navigation_lines: int = 0
    simplified: bool = False
    mojibake_repaired: int = 0
    mojibake_lost: int = 0
    contact_lines: int = 0
    private_items: int = 0


@dataclass(frozen=True)
class Cleaned:
    """A document after the rules: its text, what was measured, and why it is dropped, if it is."""

    text: str
    changes: Changes = field(default_factory=Changes)
    characters: int = 0
    han_share: float = 0.0
    advertisements: tuple[str, ...] = ()
    drop_reason: str | None = None


def clean(batch: pa.RecordBatch, settings: Settings) -> pa.RecordBatch:
    """Apply all rules to every document of a batch, each by the settings of its source."""
    if not settings.of_source:
        return _clean(batch, settings)
    sources = np.asarray(batch.column("source").to_pylist(), object)
    names = dict.fromkeys(sources.tolist())
    rows = {name: np.flatnonzero(sources == name) for name in names}
    parts = [_clean(batch.take(pa.array(rows[name])), settings.for_source(name)) for name in names]
    place = np.argsort(np.concatenate([rows[name] for name in names]), kind="stable")
    return pa.Table.from_batches(parts).take(pa.array(place)).combine_chunks().to_batches()[0]


def _clean(batch: pa.RecordBatch, settings: Settings) -> pa.RecordBatch:
    texts = [text or "" for text in batch.column("text").to_pylist()]
    changes = clean_texts(texts, settings)
    column = pa.array(texts, pa.string())
    characters_of, shares = measure_texts(texts, column, settings)
    found = [advertisements(text, chosen_words(settings)) for text in texts]
    reasons = [
        _reason(Cleaned(*row), title, settings)
        for row, title in zip(
            zip(texts, changes, characters_of.tolist(), shares.tolist(), found, strict=True),
            batch.column("title").to_pylist(),
            strict=True,
        )
    ]
    signals = {
        "han_share": pa.array(shares),
        "characters": pa.array(characters_of),
        "advertisements": pa.array([len(words) for words in found], pa.int64()),
    }
    for name in SIGNALS:
        if name not in signals:
            signals[name] = pa.array([float(getattr(change, name)) for change in changes], pa.float64())
    return record.replace(
        batch,
        columns={"text": column, "drop_reason": pa.array(reasons, pa.string())},
        signals={name: signals[name] for name in SIGNALS},
    )


def clean_document(text: str, title: str | None, settings: Settings) -> Cleaned:
    """Return one document by all rules in their order, plainly: the reference of `clean`."""
    text, changes = clean_text(text, settings)
    totals, shares = measure_texts([text], pa.array([text], pa.string()), settings)
    total, share = int(totals[0]), float(shares[0])
    found = advertisements(text, chosen_words(settings))
    cleaned = Cleaned(text, changes, total, share, found)
    return Cleaned(text, changes, total, share, found, _reason(cleaned, title, settings))


def clean_texts(texts: list[str], settings: Settings) -> list[Changes]:
    """Clean texts in place; what was done to each. Only what the survey has something against is touched."""
    untouched = Changes()
    changes = [untouched] * len(texts)
    rows = list(range(len(texts)))
    known: dict[int, int] = {}
    for _ in range(_ROUNDS):
        unknown = [row for row in rows if row not in known]
        known.update(zip(unknown, _survey([texts[row] for row in unknown], settings), strict=True))
        flagged = [(row, known[row]) for row in rows if known[row] or _may_have_markup(texts[row], settings)]
        of_characters = []
        for row, flag in flagged:
            if changes[row] is untouched:
                changes[row] = Changes(mojibake_lost=mojibake.lost(texts[row]))
            text = clean_characters(texts[row], settings, changes[row], flag)
            if text != texts[row]:
                of_characters.append(row)
            texts[row] = text
        fresh = dict(zip(of_characters, _survey([texts[row] for row in of_characters], settings), strict=True))
        rows, known = [], {}
        for row, flag in flagged:
            text = clean_lines(texts[row], settings, changes[row], fresh.get(row, flag))
            if text != texts[row]:
                rows.append(row)
            elif row in fresh:  # it has been surveyed as it is now
                rows.append(row)
                known[row] = fresh[row]
            texts[row] = text
        if not rows:
            break
    return changes


def clean_text(text: str, settings: Settings) -> tuple[str, Changes]:
    """Return the same for one text, plainly: every rule, whether it is needed or not. The reference of
    `clean_texts`.
    """
    changes = Changes(mojibake_lost=mojibake.lost(text))
    for _ in range(_ROUNDS):
        before = text
        text = clean_characters(text, settings, changes)
        text = clean_lines(text, settings, changes)
        if text == before:
            break
    return text, changes


def _survey(texts: list[str], settings: Settings) -> list[int]:
    from data_pipeline.kernels import survey

    if not texts:
        return []
    column = pa.array(texts, pa.large_string())
    classes = character_classes(settings.simplify, settings.keep_text_symbols, settings.remove_publisher_lines)
    found = survey.survey(column, classes, navigation_words(), settings.repeated_paragraph_characters)
    return found.tolist()


def _may_have_markup(text: str, settings: Settings) -> bool:
    return settings.remove_markup and ("<" in text or "&" in text)


def clean_characters(text: str, settings: Settings, changes: Changes, flags: int = survey_flags.EVERYTHING) -> str:
    """Apply rules 0 to 3 once, outside code: each where its flag says so, or where one before it changed the text."""
    if not flags & survey_flags.CHARACTERS and not (settings.remove_markup and markup.has_remains(text)):
        wide = settings.repair_mojibake and flags & (survey_flags.LATIN | survey_flags.WIDE_FIRST)
        # where nothing of the whole is to be repaired, nothing of its parts is
        if not wide or not mojibake.repair(text)[1]:
            return text
    if flags & survey_flags.BREAK:
        text = characters.LINE_BREAKS.sub("\n", text)
    if not settings.keep_structure:
        return _clean_characters(text, settings, changes, flags, flags & survey_flags.BREAK > 0).strip()
    has_break = flags & survey_flags.BREAK > 0
    if not structure.has_structure(text):
        return _clean_characters(text, settings, changes, flags, has_break).strip()
    lines, kinds = structure.lines_of(text)
    is_code = [kind == structure.CODE for kind in kinds]
    if not any(is_code):
        return _strip(_clean_characters(text, settings, changes, flags, has_break))
    parts = [
        part if is_code else _clean_characters(part, settings, changes, flags, has_break)
        for is_code, part in structure.runs(lines, is_code)
    ]
    return _strip("\n".join(parts))


def _strip(text: str) -> str:
    """Return the text without empty lines and white space at its ends; code and tables keep their first indent."""
    text = text.rstrip()
    body = text.lstrip()
    first = text[text.rfind("\n", 0, len(text) - len(body)) + 1 :]
    if first == body or structure.line_kinds(first.split("\n"))[0] == structure.PROSE:
        return body
    return first


def _clean_characters(text: str, settings: Settings, changes: Changes, flags: int, is_changed: bool) -> str:
    start = text
    if settings.remove_markup:
        text, _ = markup.remove_markup(text)
    if settings.repair_mojibake and flags & (survey_flags.LATIN | survey_flags.WIDE_FIRST):
        text, count = mojibake.repair(text)
        changes.mojibake_repaired += count
    if text != start:
        text = characters.LINE_BREAKS.sub("\n", text)
    is_changed |= text != start
    if settings.unify_characters and (flags & survey_flags.UNIFY or is_changed):
        text = characters.unify(text)
    is_changed |= text != start
    if settings.remove_symbols and (flags & survey_flags.SYMBOL or is_changed):
        text, count = characters.remove_symbols(text, settings.keep_text_symbols)
        changes.symbols_removed += count
    is_changed |= text != start
    if flags & survey_flags.TRADITIONAL or is_changed:
        text, converted = simplify(text, settings.simplify)
        changes.simplified |= converted
    if flags & survey_flags.UNTIDY or is_changed:  # other characters are as tidy
        text = _BLANK_LINES.sub("\n\n", tidy_lines(text, settings.keep_structure))
    return text


def clean_lines(text: str, settings: Settings, changes: Changes, flags: int = survey_flags.EVERYTHING) -> str:
    """Apply rules 4 and 5 once: each where its flag says so, or where one before it changed the text."""
    start = text
    has_words = bool(flags & (survey_flags.WORDS | survey_flags.NUMBERS))
    if settings.remove_navigation and flags & survey_flags.NAVIGATION:
        text = _outside_structure(text, settings, boilerplate_lines.remove_navigation, changes, "navigation_lines")
    if settings.remove_publisher_lines and (has_words or text != start):
        text = _outside_structure(text, settings, publisher_lines.remove_publisher_lines, changes, "navigation_lines")
    if settings.remove_contact_lines and (has_words or text != start):
        text = _outside_structure(text, settings, boilerplate_lines.remove_contact_lines, changes, "contact_lines")
    if settings.privacy != "keep" and (has_words or text != start):
        hide = functools.partial(private_data.hide_private, mode=settings.privacy, kinds=settings.privacy_kinds)
        text = _outside_structure(text, settings, hide, changes, "private_items", (structure.CODE,))
    if settings.remove_repeated_paragraphs and (flags & survey_flags.REPEATED or text != start):
        is_kept = structure.kept_lines if settings.keep_structure else None
        text, count = boilerplate_lines.remove_repeated_paragraphs(
            text, settings.repeated_paragraph_characters, is_kept
        )
        changes.repeated_paragraphs += count
    if text == start:
        return text
    if not settings.keep_structure:
        return _BLANK_LINES.sub("\n\n", text).strip()
    return _strip(structure.change_outside_code(text, lambda part: _BLANK_LINES.sub("\n\n", part)))


def _outside_structure(
    text: str,
    settings: Settings,
    remove: Callable[[str], tuple[str, int]],
    changes: Changes,
    counted: str,
    spared: tuple[int, ...] = (structure.CODE, structure.TABLE),
) -> str:
    """Return the text after a rule that removes something from the lines that are not structure."""
    left, count = remove(text)
    if not count:  # nor is there anything in a part of its lines
        return text
    if not settings.keep_structure or not structure.has_structure(text):
        setattr(changes, counted, getattr(changes, counted) + count)
        return left
    lines, kinds = structure.lines_of(text)
    is_spared = [kind in spared for kind in kinds]
    if not any(is_spared):
        setattr(changes, counted, getattr(changes, counted) + count)
        return left
    parts = []
    for is_structure, part in structure.runs(lines, is_spared):
        if is_structure:
            parts.append(part)
            continue
        left, count = remove(part)
        setattr(changes, counted, getattr(changes, counted) + count)
        if left or not part.strip():
            parts.append(left)
    return "\n".join(parts)


def _reason(found: Cleaned, title: str | None, settings: Settings) -> str | None:
    """Apply rules 6 and 7."""
    if settings.drop_title_only and is_title_only(found.text, title):
        return "title_only"
    contact = found.changes.contact_lines
    if contact >= _CONTACT_LINES:
        lines = contact + sum(bool(line.strip()) for line in found.text.split("\n"))
        if contact > settings.maximum_contact_share * lines:
            return f"contact_lines:{contact} of {lines}"
    if found.characters < settings.minimum_characters:
        return f"too_short:{found.characters} characters"
    if found.han_share < settings.minimum_han_share:
        return f"han_share:{found.han_share:.3f}"
    if len(found.advertisements) > settings.maximum_advertisements:
        return f"advertisement:{found.advertisements[0]}"
    return None


def measure(text: str, han_share_of: str = "characters") -> tuple[int, float]:
    """Return (characters that are not white space, share of Chinese among characters or words)."""
    settings = Settings(han_share_of=han_share_of)  # type: ignore[arg-type]
    total, share = measure_texts([text], pa.array([text], pa.large_string()), settings)
    return int(total[0]), float(share[0])


def measure_texts(texts: list[str], column: pa.Array, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Return (int64[rows], characters that are not white space; float64[rows], the share of Chinese).

    By words, the share is that of the whole text where it is _SURE_SHARE at least, else that of its prose."""
    from data_pipeline.kernels import survey

    characters_of, han = survey.measure(column)
    if settings.han_share_of == "characters":
        return characters_of, np.divide(han, characters_of, out=np.zeros(len(texts)), where=characters_of > 0)
    shares = _share_of_words(column, characters_of, han)
    rows = np.flatnonzero(shares < _SURE_SHARE).tolist()
    changed = [(row, text) for row in rows if (text := prose(texts[row])) != texts[row]]
    if changed:
        parts = pa.array([text for _, text in changed], pa.large_string())
        places = [row for row, _ in changed]
        shares[places] = np.maximum(shares[places], _share_of_words(parts, *survey.measure(parts)))
    return characters_of, shares


def _share_of_words(column: pa.Array, characters_of: np.ndarray, han: np.ndarray) -> np.ndarray:
    """Return float64[rows]: Chinese characters among these and words; among all where they are hardly any."""
    from data_pipeline.kernels import survey

    whole = np.where(han >= _LEAST_CHARACTER_SHARE * characters_of, han + survey.count_words(column), characters_of)
    return np.divide(han, whole, out=np.zeros(han.size), where=whole > 0)


def is_title_only(text: str, title: str | None) -> bool:
    """Return whether a document has no more than its title."""
    if not title:
        return False
    return len(text) <= 4 * len(title) + 64 and "".join(text.split()) in ("", "".join(title.split()))


def tidy_lines(text: str, keep_structure: bool = False) -> str:
    """Return lines without white space at their ends and without the indent of a paragraph; spaces that indent code
    stay, and so do the tabs of a table.
    """
    rows = text.split("\n")
    if not keep_structure or not structure.has_structure(text):
        return "\n".join([row.rstrip(_WHITE).lstrip(_INDENT) for row in rows])
    _, kinds = structure.lines_of(text)
    return "\n".join(
        [
            row if kind == structure.TABLE else row.rstrip(_WHITE).lstrip(_INDENT)
            for row, kind in zip(rows, kinds, strict=True)
        ]
    )


def chosen_words(settings: Settings) -> tuple[str, ...]:
    """Return the words of advertisements that the settings ask for."""
    return ADVERTISEMENT_WORDS if settings.advertisement_words is None else settings.advertisement_words


def advertisements(text: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words that occur, in the order of the list."""
    if not words or not _advertisement_pattern(words).search(text):
        return ()
    return tuple(word for word in words if word in text)


@functools.lru_cache(maxsize=4)
def _advertisement_pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, words)))


def load(settings: Settings) -> None:
    """Load the kernels and the tables of these settings and of those of single sources."""
    for own in (settings, *map(settings.for_source, settings.of_source)):
        texts = ["繁體字與 abc。"]
        clean_texts(texts, own)
        measure_texts(texts, pa.array(texts, pa.string()), own)


STEPS = (
    Map(
        "records",
        process=clean,
        prepare=load,
        signals=SIGNALS,
        uses=(
            "data_pipeline.kernels.survey",
            "data_pipeline.kernels.survey_flags",
            "data_pipeline.kernels.normal_form",
            "data_pipeline.kernels.minhash",
            "data_pipeline.stages.clean.boilerplate_lines",
            "data_pipeline.stages.clean.characters",
            "data_pipeline.stages.clean.markup",
            "data_pipeline.stages.clean.needs",
            "data_pipeline.stages.presets",
            "data_pipeline.stages.clean.prose",
            "data_pipeline.stages.clean.publisher_lines",
            "data_pipeline.stages.clean.structure",
            "data_pipeline.stages.clean.mojibake",
            "data_pipeline.stages.clean.privacy",
            "data_pipeline.stages.clean.simplified",
        ),
        libraries=("opencc",),
    ),
)
