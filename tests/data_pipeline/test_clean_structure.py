"""Cleaning that keeps good text: structure, the share of Chinese, markup, publishers' lines, conversions, presets."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_pipeline.dedup_check import chinese_grammar
from data_pipeline.engine.heavy_rules import HeavyRules
from data_pipeline.recipe import Recipe
from data_pipeline.stages.clean import characters, publisher_lines, structure
from data_pipeline.stages.clean.prose import prose
from data_pipeline.stages.clean.stage import Settings, clean_document, measure
from data_pipeline.stages.clean.structure import CODE, PROSE, TABLE, line_kinds
from pangu.foundation.errors import UserError
from tests.data_pipeline.conftest import make_text, run_recipe, write_jsonl
from tests.data_pipeline.test_privacy import bank_card

ANY = Settings(minimum_characters=0, minimum_han_share=0)
CODE_TEXT = """判断文章是不是新的，可以用下面的函数，它先比较，再返回真或者假。
```python
def newer(a, limit):
\tif a is None:
\t\treturn False
\tif a < limit:
\t\treturn False


\treturn '★ 漢字 \u3000 Ａ'
```
上面的函数里有两处返回假，每一处都不能少。"""
TABLES = """第一张表
| 年份 | 产量 |
|------|------|
| 2021 | 1200 |

