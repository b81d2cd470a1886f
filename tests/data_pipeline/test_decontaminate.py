"""Decontamination: the readers of evaluation sets, the kernel against a plain reference, hits, cuts, and the stage."""

import gzip
import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.cli import main
from data_pipeline.dedup_check import chinese_grammar
from data_pipeline.kernels import contamination
from data_pipeline.kernels.normal_form import normal_form, normal_form_table
from data_pipeline.recipe import Recipe
from data_pipeline.stages.decontaminate import evaluation_sets
from data_pipeline.stages.decontaminate import stage as decontaminate
from data_pipeline.stages.decontaminate.evaluation_sets import EvaluationText, texts_of
from data_pipeline.stages.decontaminate.stage import Evaluation, Hit, Settings
from pangu.foundation.errors import UserError
from tests.data_pipeline.conftest import contents, run_recipe, write_jsonl

SMALL_SHARDS = {"read": {"shard_bytes": 5000, "item_bytes": 20_000}}
PASSAGE = "战国无双三是由光荣开发的战国无双系列的正统第三续作，以三大故事为主轴，分别是关东三国志与战国三杰。"
QUESTION = "女孩在森林里遇到的那只狐狸后来为什么要离开她的家乡"
LAW = "中华人民共和国全国人民代表大会常务委员会关于修改部分法律的决定"


def squad(*contexts: str) -> str:
    paragraphs = [
        {
            "id": f"D{i}",
            "context": text,
            "qas": [{"question": QUESTION, "answers": [{"text": "三大", "answer_start": 1}]}],
        }
        for i, text in enumerate(contexts)
    ]
    return json.dumps({"version": "1", "data": [{"title": "游戏", "paragraphs": paragraphs}]}, ensure_ascii=False)


def found(content: str | bytes, fields: tuple[str, ...] | None = None) -> list[tuple[str, str]]:
    return list(texts_of(content.encode() if isinstance(content, str) else content, fields))


def test_squad_and_its_places() -> None:
    texts = dict(found(squad(PASSAGE)))
    assert texts["data[0].paragraphs[0].context"] == PASSAGE
    assert texts["data[0].paragraphs[0].qas[0].question"] == QUESTION
    assert list(dict(found(squad(PASSAGE), ("context",))).values()) == [PASSAGE]


def test_lists_of_turns_and_of_words_are_one_text() -> None:
    turns = json.dumps([[["男：你好，今天去哪里?", "女：我去公园散步。"], [{"choice": ["公园", "学校"]}], "1-1"]])
    assert ("[0][0]", "男：你好，今天去哪里?\n女：我去公园散步。") in found(turns)
    words = json.dumps({"segmented": [["红潮", "网", "，", "今天", "的", "新闻"]]}, ensure_ascii=False)
    assert found(words) == [("segmented[0]", "红潮网，今天的新闻")]


def test_json_lines_survive_a_damaged_line() -> None:
    lines = '{"sentence": "甲乙丙"}\n{"sentence": broken\n{"sentence": "丁戊己"}\n'
    assert [text for _, text in found(lines)] == ["甲乙丙", "丁戊己"]


def test_cloze_passages_end_where_numbers_begin_anew() -> None:
    text = "1 ||| 为了 让 森林 茂盛 。\n2 ||| XXXXX 每天 起来 。 ||| 啄木鸟\n1 ||| 有 一 隻 狐狸 。\n"
    assert found(text) == [("line 1", "为了让森林茂盛。XXXXX每天起来。"), ("line 3", "有一隻狐狸。")]


def test_gaps_divide_a_text(tmp_path: Path) -> None:
    path = tmp_path / "cloze.json"
    path.write_text(json.dumps([{"context": "森林里[BLANK1]，诶#idiom#没想到____我"}], ensure_ascii=False))
    (file,) = evaluation_sets.evaluation_files([str(path)])
    assert [text.text for text in evaluation_sets.read_evaluation_file(file, None)] == [
        "森林里",
        "，诶",
        "没想到",
        "我",
    ]


def test_tables_paragraphs_and_charsets() -> None:
    assert ("line 2, column 1", "双十一花呗提额在哪") in found("a\tb\n双十一花呗提额在哪\t1\n别的\t0\n")
    assert found("第一段。\n\n第二段。") == [("line 1", "第一段。"), ("line 3", "第二段。")]
    assert found((PASSAGE + "\n" + LAW + "\n").encode("gb18030"))[0] == ("line 1", PASSAGE)
    with pytest.raises(ValueError, match="not a text"):
        found(b"\x89PNG\r\n\0\0\0\1")


