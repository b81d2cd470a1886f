# ruff: noqa: E501 (markup)
"""What a reader sees as one word comes out as one word: joiners, superscripts, readings, formulas, old mistakes."""

import time

import pytest

from data_pipeline.extraction.extract import extract
from data_pipeline.extraction.formulas import mark_formulas
from tests.data_pipeline.extraction.pages import SENTENCES, article


def line_with(inside: str, sign: str) -> str:
    """Return the line of the extracted text that holds `sign`."""
    text = extract(article(f"<p>{inside}</p>")).text
    (line,) = [line for line in text.split("\n") if sign in line]
    return line


@pytest.mark.parametrize(
    ("markup", "words"),
    [
        ("他&#8203;们&#x200b;在&#8204;河&#x2060;边散&#65279;步，天色慢慢暗了下来。", "他们在河边散步，天色慢慢暗了下来。"),
        ("软连&shy;字符和 &lrm;方向标记&rlm; 也是看不见的，不占位置。", "软连字符和 方向标记 也是看不见的，不占位置。"),
        ("一家人👨&zwj;👩&#x200d;👧在河边，旗子🏳️&zwj;🌈迎风飘着。", "一家人👨‍👩‍👧在河边，旗子🏳️‍🌈迎风飘着。"),
        ("末尾的连接符👩&zwj;没有下文，应当去掉它才对。", "末尾的连接符👩没有下文，应当去掉它才对。"),
        ("波斯语里的 می&zwnj;خواهم 有一个不连字符，要留着。", "波斯语里的 می\u200cخواهم 有一个不连字符，要留着。"),
        ("中文&emsp;和&ensp;英文 English&thinsp;word，　全角空格。", "中文 和 英文 English word， 全角空格。"),
    ],
)  # fmt: skip
def test_zero_width_characters_leave_words_whole(markup: str, words: str) -> None:
    assert line_with(markup, words[:4]) == words


@pytest.mark.parametrize(
    ("markup", "words"),
    [
        ("光速约为3×10<sup>8</sup>米每秒，面积是25m<sup>2</sup>，很大。", "光速约为3×10⁸米每秒，面积是25m²，很大。"),
        ("水是H<sub>2</sub>O，硫酸根是SO<sub>4</sub><sup>2-</sup>，记住它。", "水是H₂O，硫酸根是SO₄²⁻，记住它。"),
        ("误差是10<sup>-15</sup>，指数是x<sup>a+b</sup>，底是y<sup>k</sup>。", "误差是10⁻¹⁵，指数是x^{a+b}，底是y^k。"),
        ("第二版 2<sup>nd</sup> 的商标 Acme<sup>TM</sup> 没有变化。", "第二版 2nd 的商标 AcmeTM 没有变化。"),
        ("见文献<sup>[3]</sup>和脚注<sup><a href=#f>12</a></sup>，以及<a href=#g><sup>7</sup></a>。", "见文献[3]和脚注[12]，以及[7]。"),
        ("没有关上的 2<sup>10<p>下一段的文字照常读出来，一个字不少。</p>", "没有关上的 210"),
    ],
)  # fmt: skip
def test_superscripts_and_subscripts_are_told_from_digits_on_the_line(markup: str, words: str) -> None:
    assert line_with(markup, words[:4]) == words


@pytest.mark.parametrize(
    ("markup", "words"),
    [
        ("<ruby>饕<rp>(</rp><rt>tāo</rt><rp>)</rp>餮<rp>(</rp><rt>tiè</rt><rp>)</rp></ruby>是传说里的凶兽。", "饕餮是传说里的凶兽。"),
        ("这个<ruby>虐待<rt>ぎゃくたい</rt></ruby>词在日语里也有，写法相同。", "这个虐待词在日语里也有，写法相同。"),
        ("没有关的<ruby>漢<rt>かん<rb>字<rt>じ</ruby>读音也不留下来，句子照旧。", "没有关的漢字读音也不留下来，句子照旧。"),
    ],
)  # fmt: skip
def test_readings_are_not_glued_to_their_words(markup: str, words: str) -> None:
    assert line_with(markup, words[:3]) == words