第二张表
| 地区 | 产量 |
|------|------|
| 东部 | 700 |"""
FORMULAS = "公式\n" + "又\n".join("$$\n\\begin{aligned}\na &= b \\\\\n\\end{aligned}\n$$\n" for _ in range(2)) + "完。"
REFRAIN = "\n".join(
    [
        "明月几时有把酒问青天",
        "不知天上宫阙今夕何年",
        "明月几时有把酒问青天",
        "我欲乘风归去又恐琼楼",
        "高处不胜寒起舞弄清影",
    ]
)


@pytest.mark.parametrize(
    "text",
    [
        CODE_TEXT,
        TABLES,
        REFRAIN,
        "说明如下：\n\n    import os\n    os.getcwd()\n    import os\n    os.getcwd()\n\n以上是全部的代码。",
        "甲：今天的天气真的很好啊\n乙：是的，我也这样觉得的\n甲：今天的天气真的很好啊\n乙：是的，我也这样觉得的\n甲：再见",
        "名称\t数量\t单价\n\t3\t5\n\t3\t5\n\t3\t5\n苹果\t\t7",
        "+--------+--------+\n| 名称   | 数量   |\n+--------+--------+\n| 苹果   | 3      |\n+--------+--------+",
        "第一节的标题在这里\n==================\n\n正文一。\n\n第二节的标题在这里\n==================\n\n正文二。",
        "推荐指数：★★★★☆，雌（♀）雄（♂）\n■ 第一条\n■ 第二条\n├── src\n│   └── main.c\n| ✓ | ✗ |\n|---|---|",
        FORMULAS,
    ],
)
def test_structure_stays_as_it_is(text: str) -> None:
    assert clean_document(text, None, ANY).text == text


def test_what_is_no_structure_is_still_cleaned() -> None:
    paragraph = "这是一个会重复出现的段落，出现两次。"
    assert clean_document(f"{paragraph}\n{paragraph}", None, ANY).text == paragraph
    assert (
        clean_document(f"\t\t{paragraph}\n\u3000\u3000后文，也是缩进的。", None, ANY).text
        == f"{paragraph}\n后文，也是缩进的。"
    )
    spam = "点击这里下载最新版本软件\n" * 10
    assert clean_document(spam, None, ANY).text == "点击这里下载最新版本软件"
    assert clean_document("□□□□□□□□□□", None, ANY).text == "□" * 10
    assert clean_document("★★★★★★★★热卖\n━━━━━━━━━━\n正文。", None, ANY).text == "热卖\n\n正文。"
    # a fence that nothing closes and that names no language may be the end of one
    assert clean_document(f"```\n{paragraph}\n{paragraph}", None, ANY).text == f"```\n{paragraph}"
    assert clean_document(CODE_TEXT, None, Settings(preset="pangu-alpha")).text != CODE_TEXT


def test_kinds_of_lines() -> None:
    assert line_kinds(["正文", "~~~", "```", "~~~", "正文"]) == [PROSE, CODE, CODE, CODE, PROSE]
    assert line_kinds(["- 项目", "    - 子项目，说明", "    - 另一个"]) == [PROSE] * 3
    assert line_kinds(["a | b", "-|-", "1 | 2", "", "后"]) == [TABLE] * 3 + [PROSE] * 2
    assert line_kinds(["<pre>", "首页", "</pre>"]) == [CODE] * 3
    assert not structure.has_structure(make_text(1))


def test_the_share_of_chinese_is_that_of_words_in_prose() -> None:
    text = "使用 `TensorFlowDataLoader` 读取数据，参见 https://example.com/a?x=1 的说明。\n```python\nimport a\n```"
    assert measure(text, "characters")[1] < 0.3 < 0.9 < measure(text, "words")[1]
    assert prose(text) == "使用  读取数据，参见  的说明。"
    assert measure("The quick brown fox 跳过", "words")[1] == pytest.approx(2 / 6)
    assert measure("とうきょうは首都です", "words")[1] < 0.3
    assert measure("12345678901234567890 元", "words")[1] < 0.1


def test_markup_that_was_left_goes() -> None:
    text = '<p>河边小镇。</p><br/>&nbsp;&nbsp;孩子们&hellip;&hellip;<a href="http://x.cn">点此</a>河水。&lt;div&gt;他们'
    assert clean_document(text, None, ANY).text == "河边小镇。\n\n孩子们……点此河水。\n他们"
    for kept in (
        "用 <div> 标签写 `<p>` 段落，a<b 且 c>d。",
        "#include <map>\n向量 vector<int>。",
        "```html\n<p>&nbsp;</p>\n```",
    ):
        assert clean_document(kept, None, ANY).text == kept
    mixed = "面积 <b>S</b>，若 a<b 且 b>c，则 a<c；若 a<i and i>b；&lt;div&gt; 是标签"
    assert clean_document(mixed, None, ANY).text == "面积 S，若 a<b 且 b>c，则 a<c；若 a<i and i>b；<div> 是标签"
    raised = "10<sup>8</sup> H<sub>2</sub>O x<sup>a+b</sup> 1<sup>st</sup> 见<sup>[3]</sup> a<SUB class=q>ij</SUB>"
    assert clean_document(raised, None, ANY).text == "10⁸ H₂O x^{a+b} 1st 见[3] a_{ij}"
    alone = '<input type=checkbox checked> 甲<video controls src="a.mp4"></video>乙<td nowrap>丙</td>'
    assert clean_document(alone, None, ANY).text == "甲乙丙"
    cells = "<table><tr><td>甲</td><td></td><td>丙</td></tr></table>"
    assert clean_document(cells, None, ANY).text == "甲\t\t丙"


@pytest.mark.parametrize(
    "row",
    [
        "首页 > 资讯 > 正文",
        "当前位置：首页 > 新闻中心 > 关于春季招生的若干说明",
        "您的位置: 网站首页 » 产品",
        "责任编辑：小王 版权所有，未经许可不得转载。",
        "（责任编辑：王小明）",
        "Copyright 2020 某某网 All Rights Reserved",
        "未经本网书面授权，任何单位及个人不得转载。",
    ],
)
def test_publishers_lines_go(row: str) -> None:
    assert publisher_lines.is_path(row) or publisher_lines.is_credit(row)
    assert clean_document(f"正文第一段。\n{row}\n正文第二段。", None, ANY).text == "正文第一段。\n正文第二段。"


@pytest.mark.parametrize(
    "row",
    [
        "编辑工作要求责任心。",
        "版权所有者享有的权利，包括发表、署名、修改、保护作品完整等，作者可以许可他人行使上述权利并依照约定获得报酬。",
        "点击 文件 > 打开 > 选择图片",
        "| 首页 > 新闻 | 说明 |",
    ],
)
def test_publishers_lines_spare_text(row: str) -> None:
    assert not publisher_lines.is_path(row) and not publisher_lines.is_credit(row)


def test_the_editor_at_the_end_of_a_paragraph_goes() -> None:
    assert clean_document("全文完。（责任编辑：王小明）", None, ANY).text == "全文完。"


def test_conversion_by_choice_and_by_detection() -> None:
    taiwan = "他看著窗外，聽著音樂。這本著作很著名，這個軟體。"
    found = "他看着窗外，听着音乐。这本著作很著名，这个软体。"
    assert clean_document(taiwan, None, ANY).text == found
    assert "软件" in clean_document(taiwan, None, ANY.model_copy(update={"simplify": "tw2sp"})).text
    assert "看著" in clean_document(taiwan, None, ANY.model_copy(update={"simplify": "t2s"})).text
    assert clean_document(taiwan, None, ANY.model_copy(update={"simplify": "off"})).text == taiwan
    assert "卫生" in clean_document("呢度嘅衞生，裏面飲茶。", None, ANY).text
    assert Settings(simplify=False).simplify == "off"  # type: ignore[arg-type]


def test_stamps_and_snapshots_are_no_bank_cards() -> None:
    text = '快照 snapshot = "434217889191428107"，提交时间戳 433305438660591626，另一个是 454654803134119937。'
    assert clean_document(text, None, ANY).text == text
    labelled, issued = bank_card("436742121788654321"), bank_card("622202100111624570")
    assert (
        clean_document(f"卡号：{labelled}。\n订单 {issued}。", None, ANY).text
        == "卡号：[银行卡号]。\n订单 [银行卡号]。"
    )
    assert labelled in clean_document(f"订单 {labelled}。", None, ANY).text


def test_symbols_of_texts() -> None:
    for text in ("★★★★☆", "♀♂", "□□□□□□□□", "│ ├── └──", "✓✗", "⚡"):
        assert characters.remove_symbols(text, keep_text_symbols=True) == (text, 0)
    assert characters.remove_symbols("\U0001f600\u200b★", keep_text_symbols=True)[0] == "★"


def test_presets_govern_both_stages_and_a_source_has_its_own(tmp_path: Path, recipe_at: Callable[..., Path]) -> None:
    poem = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。"
    write_jsonl(tmp_path / "poems.jsonl", [{"id": "poem", "text": poem}])
    write_jsonl(
        tmp_path / "pages.jsonl",
        [
            {"id": "short", "text": poem},
            {"id": "page", "text": next(iter(chinese_grammar.documents(1, seed=3, median=2000)))},
        ],
    )
    sources = [
        {"name": "poems", "paths": "poems.jsonl", "preset": "poetry"},
        {"name": "pages", "paths": "pages.jsonl"},
    ]
    out = tmp_path / "out"
    run_recipe(recipe_at(sources, ["read", "clean", "filter"]), out)
    kept = {row["id"]: row["text"] for row in pq.read_table(out / "documents").to_pylist()}
    assert kept.keys() == {"poem", "page"} and kept["poem"] == poem
    with pytest.raises(UserError, match=r"clean\.of_source: no source 'poem'; there are poems, pages"):
        Recipe.load(recipe_at(sources, ["read", {"clean": {"of_source": {"poem": {"preset": "poetry"}}}}]))


def test_a_rule_that_takes_most_of_a_source_is_said_at_once_with_the_command() -> None:
    heavy = HeavyRules("clean", "clean", Path("out"))
    assert heavy.add({"by_source": {"a": {"documents_in": 150, "dropped": {"han_share": 150}}}}) == []
    lines = heavy.add({"by_source": {"a": {"documents_in": 100, "dropped": {"han_share": 40, "too_short": 3}}}})
    assert len(lines) == 1 and "the rule han_share takes 76% of source a" in lines[0]
    assert "python -m data_pipeline inspect out --stage clean --reason han_share --source a" in lines[0]
    assert heavy.add({"by_source": {"a": {"documents_in": 10, "dropped": {"han_share": 10}}}}) == []
    heavy.add({"by_source": {"b": {"documents_in": 30, "dropped": {"too_short": 29}}}})
    assert ["`minimum_characters` of clean decides it" in line for line in heavy.finish()] == [True]
    assert heavy.add({}) == []


def test_good_technical_documents_keep_their_code_and_their_tables(shared: Path) -> None:
    from tests.benchmarks.kept import PRESETS, measure, texts_of

    total = [0, 0, 0, 0]
    for source, documents in (("oiwiki", 60), ("paddle_docs", 120), ("tidb_docs", 120), ("poetry", 300)):
        found = measure(texts_of(source, documents), PRESETS[source])
        assert found.kept >= 0.96 * found.documents, source
        total = [
            total[0] + found.fences, total[1] + found.fences_kept,
            total[2] + found.separators, total[3] + found.separators_kept,
        ]  # fmt: skip
    assert total[0] > 50 and total[1] >= 0.995 * total[0] and total[2] > 50 and total[3] >= 0.995 * total[2]


def test_the_cases(shared: Path) -> None:
    for path in (shared.parent / "cases" / "corpus").glob("clean_*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            text = json.loads(line)["text"]
            assert clean_document(text, None, ANY).text == text
