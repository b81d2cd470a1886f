"""clean: the rules of the PanGu-α paper (section 3.1) and what web text needs besides.

1. Mojibake back to what it was (stages/mojibake.py).
2. Characters in one form with full-width punctuation kept; no special symbols (PanGu-α; stages/characters.py).
3. Traditional to simplified characters (PanGu-α, by OpenCC; stages/simplified.py).
4. No navigation bars, repeated paragraphs (PanGu-α), contact lines (MNBVC; stages/boilerplate_lines.py).
5. Private data masked or removed (WuDao; stages/privacy.py).
6. Drop what has less than 60 % Chinese characters, less than 150 characters, only a title, or the words of
   advertisements (PanGu-α).
7. Drop documents of which more than 20 % were contact lines (MNBVC).

The paper names its rules and two numbers; the lists of words and symbols are not published and are ours. The text is
changed first (1 to 5, until nothing changes any more, so that cleaning twice is cleaning once), then measured (6, 7).

Most texts need most rules not at all. One compiled look at a column (kernels/survey.py) says which texts need which,
and only these pass through the rules, which are plain functions on one text."""

import functools
import re
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from data_pipeline import record
from data_pipeline.engine.steps import Map, StageSettings
from data_pipeline.kernels import survey_flags
from data_pipeline.stages.clean import boilerplate_lines, characters, mojibake
from data_pipeline.stages.clean import privacy as private_data
from data_pipeline.stages.clean.needs import character_classes, navigation_words
from data_pipeline.stages.clean.simplified import simplify

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


class Settings(StageSettings):
    """The switches and thresholds; the defaults are the paper's where it gives one."""

    minimum_han_share: float = Field(
        default=0.6, description="Chinese characters among all that are not white space; less is dropped", ge=0, le=1
    )
    minimum_characters: int = Field(
        default=150, description="characters that are not white space; fewer are dropped (reviews: about 15)", ge=0
    )
    drop_title_only: bool = Field(default=True, description="drop a page that has nothing but its title")
    repair_mojibake: bool = Field(default=True, description="bring back text that was read in the wrong charset")
    unify_characters: bool = Field(
        default=True, description="full-width letters and digits, half-width kana, radicals; ，。！？ stay full-width"
    )
    remove_symbols: bool = Field(
        default=True, description="remove controls, zero-width, private use, box drawing, dingbats and emoji"
    )
    simplify: bool = Field(default=True, description="traditional to simplified characters (OpenCC t2s)")
    remove_navigation: bool = Field(default=True, description="remove lines that are navigation bars")
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
    """All rules, on every document of a batch."""
    from data_pipeline.kernels import survey

    texts = [text or "" for text in batch.column("text").to_pylist()]
    changes = clean_texts(texts, settings)
    column = pa.array(texts, pa.string())
    characters_of, han = survey.measure(column)
    shares = np.divide(han, characters_of, out=np.zeros(len(texts)), where=characters_of > 0)
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
    """One document by all rules in their order, plainly: the reference of `clean`."""
    text, changes = clean_text(text, settings)
    total, share = measure(text)
    found = advertisements(text, chosen_words(settings))
    cleaned = Cleaned(text, changes, total, share, found)
    return Cleaned(text, changes, total, share, found, _reason(cleaned, title, settings))


def clean_texts(texts: list[str], settings: Settings) -> list[Changes]:
    """Clean texts in place; what was done to each. Only what the survey has something against is touched."""
    untouched = Changes()
    changes = [untouched] * len(texts)
    rows = list(range(len(texts)))
    for _ in range(_ROUNDS):
        flags = _survey([texts[row] for row in rows], settings)
        flagged = [(row, flag) for row, flag in zip(rows, flags, strict=True) if flag]
        of_characters = []
        for row, flag in flagged:
            if changes[row] is untouched:
                changes[row] = Changes(mojibake_lost=mojibake.lost(texts[row]))
            text = clean_characters(texts[row], settings, changes[row], flag)
            if text != texts[row]:
                of_characters.append(row)
            texts[row] = text
        fresh = dict(zip(of_characters, _survey([texts[row] for row in of_characters], settings), strict=True))
        rows = []
        for row, flag in flagged:
            text = clean_lines(texts[row], settings, changes[row], fresh.get(row, flag))
            if text != texts[row] or row in fresh:
                rows.append(row)
            texts[row] = text
        if not rows:
            break
    return changes


