"""The tasks of the paper: data of every form, scores, comparisons, and what a person gets wrong."""

import json
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

import pangu
from pangu.cli import main
from pangu.evaluation import metrics, requests
from pangu.evaluation.document_forms import Document
from pangu.evaluation.evaluate import evaluate, rows_of, score_rows
from pangu.evaluation.published import PAPER
from pangu.evaluation.task import load_task, task_names
from pangu.foundation.errors import UserError
from pangu.generation.likelihood import Scored
from tests.pangu import small_model

# (documents of the split that the paper scored, those at hand)
COUNTS = {
    "cmrc2018": 3219,
    "webqa": 3024,
    "cft": 2706,
    "cmrc2019": 3053,
    "ocnli": 2950,
    "afqmc": 4316,
    "cluewsc2020": 304,
    "c3": 1825,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pangu.LanguageModel:
    path = small_model.write(tmp_path_factory.mktemp("evaluation"), seq_length=256)
    return pangu.load(path, tokenizer=path.parent / "tokenizer")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set of every kind: sentence pairs, reading, cloze, blanks."""
    folder = tmp_path_factory.mktemp("sets")
    draw = random.Random(5)
    names = ["小明", "老师", "记者", "医生", "司机", "学生"]

    def sentence() -> str:
        return f"{draw.choice(names)}在{draw.randint(1, 12)}月去了北京，{draw.choice(names)}很高兴"

    labels = ["entailment", "neutral", "contradiction"]
    pairs = [{"id": i, "sentence1": sentence(), "sentence2": sentence(), "label": labels[i % 3]} for i in range(60)]
    pairs.append({"id": 99, "sentence1": "一", "sentence2": "二", "label": "-"})
    for place, rows in (
        ("OCNLI/x__dev.json", pairs),
        ("OCNLI/x__train.3k.json", [p | {"sentence1": sentence()} for p in pairs]),
    ):
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    article = {
        "context": sentence(),
        "qas": [{"id": "q1", "question": "谁很高兴？", "answers": [{"text": "小明"}] * 2}],
    }
    (folder / "cmrc2018_dev.json").write_text(
        json.dumps({"data": [{"paragraphs": [article]}]}, ensure_ascii=False), encoding="utf-8"
    )
    (folder / "cft.test.auto").write_text(
        "1 ||| 小猫 跑 了\n2 ||| 小狗 也 XXXXX 了 ||| 跑\n1 ||| 天 XXXXX 了 ||| 黑\n", encoding="utf-8"
    )
    passages = [
        {"context_id": f"P{i}", "context": f"{sentence()}，[BLANK1]。{sentence()}，[BLANK2]。", "answers": [1, 0],
         "choices": [sentence(), sentence(), sentence()]}
        for i in range(6)
    ]  # fmt: skip
    (folder / "cmrc2019_dev.json").write_text(json.dumps({"data": passages}, ensure_ascii=False), encoding="utf-8")
    return folder


class Oracle(pangu.LanguageModel):
    """A model that knows the answers: it continues prompts with them, and finds right candidates likely."""

    def __init__(self, model: pangu.LanguageModel, answers: dict[str, str], right: set[str]) -> None:
        super().__init__(model.generator)
        self.answers, self.right = answers, right

    def generate(self, texts, **options):
        return [next(answer for prompt, answer in self.answers.items() if text.endswith(prompt)) for text in texts]

    def log_likelihood(self, pairs, done=None):
        texts = [self.tokenizer.decode([*context, *rest]) for context, rest in pairs]
        return [
            Scored(np.full(len(pair[1]), -0.1 if text in self.right else -5.0), False)
            for text, pair in zip(texts, pairs, strict=True)
        ]


def oracle_of(model: pangu.LanguageModel, task_name: str, data: Path) -> Oracle:
    task = load_task(task_name)
    template = task.template("paper")
    answers, right = {}, set()
    for document in requests.load_documents(task, data)[0]:
        if task.method == "generate":
            answers[requests.filled(template.context, document.fields)] = document.answers[0]
        else:
            context, scored = requests.choice_of(template, document, "").pairs[document.gold]
            right.add(model.tokenizer.decode(model.ids(context + scored)))
    return Oracle(model, answers, right)


@pytest.mark.parametrize(
    ("task", "metric"), [("ocnli", "ppl"), ("cmrc2018", "f1"), ("cft", "equal"), ("cmrc2019", "qac")]
)
def test_a_model_that_knows_the_answers_has_100(model, data: Path, tmp_path: Path, task: str, metric: str) -> None:
    [score] = evaluate(oracle_of(model, task, data), [task], data=data, out=tmp_path)
    assert score.scores[metric] == 100


def test_random_weights_score_chance(model, data: Path, tmp_path: Path) -> None:
    [score] = evaluate(model, ["ocnli"], data=data, out=tmp_path)
    assert score.documents == 60 and score.chance == pytest.approx(100 / 3) and score.majority == pytest.approx(100 / 3)
    assert abs(score.scores["ppl"] - score.chance) <= 3 * score.standard_errors["ppl"] + 1e-9


def test_the_order_of_candidates_changes_nothing(model) -> None:
    document = Document("1", {"P": "小明去了北京。", "Q": "谁去了？"}, ("小明", "老师", "医生"), 0)
    turned = Document("1", document.fields, ("医生", "小明", "老师"), 1)
    template = load_task("c3").template("paper")
    totals = []
    for one in (document, turned):
        choice = requests.choice_of(template, one, "")
        scored = model.log_likelihood(choice.pairs)
        totals.append({label: result.total for label, result in zip(one.candidates, scored, strict=True)})
    assert totals[0] == totals[1]


def test_candidates_read_one_context_that_is_cut_for_the_longest(model) -> None:
    context = model.config.seq_length
    long = "小明去了北京，老师很高兴。" * 60
    rows = rows_of(model, [(long, "小明"), (long, "记者和医生" * 9), ("", "小明去了北京"), (long + "一", "小明")])
    assert rows[0].context == rows[1].context == model.ids(long)[-len(rows[0].context) :]
    assert len(rows[1].context) + len(rows[1].rest) == context + 1 > len(rows[0].context) + len(rows[0].rest)
    assert [row.is_cut for row in rows] == [True, True, False, True] and rows[3].context != rows[0].context
    assert [*rows[2].context, *rows[2].rest] == model.ids("小明去了北京") and len(rows[2].context) == 1
    # A scored part that does not fit alone loses its right end, behind a context of one token.
    (row,) = rows_of(model, [("今天", long)])
    assert len(row.context) == 1 and len(row.rest) == context and row.is_cut
    (row,) = rows_of(model, [("", long)])
    assert [*row.context, *row.rest] == model.ids(long)[: context + 1] and row.is_cut


def test_a_word_across_the_border_is_scored_and_its_part_of_the_context_is_not(model) -> None:
    """The ids of the contexts differ; they share what is before, and each candidate's score is the one that it had."""
    decoded = [(token, model.tokenizer.decode([token])) for token in range(model.tokenizer.vocab_size)]
    word = next(text for token, text in decoded if len(text) == 2 and model.ids("。" + text)[-1] == token)
    context, candidates = "小明去了北京。" + word[0], [word[1], "，小明"]
    first, second = (model.request(context, one) for one in candidates)
    assert first[0] != second[0]
    rows = rows_of(model, [(context, one) for one in candidates])
    assert rows[0].context == rows[1].context == first[0] and rows[1].unscored == len(second[0]) - len(first[0]) > 0
    for row, wanted in zip(score_rows(model, rows), model.log_likelihood([first, second]), strict=True):
        np.testing.assert_array_equal(row.log_probabilities, wanted.log_probabilities)


def test_a_gap_longer_than_the_context_is_counted(model, tmp_path: Path) -> None:
    cloze = tmp_path / "cloze.test.doc_query"
    cloze.write_text("1 ||| 小猫 跑 了\n<qid_1> ||| 小狗 XXXXX 了 。\n", encoding="utf-8")
    cloze.with_suffix(".answer").write_text(f"<qid_1> ||| {'北京' * 400}\n", encoding="utf-8")
    (gap,) = evaluate(model, ["cmrc2017"], data=cloze, out=tmp_path, variant="any_order")
    assert gap.cut == gap.documents == 1 and gap.scores["equal"] == 0


def test_shots_are_drawn_by_the_seed_and_never_the_document_itself(data: Path) -> None:
    task = load_task("ocnli")
    template = task.template("paper")
    documents, _ = requests.load_documents(task, data)
    source = requests.load_shots(task, template, data, 6) + documents
    for document in documents[:10]:
        shots = requests.draw_shots(task, source, document, 6, seed=1)
        assert shots == requests.draw_shots(task, source, document, 6, seed=1)
        assert len(shots) == 6 and document not in shots
        assert [shot.label for shot in shots] == ["对", "或许", "错"] * 2  # the paper's order
    assert requests.draw_shots(task, source, documents[0], 6, 1) != requests.draw_shots(
        task, source, documents[0], 6, 2
    )


def test_an_interrupted_evaluation_goes_on_and_asks_nothing_twice(model, data: Path, tmp_path: Path) -> None:
    [whole] = evaluate(model, ["ocnli"], data=data, out=tmp_path / "whole")
    evaluate(model, ["ocnli"], data=data, out=tmp_path / "cut")
    path = tmp_path / "cut" / whole.file
    path.write_bytes(path.read_bytes()[: -len(path.read_bytes()) // 3])  # killed while it wrote
    asked: list[int] = []

    class Counting(pangu.LanguageModel):
        def log_likelihood(self, pairs, done=None):
            asked.append(len(pairs))
            return super().log_likelihood(pairs, done)

    [resumed] = evaluate(Counting(model.generator, model.source), ["ocnli"], data=data, out=tmp_path / "cut")
    assert resumed.scores == whole.scores and 0 < sum(asked) < 3 * 60 / 2
    assert path.read_bytes() == (tmp_path / "whole" / whole.file).read_bytes()


def test_answers_on_a_full_disk_are_one_line_with_their_file(model, data: Path, tmp_path: Path) -> None:
    (tmp_path / "ocnli-zero-paper.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"ocnli-zero-paper\.jsonl: cannot be written: No space left"):
        evaluate(model, ["ocnli"], data=data, out=tmp_path, limit=20)


def test_documents_with_one_id_are_asked_and_scored_apart(model, tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    rows = [
        {"sentence1": "一", "sentence2": two, "label": "neutral", "id": one} for one, two in ((1, "二"), ("1", "三"))
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    [score] = evaluate(model, ["ocnli"], data=path, out=tmp_path / "out")
    answers = [json.loads(line) for line in (tmp_path / "out" / score.file).read_text().splitlines()[1:]]
    assert score.documents == 2 and [one["id"] for one in answers] == ["1", "1 #2"]
    assert "二" in answers[0]["scored"][0] and "三" in answers[1]["scored"][0]


@pytest.mark.parametrize("value", ["null", "[]", "{}", "NaN"])
def test_what_is_no_text_is_not_asked_as_one(tmp_path: Path, value: str) -> None:
    path = tmp_path / "set.json"
    path.write_text(f'{{"sentence1": {value}, "sentence2": "二", "label": "neutral"}}')
    with pytest.raises(UserError, match=r"set\.json:1: is not of the expected form"):
        requests.load_documents(load_task("ocnli"), path)


@pytest.mark.parametrize(
    ("task", "name", "row"),
    [
        ("tnews", "dev.json", {"sentence": "一", "label": None}),
        ("dureader", "zhidao.dev.json", {
            "question": "一", "answers": ["二", None], "documents": [{"paragraphs": ["三"], "is_selected": True}]
        }),
        ("dureader", "zhidao.dev.json", {
            "question": "一", "answers": ["二"], "documents": [{"paragraphs": [None], "is_selected": True}]
        }),
        ("webqa", "me_test.ann.json", {"Q1": {"question": "一", "evidences": {"E1": {"answer": [None]}}}}),
    ],
)  # fmt: skip
def test_null_is_no_label_no_answer_and_no_passage(tmp_path: Path, task: str, name: str, row: dict) -> None:
    (tmp_path / name).write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(UserError, match="is not of the expected form"):
        requests.load_documents(load_task(task), tmp_path / name)


def test_other_documents_of_the_same_name_and_another_task_of_the_same_name_are_asked_anew(
    model, data: Path, tmp_path: Path
) -> None:
    """Answers are of documents and of what was asked, not of their numbers."""
    fields = load_task("ocnli").model_dump(mode="json", exclude_none=True) | {"files": ["set.json"]}
    mine, rows = tmp_path / "mine.yaml", [{"sentence1": "一", "sentence2": "二", "label": "neutral", "id": 1}]
    mine.write_text(yaml.safe_dump(fields, allow_unicode=True), encoding="utf-8")
    asked = []
    for changes, row in (({}, {}), ({}, {}), ({}, {"sentence2": "三"}), ({"words": {"neutral": "对", "x": "错"}}, {})):
        mine.write_text(yaml.safe_dump(fields | changes, allow_unicode=True), encoding="utf-8")
        (tmp_path / "set.json").write_text(json.dumps([{**rows[0], **row}]), encoding="utf-8")
        [score] = evaluate(model, [str(mine)], data=tmp_path, out=tmp_path / "out")
        asked.append((tmp_path / "out" / score.file).read_text(encoding="utf-8"))
    assert asked[0] == asked[1] and len(set(asked)) == 3
    assert "三" in asked[2] and '"labels":["对","错"]' in asked[3].replace(" ", "")


def test_another_setting_is_asked_anew(model, data: Path, tmp_path: Path) -> None:
    evaluate(model, ["ocnli"], data=data, out=tmp_path, limit=10)
    [more] = evaluate(model, ["ocnli"], data=data, out=tmp_path, limit=20)
    assert more.documents == 20
    [other] = evaluate(model, ["ocnli"], data=data, out=tmp_path, limit=20, variant="given_label")
    assert other.file != more.file


def test_choices_and_gaps_are_asked_given_both_sides(model, data: Path, tmp_path: Path) -> None:
    cloze = tmp_path / "cloze.test.doc_query"
    cloze.write_text("1 ||| 小猫 跑 了\n<qid_1> ||| 小狗 XXXXX 了 。\n", encoding="utf-8")
    cloze.with_suffix(".answer").write_text("<qid_1> ||| 也跑\n", encoding="utf-8")
    (blanks,) = evaluate(model, ["cmrc2019"], data=data, out=tmp_path, variant="any_order")
    (gap,) = evaluate(model, ["cmrc2017"], data=cloze, out=tmp_path, variant="any_order")
    assert blanks.documents == 12 and blanks.chance == pytest.approx(100 / 3) and gap.documents == 1
    row = json.loads((tmp_path / "cmrc2019-zero-any_order.jsonl").read_text(encoding="utf-8").split("\n")[1])
    document = requests.load_documents(load_task("cmrc2019"), data)[0][0]
    fields = document.fields
    asked = [(fields["before"], choice, fields["after"]) for choice in document.candidates]
    assert [one.total for one in model.fill_log_likelihood(asked)] == row["totals"]
    assert row["scored"] == list(document.candidates)
    answer = json.loads((tmp_path / "cmrc2017-zero-any_order.jsonl").read_text(encoding="utf-8").split("\n")[1])
    assert answer["context"] == "小猫跑了小狗" and answer["text"]


def test_sides_that_are_too_long_lose_what_is_farthest(model) -> None:
    long, middle = "北" * 600, "小明"
    one = model.between(long + "京", middle, "上海" + long)
    assert len(one.left) + len(one.middle) + len(one.right) == model.config.seq_length
    assert list(one.left) == model.ids(long + "京")[-len(one.left) :]
    assert list(one.right) == model.ids("上海" + long)[: len(one.right)]
    short = model.between("", middle, "")
    assert list(short.left) == [model.tokenizer.special.end_of_document] and not short.right
    with pytest.raises(UserError, match="has no tokens"):
        model.between("北京", "", "")


def test_a_page_and_a_table_are_written(model, data: Path, tmp_path: Path, capsys) -> None:
    words = ["evaluate", model.source, "--tokenizer", str(Path(model.source).parent / "tokenizer"), "--data", str(data)]
    assert main([*words, "--limit", "8", "--compare", "paper", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "ocnli" in printed and "42.61*" in printed and "not comparable" in printed
    assert max(map(len, printed.splitlines()[:-1])) <= 100
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "Content-Security-Policy" in text and "http" not in text.replace("http-equiv", "")
    assert main([*words, "--limit", "8", "--out", str(tmp_path), "--json"]) == 0
    assert {row["task"] for row in json.loads(capsys.readouterr().out)} == {"ocnli", "cmrc2018", "cft", "cmrc2019"}


def test_a_text_that_stood_in_the_corpus_is_scored_apart(model, data: Path, tmp_path: Path) -> None:
    documents, _ = requests.load_documents(load_task("ocnli"), data)
    hits = tmp_path / "corpus/decontamination"
    hits.mkdir(parents=True)
    hit = {"corpus_text": documents[3].fields["S1"], "counts": True}
    (hits / "hits.jsonl").write_text(json.dumps(hit, ensure_ascii=False) + "\n", encoding="utf-8")
    [score] = evaluate(model, ["ocnli"], data=data, out=tmp_path / "out", corpus=tmp_path / "corpus")
    assert score.clean and score.clean["documents"] < 60


# -- metrics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "prediction", "f1", "exact"),
    [
        ("光荣和ω-force", "光荣和ω-force", 1.0, 1.0),
        ("北京", "", 0.0, 0.0),
        ("北京", "。，！", 0.0, 0.0),
        ("", "", 0.0, 1.0),
        ("中国北京", "北京", 2 / 3, 0.0),
        ("北京，中国", "北京中国", 1.0, 1.0),
        ("ABC公司", "abc公司", 1.0, 1.0),
        ("a b c", "b", 0.5, 0.0),
        ("甲乙丙丁", "甲丙乙丁", 0.25, 0.0),  # the longest contiguous run, no bag of characters
        ("1998年", "1998年5月", 2 * (2 / 4) * 1 / (2 / 4 + 1), 0.0),
    ],
)
def test_f1_and_exact_match_are_the_official_ones(answer: str, prediction: str, f1: float, exact: float) -> None:
    assert metrics.f1([answer], prediction) == pytest.approx(f1)
    assert metrics.exact_match([answer], prediction) == exact
    assert metrics.f1(["无关", answer], prediction) == pytest.approx(f1)  # the best of the answers


OFFICIAL_MARKS = [*"-:_*^/\\~`+=，。：？！“”；’《》", "……", *"·、「」（）－～『』"]


def official_segments(text: str) -> list[str]:
    """`mixed_segmentation(rm_punc=True)` of cmrc2018_evaluate.py by its rules; English words here are apart already."""
    found, other = [], ""
    for character in text.lower().strip():
        if character in OFFICIAL_MARKS:
            continue
        if "\u4e00" <= character <= "\u9fa5":
            found, other = [*found, *other.split(), character], ""
        else:
            other += character
    return [*found, *other.split()]


def official_scores(answers: list[str], prediction: str) -> tuple[float, float]:
    """(F1, EM): the longest common contiguous run over both lengths; equal without marks. The best of the answers."""
    scores, predicted = [], official_segments(prediction)

    def bare(text: str) -> str:
        return "".join(one for one in text.lower().strip() if one not in OFFICIAL_MARKS)

    for answer in answers:
        wanted = official_segments(answer)
        runs = [
            length
            for length in range(1, len(wanted) + 1)
            for start in range(len(wanted) - length + 1)
            if any(predicted[at : at + length] == wanted[start : start + length] for at in range(len(predicted)))
        ]
        run = max(runs, default=0)
        precision, recall = (run / len(side) if run else 0.0 for side in (predicted, wanted))
        scores.append(2 * precision * recall / (precision + recall) if run else 0.0)
    return max(scores), float(any(bare(answer) == bare(prediction) for answer in answers))


def test_a_thousand_pairs_score_as_by_the_official_scripts_rules() -> None:
    draw = random.Random(5)
    pieces = [*"北京上海的是一二三年，。…“-· \u3000Ω龥é", "……", "abc ", "ABC", " 12 "]
    hits = 0
    for _ in range(1000):
        answers = ["".join(draw.choices(pieces, k=draw.randint(0, 9))) for _ in range(draw.randint(1, 3))]
        prediction = "".join(draw.choices(pieces, k=draw.randint(0, 9)))
        if draw.random() < 0.5:
            kept = draw.choice(answers)
            prediction = kept[draw.randint(0, 2) :] + draw.choice(pieces)
        f1, exact = official_scores(answers, prediction)
        assert metrics.f1(answers, prediction) == pytest.approx(f1), (answers, prediction)
        assert metrics.exact_match(answers, prediction) == exact, (answers, prediction)
        hits += 0 < f1 < 1
    assert hits > 300


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("don't we've it's i'll o'clock", "do n't we 've it 's i 'll o'clock"),
        ("cannot gonna lemme wanna more'n 'tis d'ye", "can not gon na lem me wan na more 'n 't is d 'ye"),
        ('say "no" (x), ok.', "say `` no '' ( x ) , ok ."),
        ("1,000 3.14 12:30, 10% $5 a.b u.s. no.", "1,000 3.14 12:30 , 10 % $ 5 a.b u.s. no ."),
        ("wait... what?! 5'6 ''q'' end. go", "wait ... what ? ! 5 ' 6 `` q '' end. go"),
    ],
)
def test_english_is_cut_as_nltk_cuts_a_sentence(text: str, cut: str) -> None:
    """What nltk 3.9.1's NLTKWordTokenizer gives."""
    assert metrics.words(text) == cut.split()


def test_rouge_counts_each_character_once() -> None:
    assert metrics.rouge_1(["天天向上"], "天上") == pytest.approx(2 * 2 / (3 + 2))
    assert metrics.rouge_l(["甲乙丙"], "丙乙甲") == pytest.approx(2 * 1 / 6)
    assert metrics.rouge_1([], "天") == metrics.rouge_l(["天"], "") == 0


def test_rules_choose_as_they_are_defined_and_ties_go_to_the_first() -> None:
    chosen = metrics.choose([-4.0, -3.0, -3.0], [4, 2, 2], ["一二三四", "ab", "一二"], [-1.0, -3.0, -0.5])
    assert chosen == {"ppl": 0, "acc": 1, "acc_norm": 0, "acc_bytes": 0, "acc_mutual_info": 1}


def test_every_sentence_is_used_once() -> None:
    assert metrics.assign(np.array([[-1.0, -2.0, -9.0], [-1.1, -5.0, -9.0]])) == [1, 0]


# -- data ------------------------------------------------------------------------------------------------------------


def test_every_task_has_its_paper_row_and_reads_as_yaml() -> None:
    assert {name for name in task_names() if name != "wplc"} == set(PAPER)
    for name in task_names():
        assert load_task(name).metrics[0] in {*metrics.GENERATED, "ppl", "qac", "perplexity"}


def test_the_sets_at_hand_have_the_sizes_that_the_paper_scored(shared: Path, tmp_path: Path) -> None:
    folder = shared / "eval"
    for name in task_names():
        task = load_task(name)
        if not requests.find_files(folder, task.files):
            assert name in ("pd", "wplc", "cft"), name
            continue
        documents, _ = requests.load_documents(task, folder)
        assert len(documents) == COUNTS.get(name, len(documents)), name
        if task.method == "choice":
            assert all(0 <= one.gold < len(one.candidates) for one in documents)
            assert all(len(set(one.candidates)) == len(one.candidates) for one in documents if name != "c3")
    archive = next((folder / "CFT").glob("*.zip"), None)
    if archive:
        zipfile.ZipFile(archive).extractall(tmp_path)
        assert len(requests.load_documents(load_task("cft"), tmp_path)[0]) == 2706


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "ocnli",
            '{"sentence1": "一", "sentence2": "二"}',
            "set.json:1: is not of the expected form; expected sentence1",
        ),
        (
            "ocnli",
            '{"sentence1": "一", "sentence2": "二", "label": "perhaps"}',
            "label 'perhaps' is unknown; known: entail",
        ),
        ("ocnli", '{"sentence1": ', "set.json:1: is not JSON"),
        ("ocnli", '{"sentence1": "\\ud800"}', "set.json:1: field 'sentence1': holds half of a surrogate pair"),
        ("cmrc2018", '{"data": ["\\udc00"]}', "set.json: field 'data[0]': holds half of a surrogate pair"),
        ("ocnli", '{"sentence1": "一", "sentence1": "二"}', "set.json:1: field 'sentence1': is there more than once"),
        ("cmrc2018", '{"data": [{"a": 1, "a": 1}]}', "set.json: field 'data[0].a': is there more than once"),
        ("ocnli", '[{"a": 1}, {"b": {"c": 1, "c": 2}}]', "record 1: is not of the expected form"),
        ("ocnli", '[{"b": {"c": 1, "c": 2}}]', "record 1: field 'b.c': is there more than once"),
        ("ocnli", "\n", "holds no document"),
        ("cmrc2018", '{"data": [{"paragraphs": {}}', "set.json: is not JSON"),
        ("cmrc2018", '{"data": [{"title": "x"}]}', "expected data: [{paragraphs"),
        ("c3", '[["a", "b"]]', "record 1: is not of the expected form"),
        ("c3", '[[["甲"], [{"question": "谁", "choice": ["一"], "answer": "二"}], "1"]]', "record 1: is not of the"),
        ("cft", "1 ||| 没有 空\n2 没有 竖线\n", "set.json:2: is not of the expected form"),
        ("tnews", '{"sentence": "一", "label_desc": "news_x"}', "label 'news_x' is unknown"),
    ],
)
def test_a_file_of_another_form_is_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / "set.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        requests.load_documents(load_task(name), path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"form": "sentence_pair"}, "field 'form': 'sentence_pair' is no form of documents; did you mean"),
        ({"form": "reading"}, "is not of the expected form"),
        ({"metrics": ["acc_nrom"]}, "field 'metrics': has 'acc_nrom', which method choice does not have; did you mean"),
        ({"metrics": []}, "field 'metrics': has ''"),
        ({"metrics": ["f1"]}, "field 'metrics': has 'f1', which method choice does not have"),
        ({"metrics": ["acc_mutual_info"]}, "every variant needs 'unconditional'"),
        ({"words": {"neutral": "也许", "x": "错"}, "candidates": 3}, "candidates 3: there are 2 labels; nearest: 2"),
        ({"words": {}, "candidates": 99}, "candidates 99: there are 1 labels; nearest: 1"),
        ({"candidates": 1}, "field 'candidates': 0, or 2 and more"),
        ({"name": "../up"}, "field 'name': must be a word of"),
        ({"files": ["/etc/*"]}, "field 'files': '/etc/*' is no pattern"),
        ({"shot_files": ["**x"]}, "field 'shot_files': '**x' is no pattern"),
        ({"scored": "{"}, "field 'variants.paper.scored': has a single brace"),
        ({"context": "a } b"}, "field 'variants.paper.context': has a single brace"),
        ({"scored": "{}"}, "field 'variants.paper.scored': braces hold the name of a field"),
        ({"scored": "{choice.upper}"}, "field 'variants.paper.scored': braces hold the name of a field"),
        ({"scored": "{choice!r}"}, "field 'variants.paper.scored': braces hold the name of a field"),
        ({"behind": "{choice:>9}"}, "field 'variants.paper.behind': braces hold the name of a field"),
        ({"scored": "{choce}"}, "template '{choce}': the documents have no field 'choce'"),
        (
            {"method": "generate", "metrics": ["f1"], "generation": {"max_new_tokens": 3}},
            "form sentence_pairs has no answers; method choice fits it",
        ),
    ],
)
def test_a_task_file_with_a_mistake_is_one_line(tmp_path: Path, changes: dict, message: str) -> None:
    fields = load_task("ocnli").model_dump(mode="json", exclude_none=True) | {"files": ["set.json"], "variants": {}}
    fields["variants"]["paper"] = {"context": "{S1}", "scored": "{choice}"}
    for name, value in changes.items():
        (fields["variants"]["paper"] if name in ("context", "scored", "behind") else fields)[name] = value
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump(fields, allow_unicode=True), encoding="utf-8")
    row = {"sentence1": "一", "sentence2": "二", "label": "neutral"}
    (tmp_path / "set.json").write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        task = load_task(str(mine))
        documents, _ = requests.load_documents(task, tmp_path)
        requests.choice_of(task.template("paper"), documents[0], "")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "ocnly"], "did you mean 'ocnli'"),
        (["--task", "ocnli", "--variant", "papers"], "did you mean 'paper'"),
        (["--task", "ocnli", "--shots", "some"], "must be zero, one, few or a whole number"),
        (["--task", "cmrc2018", "--shots", "3"], "has no file to draw 3 shots of cmrc2018 from"),
        (["--task", "drcd"], "has no file for task drcd"),
        (["--limit", "0"], "must be at least 1"),
        (["--corpus", "."], "has no decontamination/hits.jsonl"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(model, data: Path, tmp_path: Path, capsys, words, message) -> None:
    tokenizer = str(Path(model.source).parent / "tokenizer")
    line = ["evaluate", model.source, "--tokenizer", tokenizer, "--data", str(data), "--out", str(tmp_path), *words]
    assert main(line) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


def test_a_learning_curve_has_a_line_for_every_checkpoint(
    model: pangu.LanguageModel, data: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    for step in (200, 1000, 400):
        (run / f"checkpoints/step-{step:08d}").mkdir(parents=True)
    records = [{"step": 200, "heldout_loss": 6.5}, {"step": 300, "loss": 6.0}, {"step": 1000, "heldout_loss": 5.25}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    opened: list[str] = []

    def load(path: Path, **options: object) -> pangu.LanguageModel:
        opened.append(Path(path).name)
        return model

    monkeypatch.setattr("pangu.language_model.load", load)
    words = [
        "evaluate",
        str(run),
        "--data",
        str(data),
        "--task",
        "ocnli",
        "--limit",
        "6",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*words, "--checkpoints", "all"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert opened == ["step-00000200", "step-00000400", "step-00001000"]
    assert lines[0] == ["step", "validation", "ocnli"] and [line[0] for line in lines[1:4]] == ["200", "400", "1000"]
    assert lines[1][1] == "6.500" and lines[3][1] == "5.250" and len(lines[2]) == 2
    points = json.loads((tmp_path / "out/learning_curve.json").read_text())
    assert [point["step"] for point in points] == [200, 400, 1000] and points[1]["heldout_loss"] is None
    assert points[0]["scores"]["ocnli"].keys() >= {"ppl"}
    for asked, message in (("7", "'7' is no step of"), ("all,200", "there are 200, 400, 1000, or all")):
        assert main([*words, "--checkpoints", asked]) == 2
        assert message in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path), "--data", str(data), "--checkpoints", "all"]) == 2
    assert "holds no checkpoint; --checkpoints is for a run" in capsys.readouterr().err
