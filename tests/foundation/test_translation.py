"""Chinese: chosen by the environment or `--lang`, found by the finished message, and nothing else changed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pangu.cli import main
from pangu.foundation import best_effort, translation
from pangu.foundation.catalogue import LONGEST, Catalogue, read_catalogue
from pangu.foundation.page import page


@pytest.fixture
def chinese() -> Iterator[None]:
    translation.use_language("zh")
    yield
    translation.use_language("en")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.GBK", "LC_MESSAGES": "en_US.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_TW"}, "zh"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "zh_HK"}, "zh"),
        ({"LANG": "zh_CN", "LC_ALL": "C"}, "en"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "zh_CN:en"}, "zh"),
        ({"LANG": "C", "LANGUAGE": "zh_CN"}, "en"),
        ({"LC_ALL": "", "LANG": "zh"}, "zh"),
        ({"LANG": "zha_CN"}, "en"),
        ({}, "en"),
    ],
)
def test_the_variables_are_read_in_the_order_of_posix(environment: dict[str, str], expected: str) -> None:
    assert translation.language_of_environment(environment) == expected


def test_the_option_stands_anywhere_and_may_be_wrong(capsys) -> None:
    try:
        for words in (["--lang", "zh", "trian"], ["trian", "--lang=zh"]):
            assert main(words) == 2
            assert (
                capsys.readouterr().err
                == "错误：未知的动词 'trian'；或许应为 'train'；`python -m pangu --help` 列出全部动词\n"
            )
        assert main(["sizes", "--lang", "fr"]) == 2 and "known: en, zh" in capsys.readouterr().err
        assert main(["sizes", "--lang"]) == 2 and "known: en, zh" in capsys.readouterr().err
        assert main(["train", "no.yaml", "--json", "--lang", "zh"]) == 2
        assert "无法读取：没有这个文件或目录" in json.loads(capsys.readouterr().out)["error"]
        assert translation.taken_option(["a", "--", "--lang", "zh"]) == (None, ["a", "--", "--lang", "zh"])
    finally:
        translation.use_language("en")


def test_help_is_chinese_and_no_line_is_too_long(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["generate", "--help", "--lang", "zh"])
    translation.use_language("en")
    out = capsys.readouterr().out
    assert out.startswith("用法: python -m pangu generate") and "位置参数" in out and "显示本帮助并退出" in out
    assert "    python -m pangu generate runs/tiny --prompt 今天天气" in out  # examples stay
    body = out.partition("选项:")[2]
    assert all(translation.width_of(line) <= 80 for line in body.splitlines())


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("a b.yaml: cannot be written: No space left on device", "a b.yaml：无法写入：磁盘空间不足"),
        ("x: field 'text': 1.5 is not a whole number; nearest: 2", "x：字段 'text'：1.5 不是整数；最接近的合法值：2"),
        ("x.yaml:3: field 'a.b': is unknown; did you mean 'c'?", "x.yaml:3：字段 'a.b'：未知；或许应为 'c'"),
        ("error: something that nobody translated", "错误：something that nobody translated"),
        ("nothing of this is known", "nothing of this is known"),
        ("今天天气 {x} %s \\d", "今天天气 {x} %s \\d"),
        ("", ""),
    ],
)  # fmt: skip
def test_a_finished_message_finds_its_chinese(chinese, message: str, expected: str) -> None:
    assert translation.translated(message) == expected


def test_what_the_user_wrote_stays_as_it_is() -> None:
    catalogue = Catalogue(
        {"field '{name}': {what}": "字段 '{name}'：{what}", "is missing": "缺失", "a text": "一段文本"}
    )
    assert catalogue.translate("field 'is missing': is missing") == "字段 'is missing'：缺失"
    assert catalogue.translate("{name} is missing") == "{name} is missing"
    assert catalogue.translate("field 'a text': 'a text'") == "字段 'a text'：'a text'"
    long = "is missing; " * LONGEST
    assert catalogue.translate(long) == long
    braces = Catalogue({'write {{"text": ..}} for {name}': '请为 {name} 写 {{"text": ..}}'})
    assert braces.translate('write {"text": ..} for {x}') == '请为 {x} 写 {"text": ..}'


def test_notices_are_translated_and_english_without_a_choice(capsys) -> None:
    best_effort.warn("interrupted")
    translation.use_language("zh")
    best_effort.warn("interrupted")
    translation.use_language("en")
    assert capsys.readouterr().err == "interrupted\n已中断\n"


def test_a_page_is_translated_where_people_read_it(chinese) -> None:
    body = (
        "<main><h2>Samples</h2><pre>Samples</pre><p translate=\"no\">Samples <b>Samples</b></p>"
        '<img alt="Loss" src="Loss"><td>Loss</td> <script>"Loss"</script></main>'
    )  # fmt: skip
    text = page("Loss", body)
    assert '<html lang="zh-CN">' in text and "<title>损失</title>" in text
    assert '<h2>样例</h2><pre>Samples</pre><p translate="no">Samples <b>Samples</b></p>' in text
    assert '<img alt="损失" src="Loss"><td>损失</td> <script>"Loss"</script>' in text


def test_a_terminal_without_chinese_characters_gets_english(monkeypatch, capsys) -> None:
    class Ascii:
        encoding = "ascii"

    assert translation.can_show_chinese()
    monkeypatch.setattr("sys.stderr", Ascii())
    assert not translation.can_show_chinese()


def test_a_catalogue_is_read_as_gettext_has_it(tmp_path: Path) -> None:
    path = tmp_path / "x.po"
    path.write_text(
        'msgid ""\nmsgstr ""\n"Language: zh_CN\\n"\n\n#: a.py\nmsgid "a \\"b\\" "\n"c\\n"\nmsgstr "甲\\\\n"\n\n'
        'msgid "open"\nmsgstr ""\n',
        encoding="utf-8",
    )
    assert read_catalogue(path) == {'a "b" c\n': "甲\\n"}


def test_lines_break_where_chinese_may_break() -> None:
    assert translation.wrapped("一二三，四五六 word 七", 8) == ["一二三，", "四五六", "word 七"]
    assert translation.wrapped("plain words only", 9) == ["plain", "words", "only"]
