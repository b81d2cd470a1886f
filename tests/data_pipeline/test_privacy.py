"""Private data: every kind in its forms, what only looks like it, and hiding twice is hiding once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.stages.clean.privacy import KINDS, MASKS, find_private, hide_private


def identity_card(area: int, born: str, order: int) -> str:
    """With its check digit, by the standard's weights."""
    digits = f"{area:06d}{born}{order:03d}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return digits + "10X98765432"[sum(int(d) * w for d, w in zip(digits, weights, strict=True)) % 11]


def bank_card(first: str) -> str:
    return next(first + str(d) for d in range(10) if _luhn(first + str(d)))


def _luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        ("phone", "13800138000"),
        ("phone", "138-0013-8000"),
        ("phone", "138 0013 8000"),
        ("phone", "+86 13800138000"),
        ("phone", "+8613800138000"),
        ("phone", "１３８００１３８０００"),
        ("phone", "010-62345678"),
        ("phone", "0755-26345678转123"),
        ("phone", "（021）62345678"),
        ("phone", "400-820-8820"),
        ("id_card", "11010519491231002X"),
        ("id_card", identity_card(310104, "19880229", 17)),
        ("bank_card", bank_card("622202100000012345")),
        ("bank_card", "6222 0210 0000 0123 45" + bank_card("622202100000012345")[-1]),
        ("mail", "zhang.san+a@mail.example.com.cn"),
    ],
)
def test_items(kind: str, item: str) -> None:
    text = f"资料：{item}，其余不变。"
    assert find_private(text) == [(kind, 3, 3 + len(item))]
    assert hide_private(text, "mask") == (f"资料：{MASKS[kind]}，其余不变。", 1)
    assert find_private(text, [other for other in KINDS if other != kind]) == []


@pytest.mark.parametrize(
    ("text", "masked", "removed"),
    [
        ("请加QQ：12345678。", "请加QQ：[QQ号]。", "请加。"),
        ("QQ群 123456789", "QQ群 [QQ号]", ""),
        ("微信号：abc_def123！", "微信号：[微信号]！", "！"),
        ("加微信 abc123456 了解", "加微信 [微信号] 了解", " 了解"),
        ("VX: hello-world1", "VX: [微信号]", ""),
        ("联系电话：62345678", "联系电话：[电话]", ""),
        ("邮箱：a@b.com，谢谢", "邮箱：[邮箱]，谢谢", "，谢谢"),
    ],
)
def test_items_behind_a_label(text: str, masked: str, removed: str) -> None:
    assert hide_private(text, "mask")[0] == masked
    assert hide_private(text, "remove")[0] == removed


@pytest.mark.parametrize(
    "text",
    [
        "11010519491231002Y",
        "110105194912310021",
        identity_card(310104, "19880230", 17),
        "圆周率3.13800138000",
        "订单1380013800012345",
        "2019-01-02 12:30:45",
        "ISBN 978-7-302-12345-6",
        "微信 Android 版",
        "QQ空间",
        "user@localhost",
        "版本 1.13800138000.2",
        "/path/13800138000",
        "6222021234567890123",
        "GB/T 7714-2015",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert hide_private(text, "mask") == (text, 0)


PIECES = st.sampled_from(
    [
        "13800138000",
        "1380013",
        "8000",
        "a@b.cn",
        "QQ：",
        "12345",
        "微信：",
        "abc_12345",
        "电话：",
        "010-",
        "62345678",
        "@",
        "+86",
    ]
)


@given(st.lists(PIECES | st.text(st.sampled_from("0123 -加X字.@QV信微"), max_size=8), max_size=12).map("".join))
def test_hiding_twice_is_hiding_once(text: str) -> None:
    for mode in ("mask", "remove"):
        hidden, _ = hide_private(text, mode)
        assert hide_private(hidden, mode) == (hidden, 0) and find_private(hidden) == []


def test_many_items_take_linear_time() -> None:
    assert len(find_private("13812345678，a@b.cn，QQ：1234567。\n" * 20_000)) == 60_000


def test_long_lines_take_linear_time() -> None:
    for piece in ("a", "1", "1-", "a.", "微信", "电话：", "@a.", "QQ", "(0", "+86 "):
        hide_private(piece * 100_000, "mask")
