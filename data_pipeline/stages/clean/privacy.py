"""Private data in texts: found by their form and, where they have one, by their check digit; masked or removed.

| kind | form | check |
|---|---|---|
| `id_card` | 18 characters of a resident identity card (GB 11643-1999) | date of birth, ISO 7064 mod 11-2 |
| `bank_card` | 16 to 19 digits behind 卡号 and the like, or of a known Chinese issuer | Luhn (ISO/IEC 7812-1) |
| `phone` | mobile (1[3-9]…, +86, 3-4-4), fixed line with area code, 400 and 800, 7 or 8 digits behind 电话 | |
| `mail` | an address | |
| `qq` | 5 to 12 digits behind QQ, 扣扣, 企鹅 | |
| `wechat` | an account behind 微信, 微信号, VX and the like | |

Digits may be full-width. A number inside a longer number is none of these. Masking leaves a word that says what stood
there (`[电话]`), which is none of these either, so that doing it twice changes nothing. WuDao removed 10 million such
items from 3 TB (Yuan et al. 2021)."""

import datetime
import re
from collections.abc import Callable, Sequence
from typing import Literal

Kind = Literal["id_card", "bank_card", "phone", "mail", "qq", "wechat"]
KINDS: tuple[Kind, ...] = ("id_card", "bank_card", "phone", "mail", "qq", "wechat")
MASKS = {
    "id_card": "[身份证号]",
    "bank_card": "[银行卡号]",
    "phone": "[电话]",
    "mail": "[邮箱]",
    "qq": "[QQ号]",
    "wechat": "[微信号]",
}

# Every pattern begins with a set of characters and looks behind it afterwards: so the search skips from one of them to
# the next instead of trying everything at every place.
_D = "[0-9０-９]"
_ANY = r"[\s\S]"
_ALONE = f"(?<!{_D}{_ANY})(?<![0-9A-Za-z][.．]{_ANY})(?<![A-Za-z_/=#-]{_ANY})"
_ENDS = f"(?!{_D})(?![.．]{_D})(?![A-Za-z_])"
_DASH = "[-－—– ]"
_COLON = "[ 　]{0,2}[：:]?[ 　]{0,2}"
_LABEL_PHONE = "(?:电话|手机|热线|传真|Tel|TEL|tel)(?:号码|号)?"
_MOBILE = f"[3-9３-９]{_D}{_DASH}?{_D}{{4}}{_DASH}?{_D}{{4}}"
_FIXED = f"{_DASH}[2-9２-９]{_D}{{6,7}}(?:(?:转|[-－]){_D}{{1,5}})?"
_QQ = "[QqＱｑ扣企](?:(?<=[QqＱｑ])[QqＱｑ]|(?<=扣)扣|(?<=企)鹅)(?:群号|号码|交流群|群|号)?"
_WECHAT = f"[微薇威WwVv](?:(?<=[微薇威Vv])信|(?<=[Ww])e[Cc]hat|(?<![A-Za-z]{_ANY})(?<=[VvWw])[Xx])(?:号码|号|[Ii][Dd])?"
_PATTERNS = {
    "id_card": (
        f"(?P<item>[1-9１-９]{_ALONE}{_D}{{5}}(?:[1１][89８９]|[2２][0０]){_D}{{9}}[0-9０-９XxＸｘ])(?![0-9０-９A-Za-z])"
    ),
    "bank_card": (
        f"(?P<item>[3-6]{_ALONE}(?:(?<=6)[02]|(?<=5)[1-5]|(?<=4)[0-9]|(?<=3)[57])[0-9]{{2}}(?:[ -]?[0-9]{{4}}){{3}}"
        f"(?:[ -]?[0-9]{{1,3}})?){_ENDS}"
    ),
    "phone": (
        f"(?P<item>[0-9０-９+＋(（]{_ALONE}"
        f"(?:(?<=[+＋])86{_DASH}?(?:[1１]{_MOBILE}|[0０]?{_D}{{2,3}}{_FIXED})"
        f"|(?<=[0０])[0０]86{_DASH}?[1１]{_MOBILE}"
        f"|(?<=[1１]){_MOBILE}"
        f"|(?<=[(（])[0０]{_D}{{2,3}}[)）]{_DASH}?[2-9２-９]{_D}{{6,7}}(?:(?:转|[-－]){_D}{{1,5}})?"
        f"|(?<=[0０]){_D}{{2,3}}{_FIXED}"
        f"|(?<=[48４８])[0０]{{2}}[-－ ]{_D}{{3,4}}[-－ ]?{_D}{{3,4}})){_ENDS}"
    ),
    "labelled_phone": f"{_LABEL_PHONE}{_COLON}(?P<item>[2-9２-９]{_D}{{6,7}}){_ENDS}",
    "mail": (
        f"(?P<item>[A-Za-z0-9._%+-](?<![A-Za-z0-9._%+-]{_ANY})[A-Za-z0-9._%+-]{{0,63}}[@＠]"
        r"(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24})(?![A-Za-z0-9-])"
    ),
    "qq": f"{_QQ}(?:[ 　]{{0,2}}[：:是为])?[ 　]{{0,2}}(?P<item>[1-9１-９]{_D}{{4,11}})(?![0-9０-９A-Za-z.@＠])",
    "wechat": f"{_WECHAT}[ 　]{{0,2}}[：:][ 　]{{0,2}}(?P<item>[A-Za-z][-_A-Za-z0-9]{{5,19}})(?![-_A-Za-z0-9@＠.])",
    # without a colon only behind 加微信 or 微信号, and only with a digit: 微信 Android 版 is no account
    "labelled_wechat": (
        "(?:加微信|微信号|微信号码|加[Vv][Xx]?)[ 　]{0,2}"
        "(?P<item>[A-Za-z](?=[-_A-Za-z]{0,18}[0-9_])[-_A-Za-z0-9]{5,19})(?![-_A-Za-z0-9@＠.])"
    ),
}
_COMPILED = {name: re.compile(pattern) for name, pattern in _PATTERNS.items()}
_PATTERNS_OF: dict[str, tuple[str, ...]] = {
    **{kind: (kind,) for kind in KINDS},
    "phone": ("phone", "labelled_phone"),
    "wechat": ("wechat", "labelled_wechat"),
}
# what there must be for a kind to be there at all
_DIGIT_RUN = re.compile(f"{_D}(?:[-－—– ()（）]{{0,2}}{_D}){{4,}}")
_MANY_DIGITS = re.compile(f"{_D}(?:[-－—– ()（）]{{0,2}}{_D}){{6}}")
_REACH = 60
_WECHAT_LETTERS = re.compile("[VvWw][Xx]|加[Vv]")
_FIVE_DIGITS = re.compile(f"{_D}{{5}}")
# words in front of an item that say nothing without it: removed with it
_LABELS = {
    "id_card": re.compile(f"(?:公民身份号码|身份证号码|身份证号|身份证){_COLON}$"),
    "bank_card": re.compile(f"(?:银行卡号|银行账号|卡号|账号){_COLON}$"),
    "phone": re.compile(f"(?:联系|咨询|服务|客服)?(?:{_LABEL_PHONE}|联系方式){_COLON}$"),
    "mail": re.compile(f"(?:电子邮箱|电子邮件|邮箱|邮件|[Ee]-?[Mm]ail){_COLON}$"),
    "qq": re.compile(f"{_QQ}(?:[ 　]{{0,2}}[：:是为])?[ 　]{{0,2}}$"),
    "wechat": re.compile(f"(?:加?{_WECHAT}|加[Vv][Xx]?)[ 　]{{0,2}}[：:]?[ 　]{{0,2}}$"),
}
_LABEL_CHARACTERS = 16