def test_compressed_files_are_bounded(tmp_path: Path) -> None:
    archive = tmp_path / "cft.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("cft/../../evil.json", squad(PASSAGE))
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(squad(LAW).encode()))
    files = evaluation_sets.evaluation_files([str(tmp_path)])
    texts = [text for file in files for text in evaluation_sets.read_evaluation_file(file, ("context",))]
    assert {text.text for text in texts} == {PASSAGE, LAW}
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("bomb.txt", b"0" * (300 << 20))
    archive.write_bytes(bomb.getvalue())
    with pytest.raises(UserError, match="grows more than"):
        list(evaluation_sets.read_evaluation_file(evaluation_sets.evaluation_files([str(archive)])[0], None))


def test_real_evaluation_sets_give_their_texts(shared: Path) -> None:
    expected = {
        "CMRC2018/ymcui__cmrc2018__cmrc2018_trial.json": "基于《跑跑卡丁车》与《泡泡堂》上所开发的游戏",
        "C3/nlpdata__c3__c3-d-dev.json": "男：听说你们公司要派你去南方工作?\n女：是呀",
        "CMRC2017/ymcui__cmrc2017__cloze.valid.doc_query": "为了让森林变得更加茂盛，大伙都在努力地工作着。",
        "CFT/cft/cft.test.human": "小虫儿的名字草丛里住着一只硬壳虫儿。",
        "CHID/CLUEbenchmark__FewCLUE__dev_few_all.json": "有时候我给你",
        "AFQMC/bigjeager__afqmc__dev.json": "双十一花呗提额在哪",
        "WebQA/zhangbo2008__chinese_ner_perfet__me_test.ann.json": "核电占发电量比例最大的是哪个国家?",
        "DRCD/DRCKnowledgeTeam__DRCD__DRCD_dev.json": "在歐洲，梵語的學術研究",
    }
    files = {
        str(file.path.relative_to(shared / "eval")): file
        for file in evaluation_sets.evaluation_files([str(shared / "eval")])
    }
    for name, begin in expected.items():
        texts = evaluation_sets.read_evaluation_file(files[name], None)
        assert any(text.text.startswith(begin) for text in texts), name
        assert files[name].set_name == name.split("/")[0]


ALPHABET = st.text(st.sampled_from("甲乙丙，。 A1漢"), max_size=60)


@given(st.lists(ALPHABET, max_size=5), st.lists(ALPHABET, min_size=1, max_size=4), st.integers(1, 6))
def test_kernel_finds_what_the_plain_search_finds(texts: list[str], evaluation: list[str], gram: int) -> None:
    table = normal_form_table(True)
    known = {
        normal_form(text, True)[i : i + gram]
        for text in evaluation
        for i in range(len(normal_form(text, True)) - gram + 1)
    }
    expected = [
        (row, i)
        for row, text in enumerate(texts)
        for i in range(len(normal_form(text, True)) - gram + 1)
        if normal_form(text, True)[i : i + gram] in known
    ]
    hashes, _ = contamination.grams(contamination.placed(pa.array(evaluation), table), gram)
    wanted = np.unique(hashes)
    placed = contamination.placed(pa.array(texts, pa.string()), table)
    matches = contamination.find(placed, gram, wanted, contamination.bit_map(wanted))
    assert list(zip(matches.rows.tolist(), matches.positions.tolist(), strict=True)) == expected
    for row, text in enumerate(texts):
        places = placed.places[placed.offsets[row] : placed.offsets[row + 1]]
        assert [normal_form(text[i], True) for i in places] == list(normal_form(text, True))


def hits_of(text: str, evaluation: list[str], common: tuple[str, ...] = (), **settings: object) -> list[Hit]:
    """The hits of one text; the n-grams of `common` count as frequent."""
    chosen = Settings(**{"gram": 8, **settings})
    sets = Evaluation.build([EvaluationText("s", "f", "p", text) for text in evaluation], chosen.gram)
    placed = contamination.placed(pa.array([text]), normal_form_table(True))
    matches = contamination.find(placed, chosen.gram, sets.wanted, sets.filled)
    hashes = [
        contamination.grams(contamination.placed(pa.array([c]), normal_form_table(True)), chosen.gram)[0]
        for c in common
    ]
    frequent = (
        np.isin(sets.wanted[matches.numbers], np.concatenate(hashes))
        if hashes
        else np.zeros(matches.numbers.size, bool)
    )
    return decontaminate.find_hits(matches.positions, matches.numbers, ~frequent, sets, chosen)