QUADRATIC = (
    "<math><mi>x</mi><mo>=</mo><mfrac><mrow><mo>−</mo><mi>b</mi><mo>±</mo><msqrt><msup><mi>b</mi><mn>2</mn></msup><mo>−</mo>"
    "<mn>4</mn><mi>a</mi><mi>c</mi></msqrt></mrow><mrow><mn>2</mn><mi>a</mi></mrow></mfrac></math>"
)
FORMULAS = {
    "MathML with its TeX": (
        '<math alttext="E=mc^2"><semantics><mrow><mi>E</mi></mrow><annotation encoding="application/x-tex">E=mc^2</annotation></semantics></math>',
        "$E=mc^2$",
    ),
    "MathML with a description": ('<math alttext="a&lt;b" display="block"><mi>a</mi></math>', "$$a<b$$"),
    "MathML alone": (QUADRATIC, r"$x=\frac{-b\pm\sqrt{b^2-4ac}}{2a}$"),
    "MathML with limits": (
        "<m:math><m:munderover><m:mo>∑</m:mo><m:mrow><m:mi>i</m:mi><m:mo>=</m:mo><m:mn>1</m:mn></m:mrow><m:mi>n</m:mi></m:munderover><m:msub><m:mi>α</m:mi><m:mi>i</m:mi></m:msub><m:mi>x</m:mi></m:math>".replace(
            "m:", ""
        ),
        r"$\sum_{i=1}^n\alpha_ix$",
    ),
    "MathJax 2": (
        '<span class="MathJax_Preview">f(x)</span><span class="MathJax" id="MathJax-Element-1-Frame"><nobr><span>f</span></nobr></span><script type="math/tex">f(x)=x^2+1</script>',
        "$f(x)=x^2+1$",
    ),
    "MathJax 2, alone on its line": ('<script type="math/tex; mode=display">a<b</script>', "$$a<b$$"),
    "MathJax 3": (
        '<mjx-container class="MathJax" jax="CHTML"><mjx-math><mjx-mi><mjx-c class="mjx-c1D465"></mjx-c></mjx-mi></mjx-math><mjx-assistive-mml><math><msup><mi>x</mi><mn>2</mn></msup></math></mjx-assistive-mml></mjx-container>',
        "$x^2$",
    ),
    "KaTeX": (
        r'<span class="katex"><span class="katex-mathml"><math><semantics><mrow><mi>x</mi></mrow><annotation encoding="application/x-tex">x=\frac{-b}{2a}</annotation></semantics></math></span><span class="katex-html" aria-hidden="true"><span class="mord">x</span><span>=</span><span>2</span><span>a</span></span></span>',
        r"$x=\frac{-b}{2a}$",
    ),
    "a picture with its TeX": ('<img eeimg="1" src="//x/equation?tex=a%5E2" alt="a^2+b^2=c^2">', "$a^2+b^2=c^2$"),
    "a picture whose address is TeX": ('<img src="https://latex.codecogs.com/gif.latex?x%5E2+1">', "$x^2+1$"),
    "an encyclopedia": (
        r'<span class="mwe-math-element"><span class="mwe-math-mathml-inline" style="display: none;"><math><annotation encoding="application/x-tex">{\displaystyle E=mc^{2}}</annotation></math></span><img src="https://w.org/api/rest_v1/media/math/render/svg/9" class="mwe-math-fallback-image-inline" alt="{\displaystyle E=mc^{2}}"></span>',
        "$E=mc^{2}$",
    ),
    "a question site": ('<span class="ztext-math" data-tex="a^2&lt;b">a<span>2</span> b</span>', "$a^2<b$"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_is_its_latex_once(name: str) -> None:
    markup, latex = FORMULAS[name]
    assert (
        line_with(f"由此可得{markup}这个关系，它叫定理，用处很多。", "由此可得")
        == f"由此可得{latex}这个关系，它叫定理，用处很多。"
    )


def test_a_picture_with_a_description_in_words_is_no_formula() -> None:
    markup = '<img class="math-photo tex" alt="数学老师在上课" src=x.jpg>'
    assert mark_formulas(markup) == markup


@pytest.mark.parametrize(
    "markup",
    [
        "<math>" * 300_000,
        '<script type="math/tex">' * 100_000,
        "katex" + "<span " * 400_000,
        "katex <img class=tex " * 100_000,
        "<math>" + "<annotation tex>" * 200_000 + "</math>",
        "<math>" + "<mrow>" * 3000 + "</math>" + "<math><mrow>" * 100_000,
    ],
)
def test_formulas_without_end_cost_no_more_than_their_length(markup: str) -> None:
    before = time.process_time()
    mark_formulas(markup)
    # two seconds of work for two megabytes, twentyfold what it takes; quadratic work would take hours
    assert time.process_time() - before < 40


def test_a_page_encoded_twice_comes_back_with_its_no_break_spaces() -> None:
    words = "你们好，我们一起去图书馆看书，你要不要来？他说你先走吧，我在这里等你。"
    assert "\u00a0" in words.encode().decode("latin-1")  # 你 holds the byte A0
    html = article(f"<p>{words}</p>").decode().encode().decode("latin-1").encode()
    assert words in extract(html).text
    windows = article("<p>天气很好，大家都去看花，“真好看”，他说。</p>").decode().encode().decode("cp1252", "replace")
    assert "天气很好" in extract(windows.encode()).text


def test_a_french_page_keeps_its_accents() -> None:
    words = "Il était une fois, à la façon des æsthètes, un prêtre très âgé. " * 4
    assert words.strip() in extract(f"<meta charset=utf-8><p>{words}</p><p>{SENTENCES[0]}</p>".encode()).text
