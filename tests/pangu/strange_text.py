"""Text that meets every rule of the segmenter and of the normaliser, far more often than real text does."""

import importlib.util
import random
from collections.abc import Iterator
from pathlib import Path

from hypothesis import strategies as st

from pangu.tokenizer.segmentation.dictionary_arrays import read_dictionary

_jieba = importlib.util.find_spec("jieba")
assert _jieba and _jieba.origin
WORDS = sorted(read_dictionary(Path(_jieba.origin).with_name("dict.txt"))[0])

HAN = [chr(point) for point in range(0x4E00, 0x9FD6)]
FRAGMENTS = (
    WORDS,
    WORDS,
    HAN,
    # words of the dictionary with other characters than Han, and parts of them
    [word for word in WORDS if not all("\u4e00" <= character <= "\u9fd5" for character in word)],
    [word[:-1] for word in WORDS[::97]],
    # Han that jieba's expressions leave out: past U+9FD5, extensions A and B, compatibility
    [*map(chr, range(0x9FD6, 0xA000)), "㐀", "䶵", "\U00020000", "𠮷", "\U0002fa1d", "豈", "﨑", "〇", "々"],
    ["。", "，", "！", "？", "、", "《", "》", "“", "”", "…", "——", "·"],
    [*"abcxyzABCXYZ0123456789"],
    [*"+#&._%-"],
    [*"()[]{}<>/\\|@!?,;:'\"*=~^`$"],
    [
        "3.14",
        "3.14%",
        "1.2.3",
        "50%",
        "%AB%E4",
        "a.b.c",
        "v1.0-rc2",
        "x_y-z",
        "C++",
        "c#",
        "AT&T",
        "A.5%",
        ".5",
        "5.",
        "-1",
    ],
    ["github.com", "https://a.b/c?d=1&e=%20", "gold-miner", "hello", "World", "iPhone", "-------", "...", "www."],
    [
        " ",
        "  ",
        "\n",
        "\r",
        "\r\n",
        "\n\r",
        "\t",
        "\v",
        "\f",
        "\x1c",
        "\x1f",
        "\x85",
        "\xa0",
        "\u2003",
        "\u2028",
        "\u3000",
    ],
    ["\0", "\x01", "\x7f", "\u200b", "\u200d", "\ufeff", "\ufffd", "\ufffe", "\U0010ffff"],
    ["▁", "▂", "▃", "▅", "⁇", "<eot>", "<pad>", "<s>", "</s>", "<unk>", "<0x41>", "<sep>"],
    [
        "é",
        "e\u0301",
        "ñ",
        "ﬁ",
        "Ｗ",
        "ｶﾞ",
        "か\u3099",
        "㈱",
        "①",
        "℃",
        "½",
        "ﷺ",
        "゛",
        "¨",
        "가",
        "\u1100\u1161",
        "ж",
        "ع",
        "ก",
    ],
    ["😀", "👨‍👩‍👧", "🇨🇳", "❤️", "𝐀", "🈂"],
)

strange_texts = st.lists(st.one_of([st.sampled_from(fragments) for fragments in FRAGMENTS]), max_size=30).map("".join)


def strange_lines(seed: int, size: int) -> Iterator[str]:
    """Lines of about `size` bytes together, half of their fragments words."""
    generator = random.Random(seed)
    while size > 0:
        line = ""
        for _ in range(generator.randrange(40)):
            kind = generator.choice(FRAGMENTS) if generator.random() < 0.5 else WORDS
            line += generator.choice(kind)
        size -= len(line.encode()) + 1
        yield line