def clean_text(text: str, settings: Settings) -> tuple[str, Changes]:
    """The same for one text, plainly: every rule, whether it is needed or not. The reference of `clean_texts`."""
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
    found = survey.survey(column, character_classes(), navigation_words(), settings.repeated_paragraph_characters)
    return found.tolist()


def clean_characters(text: str, settings: Settings, changes: Changes, flags: int = survey_flags.EVERYTHING) -> str:
    """Rules 1 to 3, once: each where its flag says so, or where one before it changed the text."""
    start = text
    if settings.repair_mojibake and flags & (survey_flags.LATIN | survey_flags.WIDE_FIRST):
        text, count = mojibake.repair(text)
        changes.mojibake_repaired += count
    if flags & survey_flags.BREAK or text != start:
        text = characters.LINE_BREAKS.sub("\n", text)
    if settings.unify_characters and (flags & survey_flags.UNIFY or text != start):
        text = characters.unify(text)
    if settings.remove_symbols and (flags & survey_flags.SYMBOL or text != start):
        text, count = characters.remove_symbols(text)
        changes.symbols_removed += count
    if settings.simplify and (flags & survey_flags.TRADITIONAL or text != start):
        text, converted = simplify(text)
        changes.simplified |= converted
    if flags & survey_flags.UNTIDY or text != start:
        text = _BLANK_LINES.sub("\n\n", tidy_lines(text)).strip()
    return text


def clean_lines(text: str, settings: Settings, changes: Changes, flags: int = survey_flags.EVERYTHING) -> str:
    """Rules 4 and 5, once: each where its flag says so, or where one before it changed the text."""
    start = text
    has_words = bool(flags & (survey_flags.WORDS | survey_flags.NUMBERS))
    if settings.remove_navigation and flags & survey_flags.NAVIGATION:
        text, count = boilerplate_lines.remove_navigation(text)
        changes.navigation_lines += count
    if settings.remove_contact_lines and (has_words or text != start):
        text, count = boilerplate_lines.remove_contact_lines(text)
        changes.contact_lines += count
    if settings.privacy != "keep" and (has_words or text != start):
        text, count = private_data.hide_private(text, settings.privacy, settings.privacy_kinds)
        changes.private_items += count
    if settings.remove_repeated_paragraphs and (flags & survey_flags.REPEATED or text != start):
        text, count = boilerplate_lines.remove_repeated_paragraphs(text, settings.repeated_paragraph_characters)
        changes.repeated_paragraphs += count
    return text if text == start else _BLANK_LINES.sub("\n\n", text).strip()


def _reason(found: Cleaned, title: str | None, settings: Settings) -> str | None:
    """Rules 6 and 7."""
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


def measure(text: str) -> tuple[int, float]:
    """(characters that are not white space, share of Chinese characters among them)."""
    from data_pipeline.kernels import survey

    total, han = survey.measure(pa.array([text], pa.large_string()))
    return int(total[0]), int(han[0]) / int(total[0]) if total[0] else 0.0


def is_title_only(text: str, title: str | None) -> bool:
    """Whether a document has no more than its title."""
    if not title:
        return False
    return len(text) <= 4 * len(title) + 64 and "".join(text.split()) in ("", "".join(title.split()))


def tidy_lines(text: str) -> str:
    """Lines without white space at their ends and without the indent of a paragraph; spaces that indent code stay."""
    return "\n".join([row.rstrip(_WHITE).lstrip(_INDENT) for row in text.split("\n")])


def chosen_words(settings: Settings) -> tuple[str, ...]:
    """The words of advertisements that the settings ask for."""
    return ADVERTISEMENT_WORDS if settings.advertisement_words is None else settings.advertisement_words


def advertisements(text: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """The words that occur, in the order of the list."""
    if not words or not _advertisement_pattern(words).search(text):
        return ()
    return tuple(word for word in words if word in text)


@functools.lru_cache(maxsize=4)
def _advertisement_pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, words)))


STEPS = (
    Map(
        "records",
        process=clean,
        signals=SIGNALS,
        uses=(
            "data_pipeline.kernels.survey",
            "data_pipeline.kernels.survey_flags",
            "data_pipeline.kernels.normal_form",
            "data_pipeline.kernels.minhash",
            "data_pipeline.stages.clean.boilerplate_lines",
            "data_pipeline.stages.clean.characters",
            "data_pipeline.stages.clean.needs",
            "data_pipeline.stages.clean.mojibake",
            "data_pipeline.stages.clean.privacy",
            "data_pipeline.stages.clean.simplified",
        ),
        libraries=("opencc",),
    ),
)