def test_a_hit_is_the_whole_stretch_and_an_edit_does_not_end_it() -> None:
    normal = normal_form(PASSAGE, True)
    (hit,) = hits_of("前面的话。" + PASSAGE + "后面的话。", [PASSAGE])
    assert (hit.start, hit.end, hit.text, hit.text_position) == (4, 4 + len(normal), 0, 0)
    edited = PASSAGE.replace("系列", "系統", 1)
    (hit,) = hits_of(edited, [PASSAGE])
    assert hit.end - hit.start == len(normal)
    (hit,) = hits_of(PASSAGE[10:], [LAW, PASSAGE])
    assert hit.text == 1 and normal[hit.text_position :] == normal_form(PASSAGE[10:], True)


def test_frequent_grams_make_no_hit_unless_the_stretch_is_long() -> None:
    assert hits_of("依照" + LAW + "办理。", [LAW], (LAW,)) == []
    (hit,) = hits_of(LAW + PASSAGE, [LAW + PASSAGE], (LAW,))
    assert hit.start >= len(normal_form(LAW)) - 7
    (hit,) = hits_of(LAW + PASSAGE, [LAW + PASSAGE], (LAW, PASSAGE), certain_characters=60)
    assert hit.start == 0


def test_what_counts() -> None:
    short, long = Hit(0, 22, 0, 0), Hit(50, 80, 1, 0)
    settings = Settings()
    assert decontaminate.counting([short, long], [200, 200], settings) == [False, True]
    assert decontaminate.counting([short], [22], settings) == [True]  # the whole evaluation text
    assert decontaminate.counting([short, short._replace(start=30, end=50)], [200, 200], settings) == [True, True]
    assert decontaminate.counting([short, short._replace(text=2)], [200, 200], settings) == [False, False]


def test_cuts_end_where_sentences_end() -> None:
    text = "一。" + "二" * 30 + "。三三三。HIT四四四。五五五。" + "六" * 30
    start = text.index("HIT")
    first, last = decontaminate.widened(text, start, start + 3, 12)
    assert text[first:last] == "三三三。HIT四四四。五五五。"
    assert decontaminate.widened(text, start, start + 3, 1000) == (0, len(text))
    assert decontaminate.without(text, [(first, last)]).startswith("一。二") and "HIT" not in decontaminate.without(
        text, [(first, last)]
    )


def records(out: Path, folder: str) -> dict[str, dict]:
    tables = [pq.read_table(path) for path in sorted((out / folder).glob("*.parquet"))]
    return {row["id"]: row for table in tables for row in table.to_pylist()}


@pytest.fixture
def corpus(tmp_path: Path) -> Callable[..., tuple[list[dict], Path]]:
    """Documents, some of them contaminated, and an evaluation set."""

    def write() -> tuple[list[dict], Path]:
        bodies = list(chinese_grammar.documents(30, seed=5, median=700))
        rows = [{"id": f"clean-{i}", "text": body} for i, body in enumerate(bodies[:20])]
        middle = bodies[20].find("\n", 200) if "\n" in bodies[20][200:] else 300
        rows.append({"id": "leak", "text": bodies[20][:middle] + "\n" + PASSAGE + "\n" + bodies[20][middle:]})
        rows.append({"id": "only", "text": PASSAGE})
        rows.append(
            {"id": "traditional", "text": bodies[21] + "\n" + PASSAGE.replace("战国", "戰 國").replace("，", "")}
        )
        many = [f"背景{i}。{body}" for i, body in enumerate(bodies[22:28])]
        rows.append(
            {
                "id": "pieces",
                "text": "\n".join(
                    a + b
                    for a, b in zip(many, [PASSAGE, QUESTION * 2, PASSAGE[::-1], PASSAGE, LAW, QUESTION], strict=True)
                ),
            }
        )
        rows += [
            {"id": f"law-{i}", "text": f"第{i}号。{body[:150]}依照{LAW}，{body[150:300]}"}
            for i, body in enumerate(bodies[:15])
        ]
        random.Random(1).shuffle(rows)
        write_jsonl(tmp_path / "a.jsonl", rows)
        folder = tmp_path / "eval" / "CMRC"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dev.json").write_text(squad(PASSAGE, LAW + "，自公布之日起施行", PASSAGE[::-1]), encoding="utf-8")
        (tmp_path / "eval" / "logo.png").write_bytes(b"\x89PNG\0\0\0")
        return [{"name": "a", "paths": "a.jsonl"}], tmp_path / "eval"

    return write