def _is_id_card(text: str) -> bool:
    """Return whether the date of birth exists and the last character is the check digit."""
    digits = "".join(str(int(c)) if c.isdigit() else "X" for c in text)
    try:
        born = datetime.date(int(digits[6:10]), int(digits[10:12]), int(digits[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(digits[:17]))
    return born.year >= 1850 and "10X98765432"[total % 11] == digits[17]


def _is_bank_card(text: str) -> bool:
    """Check 16 to 19 digits by Luhn's formula."""
    digits = [int(character) for character in text if character.isdigit()]
    doubled = [digit if place % 2 == 0 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(reversed(digits))]
    return 16 <= len(digits) <= 19 and sum(doubled) % 10 == 0 and len(set(digits)) > 2


# what a number must stand behind to be a card of an issuer that is not among _ISSUERS
_CARD_LABEL = re.compile(
    "(?:银行|信用|储蓄|借记|工资|社保)卡|卡号|账号|帐号|账户|帐户|户名|开户行?|收款|汇款|转账"
    "|[工农中建交招]行|(?:工商|农业|建设|交通|招商|邮储|民生|光大|中信|浦发|兴业|平安|华夏|广发)银行|(?i:card|visa|mastercard|iban)"
)
_CARD_REACH = 24
# the first six digits of debit and credit cards that Chinese banks issue under UnionPay's 62, from their own pages
_ISSUER_NUMBERS = """
620058 620061 620062 620200 621081 621096 621098 621212 621225 621226 621256 621281 621282 621283 621284 621285
621336 621467 621483 621485 621486 621558 621559 621619 621621 621660 621661 621662 621663 621665 621666 621667
621668 621669 621671 621700 621721 621722 621723 621724 621725 621785 621786 621788 621790 621792 621797 621798
621799 622150 622151 622155 622156 622157 622181 622188 622199 622200 622202 622203 622208 622230 622258 622259
622260 622261 622262 622280 622298 622516 622517 622518 622521 622522 622523 622568 622575 622576 622577 622578
622579 622580 622581 622582 622588 622598 622609 622615 622616 622617 622618 622622 622630 622631 622632 622637
622638 622655 622660 622661 622662 622663 622664 622665 622666 622668 622669 622670 622671 622672 622673 622690
622691 622692 622696 622698 622700 622725 622728 622752 622753 622754 622755 622756 622757 622758 622759 622760
622761 622762 622763 622845 622846 622848 622849 622908 622909 622966 622986 622989 623052 623058 623059 623062
"""
_ISSUERS = frozenset(_ISSUER_NUMBERS.split())
_CHECKS: dict[str, Callable[[str], bool]] = {"id_card": _is_id_card, "bank_card": _is_bank_card}


def _has_issuer(text: str) -> bool:
    """Return whether a number begins with that of a Chinese issuer; snapshots, orders and times have 16 digits too."""
    return re.sub("[ -]", "", text)[:6] in _ISSUERS


def _has_card_label(text: str, start: int) -> bool:
    """Return whether a word of banks and their cards stands shortly before a number, in its line."""
    before = text[max(0, start - _CARD_REACH) : start]
    return _CARD_LABEL.search(before[before.rfind("\n") + 1 :]) is not None


def find_private(text: str, kinds: Sequence[str] = KINDS) -> list[tuple[str, int, int]]:
    """Return (kind, start, end) of every item, in order and without overlaps: an earlier kind goes first."""
    found: list[tuple[str, int, int]] = []
    everywhere = [(0, len(text))]
    runs = [match.span() for match in _DIGIT_RUN.finditer(text)]
    numbers = _around(text, _MANY_DIGITS, runs)
    places = {
        "id_card": numbers,
        "bank_card": numbers,
        "phone": numbers,
        "mail": everywhere if "@" in text or "＠" in text else [],
        "qq": _around(text, _FIVE_DIGITS, runs),
        "wechat": everywhere if _may_have_wechat(text) else [],
    }
    if not any(places.values()):
        return found
    for kind in KINDS:
        if kind not in kinds:
            continue
        check = _CHECKS.get(kind)
        for pattern in _PATTERNS_OF[kind]:
            more: list[tuple[str, int, int]] = []
            ahead = 0  # of `found`, the first that does not end before the match; both are in order
            for first, last in places[kind]:
                for match in _COMPILED[pattern].finditer(text, first, last):
                    start, end = match.span("item")
                    while ahead < len(found) and found[ahead][2] <= start:
                        ahead += 1
                    is_free = ahead == len(found) or found[ahead][1] >= end
                    is_card = kind != "bank_card" or _has_issuer(match["item"]) or _has_card_label(text, start)
                    if is_free and is_card and (check is None or check(match["item"])):
                        more.append((kind, start, end))
            if more:
                found = sorted([*found, *more], key=lambda item: item[1])
    return found


def _may_have_wechat(text: str) -> bool:
    """Return whether one of the names of WeChat may be there: 微信 and its like, WeChat, VX, 加V."""
    if "信" in text and any(name in text for name in ("微信", "薇信", "威信", "V信", "v信")):
        return True
    if "hat" in text and ("echat" in text or "eChat" in text):
        return True
    return any(letter in text for letter in "xX加") and _WECHAT_LETTERS.search(text) is not None


def _around(text: str, pattern: re.Pattern[str], runs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the places around what `pattern` finds in runs of digits, wide enough for an item with its label and what
    must not follow.
    """
    places: list[tuple[int, int]] = []
    for first, last in runs:
        for match in pattern.finditer(text, first, last):
            start, end = max(0, match.start() - _REACH), min(len(text), match.end() + _REACH)
            if places and start <= places[-1][1]:
                places[-1] = (places[-1][0], end)
            else:
                places.append((start, end))
    return places


def hide_private(text: str, mode: Literal["mask", "remove"], kinds: Sequence[str] = KINDS) -> tuple[str, int]:
    """Return (text, items hidden). Removing can join what stood on both sides to another item: it is looked for
    again.
    """
    total = 0
    while found := find_private(text, kinds):
        total += len(found)
        parts, position = [], 0
        for kind, start, end in found:
            before = text[position:start]
            if mode == "remove":
                label = _LABELS[kind].search(before[-_LABEL_CHARACTERS:])
                if label is not None:
                    before = before[: len(before) - len(label[0])]
            parts += [before, MASKS[kind] if mode == "mask" else ""]
            position = end
        text = "".join([*parts, text[position:]])
    return text, total