def test_stage(tmp_path: Path, corpus: Callable[..., tuple[list[dict], Path]], recipe_at: Callable[..., Path]) -> None:
    sources, _ = corpus()
    out = tmp_path / "out"
    stage = {"decontaminate": {"evaluation": ["eval"]}}
    summary = run_recipe(recipe_at(sources, [SMALL_SHARDS, stage], workers=2), out)["decontaminate"]
    kept, dropped = records(out, "documents"), records(out, "rejects")
    originals = {row["id"]: row["text"] for row in map(json.loads, (tmp_path / "a.jsonl").open())}
    assert kept.keys() | dropped.keys() == originals.keys()
    for name in originals:
        if name.startswith(("clean", "law")):
            assert kept[name]["text"] == originals[name]
    assert "光荣开发" not in kept["leak"]["text"] and kept["leak"]["signals"]["contaminated_hits"] == 1
    assert len(kept["leak"]["text"]) > 300 and "国志" not in kept["traditional"]["text"]
    assert dropped["only"]["drop_reason"] == "contaminated:CMRC, 1 hit" and dropped["only"]["text"] == PASSAGE
    assert dropped["pieces"]["drop_reason"].startswith("contaminated:CMRC, ")
    assert summary.details["evaluation_files_that_are_no_text"] == 1
    hits = [json.loads(line) for line in (out / "decontamination/hits.jsonl").open()]
    (leak,) = [hit for hit in hits if hit["id"] == "leak"]
    text = originals["leak"]
    assert text[leak["start"] : leak["end"]] == leak["corpus_text"] == PASSAGE[:-1]
    assert text[: leak["start"]].endswith(leak["corpus_before"]) and leak["corpus_before"]
    assert (leak["evaluation_set"], leak["evaluation_file"]) == ("CMRC", "dev.json")
    assert leak["evaluation_place"] == "data[0].paragraphs[0].context" and leak["evaluation_text"] == PASSAGE[:-1]
    summary_file = json.loads((out / "decontamination/summary.json").read_text())
    assert summary_file["sets"]["CMRC"]["documents"] == 4 and summary_file["hits"] == len(hits)
    # the number of workers, the shards and the order of work do not matter
    run_recipe(recipe_at(sources, ["read", stage], workers=1), tmp_path / "whole")
    assert records(tmp_path / "whole", "documents") == kept and records(tmp_path / "whole", "rejects") == dropped
    assert contents(out, "decontamination") == contents(tmp_path / "whole", "decontamination")
    # another action looks for no n-gram again
    drop = {"decontaminate": {"evaluation": ["eval"], "action": "drop"}}
    again = run_recipe(recipe_at(sources, [SMALL_SHARDS, drop], workers=2), out)["decontaminate"]
    assert records(out, "rejects").keys() == {"leak", "only", "traditional", "pieces"}
    assert again.reused >= again.tasks / 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "evaluation: is empty"),
        ({"evaluation": ["nowhere"]}, "no file there"),
        ({"evaluation": ["a.jsonl"], "gram": 3}, "nearest: 8"),
        ({"evaluation": ["a.jsonl"], "fields": ["none"]}, "no text of 20 characters"),
        ({"evaluation": ["bad.bin"]}, "not a text"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, recipe_at: Callable[..., Path], capsys: pytest.CaptureFixture, settings: dict, message: str
) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"id": "1", "text": PASSAGE}])
    (tmp_path / "bad.bin").write_bytes(b"\0\1\2" * 1000)
    path = recipe_at([{"name": "a", "paths": "a.jsonl"}], ["read", {"decontaminate": settings}], workers=1)
    assert main(["run", str(path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and message in error[0]


def test_evaluation_sets_are_part_of_the_key(tmp_path: Path, corpus: Callable, recipe_at: Callable[..., Path]) -> None:
    sources, folder = corpus()
    recipe = recipe_at(sources, ["read", {"decontaminate": {"evaluation": ["eval"]}}], workers=1)
    run_recipe(recipe, tmp_path / "out")
    before = decontaminate.evaluation_identity(Recipe.load(recipe).stages[1].settings)
    (folder / "more.json").write_text(squad(QUESTION * 2))
    assert decontaminate.evaluation_identity(Recipe.load(recipe).stages[1].settings) != before
    summary = run_recipe(recipe, tmp_path / "out")["decontaminate"]
    assert summary.reused < summary.tasks
