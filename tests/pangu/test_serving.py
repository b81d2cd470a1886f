"""The server: OpenAI's protocol, continuous batching, and requests that no server should die of."""

import asyncio
import contextlib
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import pangu
from pangu.cli import main
from pangu.foundation.errors import UserError
from tests.browser import chromium
from tests.pangu import small_model

pytest.importorskip("uvicorn", reason="the server needs uvicorn (pip install 'pangu-alpha[serve]')")

from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from pangu.serving import connection, guard
from pangu.serving.events import Event
from pangu.serving.protocol import Message, RequestError, check_conversation
from pangu.serving.scheduler import QueueFull, Scheduler
from tests.pangu.served_model import answering, ask, completion, running, scheduler_of, serving, step

PROMPTS = ["今天天气很好", "北京是中国的首都", "人", "他说：“你好！”然后就走了，再也没有回来。" * 3]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pangu.LanguageModel:
    path = small_model.write(tmp_path_factory.mktemp("serving"), seq_length=512)
    return pangu.load(path, tokenizer=path.parent / "tokenizer")


@pytest.fixture(scope="module")
def port(model: pangu.LanguageModel) -> Iterator[int]:
    with serving(model, rows=4) as port:
        yield port


def test_answers_are_those_of_generate_whatever_the_company(model: pangu.LanguageModel, port: int) -> None:
    settings = [
        {"prompt": prompt, "seed": seed, "max_tokens": 4 + 7 * seed, "temperature": 0.9, "top_k": 20}
        for prompt in PROMPTS
        for seed in range(4)
    ]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda fields: completion(port, **fields)["choices"][0]["text"], settings))
    for fields, text in zip(settings, answers, strict=True):
        options = {"max_new_tokens": fields["max_tokens"], "temperature": 0.9, "top_k": 20, "seed": fields["seed"]}
        assert text == model.generate(fields["prompt"], **options)


def test_a_stream_is_the_answer_piece_by_piece(port: int) -> None:
    fields = {"model": "small", "prompt": PROMPTS[0], "seed": 7, "max_tokens": 12}
    status, text, headers = ask(
        port, "/v1/completions", fields | {"stream": True, "stream_options": {"include_usage": True}}
    )
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    parts = [json.loads(event) for event in events[:-1]]
    whole = completion(port, **fields)
    assert "".join(part["choices"][0]["text"] for part in parts[:-1]) == whole["choices"][0]["text"]
    assert parts[-1]["choices"] == [] and parts[-1]["usage"] == whole["usage"]
    assert parts[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


def test_echoed_scores_are_the_log_likelihoods(model: pangu.LanguageModel, port: int) -> None:
    """As lm-evaluation-harness's local-completions asks: ids, echo, one more token, logprobs 1."""
    ids = model.ids(PROMPTS[3])
    fields = {"prompt": [ids], "echo": True, "max_tokens": 1, "logprobs": 1, "temperature": 0}
    scores = completion(port, **fields)["choices"][0]["logprobs"]
    [expected] = model.log_likelihood([(ids[:1], ids[1:])])
    assert scores["token_logprobs"][0] is None and scores["top_logprobs"][0] is None
    assert scores["token_logprobs"][1:-1] == pytest.approx(expected.log_probabilities.tolist(), abs=1e-9)
    assert scores["token_logprobs"][-1] == max(scores["top_logprobs"][-1].values())  # greedy, as equal floats


def test_several_choices_and_the_best_of_them(port: int) -> None:
    fields = {"prompt": PROMPTS[:2], "max_tokens": 6, "seed": 5, "temperature": 1.5}
    several = completion(port, n=3, **fields)["choices"]
    assert [choice["index"] for choice in several] == list(range(6)) and len({one["text"] for one in several[:3]}) > 1
    best = completion(port, n=1, best_of=3, **fields)["choices"]
    assert [one["text"] in {other["text"] for other in several} for one in best] == [True, True]


def test_a_bias_a_stop_and_an_empty_prompt(model: pangu.LanguageModel, port: int) -> None:
    decoded = {one: model.tokenizer.decode([one]) for one in range(300, 600)}
    token = next(one for one, text in decoded.items() if len(text) == 1 and "一" <= text <= "龥")
    text = completion(port, prompt="今天", max_tokens=4, temperature=0, logit_bias={str(token): 100})["choices"][0][
        "text"
    ]
    assert text == model.tokenizer.decode([token] * 4)
    stop = text[: len(text) // 4]
    stopped = completion(port, prompt="今天", max_tokens=4, temperature=0, logit_bias={str(token): 100}, stop=[stop])
    assert stopped["choices"][0]["text"] == "" and stopped["choices"][0]["finish_reason"] == "stop"
    assert completion(port, prompt="", max_tokens=2)["usage"]["completion_tokens"] <= 2
    begun = completion(port, prompt="", max_tokens=6, temperature=0)["choices"][0]["text"]
    assert begun == model.generate("", max_new_tokens=6, temperature=0)
    nothing = completion(port, prompt="今天", max_tokens=0, echo=True)
    assert nothing["choices"][0]["text"] == "今天" and nothing["usage"]["completion_tokens"] == 0


def test_a_chat_is_the_papers_form_of_questions(model: pangu.LanguageModel, port: int) -> None:
    messages = [Message(role="system", content="请回答。"), Message(role="user", content="你好")]
    check_conversation(messages)
    fields = {"model": "small", "messages": [one.model_dump() for one in messages], "max_tokens": 5, "seed": 1}
    status, body, _ = ask(port, "/v1/chat/completions", fields | {"logprobs": True, "top_logprobs": 2})
    assert status == 200 and body["object"] == "chat.completion"
    choice = body["choices"][0]
    assert choice["message"]["role"] == "assistant"
    assert len(choice["logprobs"]["content"][0]["top_logprobs"]) == 2
    _, text, _ = ask(port, "/v1/chat/completions", fields | {"stream": True})
    parts = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line and "[DONE]" not in line]
    assert "".join(part["choices"][0]["delta"]["content"] for part in parts) == choice["message"]["content"]


def test_small_answers(model: pangu.LanguageModel, port: int) -> None:
    assert ask(port, "/v1/models")[1]["data"][0]["id"] == "small"
    assert ask(port, "/health")[1] == {"status": "ok"}
    assert ask(port, "/tokenize", {"prompt": PROMPTS[0]})[1]["tokens"] == model.ids(PROMPTS[0])
    assert ask(port, "/tokenizer_info")[1]["eos_token"]
    figures = ask(port, "/metrics")[1]
    assert "pangu_tokens_out_total" in figures and 'le="+Inf"' in figures
    for line in figures.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) .+|[a-z_]+(\{[a-z]+="[^"]+"\})? [0-9.e+-]+', line), line


HOSTILE = {
    "NaN": (b'{"prompt": "x", "temperature": NaN}', 400, "NaN is no JSON number"),
    "infinity": (b'{"prompt": "x", "top_p": 1e999}', 400, "top_p"),
    "not UTF-8": (b'{"prompt": "\xff\xfe"}', 400, "not UTF-8"),
    "lone surrogate": (b'{"prompt": "\\ud800"}', 400, ""),
    "nested": (b'{"prompt": ' + b"[" * 100000 + b"]" * 100000 + b"}", 400, ""),
    "a list": (b"[1, 2]", 400, "must be a JSON object"),
    "no prompt": (b"{}", 400, "prompt"),
    "a wrong id": (b'{"prompt": [999999999]}', 400, "outside 0.."),
    "negative": (b'{"prompt": [-1]}', 400, "prompt"),
    "no temperature": (b'{"prompt": "x", "temperature": "hot"}', 400, "temperature"),
    "too many stops": (json.dumps({"prompt": "x", "stop": ["a"] * 100000}).encode(), 400, "stop"),
    "too long": (json.dumps({"prompt": "天" * 3000}).encode(), 400, "context"),
    "too many tokens": (b'{"prompt": "x", "max_tokens": 100000}', 400, "max_tokens"),
    "other model": (b'{"prompt": "x", "model": "gpt-4"}', 404, "does not exist"),
    "a gap of nothing": (b'{"prompt": "x", "suffix": "y", "max_tokens": 0}', 400, "at least one token"),
    "a gap at the beginning": (b'{"prompt": "", "suffix": "y"}', 400, "the text begins with a gap"),
    "a long suffix": (json.dumps({"prompt": "x", "suffix": "天" * 600}).encode(), 400, "the context"),
    "large": (b'{"prompt": "' + b"x" * (2 << 20) + b'"}', 413, "larger than"),
    "bias": (b'{"prompt": "x", "logit_bias": {"a": 1}}', 400, "no token id"),
    "bias of no id": (b'{"prompt": "x", "logit_bias": {"600000": 1}}', 400, "no token id"),
    "bias of a sign": ('{"prompt": "x", "logit_bias": {"²": 1}}'.encode(), 400, "no token id"),
    "bias without end": (b'{"prompt": "x", "logit_bias": {"' + b"9" * 5000 + b'": 1}}', 400, "no token id"),
    "bias NaN": (b'{"prompt": "x", "logit_bias": {"1": -Infinity}}', 400, "no JSON number"),
    "10 MB": (b'{"prompt": "' + b"x" * (10 << 20) + b'"}', 413, "larger than"),
    "a million stops": (json.dumps({"prompt": "x", "stop": ["a"] * 10**6}).encode(), 413, "larger than"),
    "a long stop": (json.dumps({"prompt": "x", "stop": ["a" * 10**5]}).encode(), 400, "stop"),
    "nested objects": (b'{"prompt": "x", "logit_bias": ' + b'{"a":' * 50000 + b"1" + b"}" * 50000 + b"}", 400, ""),
    "negative tokens": (b'{"prompt": "x", "max_tokens": -1}', 400, "max_tokens"),
    "huge tokens": (b'{"prompt": "x", "max_tokens": 1' + b"0" * 400 + b"}", 400, "max_tokens"),
    "a number of 5000 digits": (b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}", 400, "not JSON"),
    "a word for a number": (b'{"prompt": "x", "max_tokens": "5"}', 400, "max_tokens"),
    "true for a number": (b'{"prompt": "x", "n": true}', 400, "n:"),
    "a fraction": (b'{"prompt": "x", "n": 1.5}', 400, "n:"),
    "a number for a text": (b'{"prompt": 7}', 400, "prompt"),
    "an object for a text": (b'{"prompt": {"a": 1}}', 400, "prompt"),
    "mixed prompts": (b'{"prompt": ["x", 7]}', 400, "prompt"),
    "stream options": (b'{"prompt": "x", "stream": "yes"}', 400, "stream"),
    "no time": (b'{"prompt": "x", "deadline": 0}', 400, "deadline"),
    "more answers than places": (json.dumps({"prompt": ["x"] * 64, "n": 16}).encode(), 400, "at most"),
    "a long name": (json.dumps({"prompt": "x", "model": "m" * 10**5}).encode(), 400, "model"),
    "a name twice": (
        b'{"prompt": "x", "max_tokens": 1, "prompt": "y"}',
        400,
        "field 'prompt': is there more",
    ),
    "a name twice within": (
        b'{"prompt": "x", "logit_bias": {"1": 0, "1": 0}}',
        400,
        "field '1': is there more",
    ),
    "a name twice, escaped": (b'{"prompt": "x", "n": 1, "\\u006e": 1}', 400, "field 'n': is there more"),
    "nothing": (b"", 400, "not JSON"),
    "half a body": (b'{"prompt": "x"', 400, "not JSON"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_request_gets_one_line_and_the_server_lives(port: int, name: str) -> None:
    body, status, message = HOSTILE[name]
    found, answer, _ = ask(port, "/v1/completions", body)
    assert found == status, answer
    line = answer["error"]["message"]
    assert message in line and "\n" not in line and len(line) < 1000
    assert ask(port, "/health")[0] == 200


def test_a_body_without_a_length_is_measured_as_it_comes(port: int) -> None:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    parts = iter([b"x" * (1 << 18)] * 40)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.request("POST", "/v1/completions", parts, {"Content-Type": "application/json"}, encode_chunked=True)
    with contextlib.suppress(ConnectionResetError):
        assert client.getresponse().status == 413
    client.close()
    assert ask(port, "/health")[0] == 200


def wait_for(port: int, line: str) -> None:
    """Until /metrics says it."""
    for _ in range(400):
        if line in ask(port, "/metrics")[1]:
            return
        time.sleep(0.025)
    raise AssertionError(f"{line} never came")


def to_the_end(one: socket.socket) -> bytes:
    """What comes until the other side closes."""
    read = b""
    while part := one.recv(1 << 20):
        read += part
    return read


def test_connections_that_do_nothing_are_closed(model: pangu.LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a request, half a second request, a body that never ends."""
    monkeypatch.setattr(connection, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(guard, "READ_SECONDS", 0.3)
    start = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with serving(model, rows=2) as port:
        sockets = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(3)]
        silent, second, slow = sockets
        silent.sendall(start)
        second.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.1)
        second.sendall(start)
        slow.sendall(start + b"Content-Length: 100\r\n\r\n{")
        assert to_the_end(silent) == b""
        assert to_the_end(second).count(b"HTTP/1.1") == 1
        assert slow.recv(4096).startswith(b"HTTP/1.1 408")
        assert ask(port, "/health")[0] == 200
        for one in sockets:
            one.close()


def test_an_answer_that_nobody_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "UNREAD_SECONDS", 0.2)
    ended = threading.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * (1 << 16)
                await asyncio.sleep(0)
        finally:
            ended.set()

    with running(Starlette(routes=[Route("/", lambda request: StreamingResponse(endless()))])) as port:
        unread = socket.create_connection(("127.0.0.1", port), timeout=20)
        unread.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert ended.wait(30)
        unread.close()


def test_a_client_that_goes_away_frees_its_rows(port: int) -> None:
    for _ in range(6):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        body = json.dumps({"prompt": "人", "max_tokens": 400, "stream": True, "n": 2, "temperature": 1.0, "top_k": 0})
        client.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        client.getresponse().read(40)
        client.close()
    half_open = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    for one in half_open:
        one.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le")
    assert completion(port, prompt="今天", max_tokens=2)["choices"]
    for one in half_open:
        one.close()
    wait_for(port, "pangu_running 0")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "attacker.example"}, 403),
        ({"Host": "localhost:1"}, 200),
        ({"Origin": "http://attacker.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[bad"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": "x" * 3000}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_pages_of_others_cannot_ask(port: int, headers: dict[str, str], status: int) -> None:
    body = {"prompt": "x", "max_tokens": 1}
    found, _, answer = ask(port, "/v1/completions", body, **headers)
    assert found == status and "access-control-allow-origin" not in {name.lower() for name in answer}


def test_a_key_is_asked_for(model: pangu.LanguageModel) -> None:
    with serving(model, guard.Policy(keys=("secret", "钥匙"), origins=("https://app.example",)), rows=1) as port:
        assert ask(port, "/health")[0] == 200 and ask(port, "/")[0] == 200
        for key in (None, "Bearer wrong", "Bearer ", "secre", "Bearer 钥".encode().decode("latin-1")):
            assert ask(port, "/v1/models", **({"Authorization": key} if key else {}))[0] == 401
        status, _, headers = ask(port, "/v1/models", Authorization="Bearer secret", Origin="https://app.example")
        assert status == 200 and headers["access-control-allow-origin"] == "https://app.example"
        assert ask(port, "/v1/models", Authorization="Bearer 钥匙".encode().decode("latin-1"))[0] == 200
        status, _, headers = ask(port, "/v1/completions", method="OPTIONS", Origin="https://app.example")
        assert status == 204 and "Authorization" in headers["access-control-allow-headers"]
        assert ask(port, "/v1/completions", method="OPTIONS", Origin="https://other.example")[0] == 403
        status, answer, _ = ask(port, "/v1/completions", method="GET", Authorization="Bearer secret")
        assert status == 405 and "does not take GET" in answer["error"]["message"]


def test_a_full_queue_says_when_to_come_back(model: pangu.LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go, parts = threading.Event(), Scheduler._parts  # no step before the queue has been seen
    monkeypatch.setattr(Scheduler, "_parts", lambda self: may_go.wait(60) and parts(self))
    with serving(model, rows=1, most_waiting=1) as port:
        with ThreadPoolExecutor(1) as pool:
            busy = pool.submit(completion, port, prompt="人", max_tokens=4, n=2)
            wait_for(port, "pangu_waiting 1")
            status, answer, headers = ask(port, "/v1/completions", {"prompt": "人", "max_tokens": 1})
            may_go.set()
            busy.result()
        assert status == 429 and headers["retry-after"] == "1" and answer["error"]["code"] == "queue_full"
        assert completion(port, prompt="人", max_tokens=2, n=2)["choices"]


# -- the scheduler ---------------------------------------------------------------------------------------------------


def test_a_long_prompt_holds_nobody_up(model: pangu.LanguageModel) -> None:
    scheduler = scheduler_of(model, rows=2)
    first: list[Event] = []
    scheduler.submit([answering(model, "今天", first)])
    step(scheduler)
    scheduler.submit([answering(model, PROMPTS[3] + PROMPTS[3], [], new=1)])
    for _ in range(2):
        before = len(first)
        assert max(step(scheduler)) > 1 and len(first) == before + 1  # a chunk of one, a token of the other


def test_a_cancelled_answer_frees_its_row_at_the_next_step(model: pangu.LanguageModel) -> None:
    scheduler = scheduler_of(model, rows=1)
    events: list[Event] = []
    one, other = answering(model, "今天", events), answering(model, "人", [])
    scheduler.submit([one, other])
    step(scheduler)
    scheduler.cancel(one)
    told = len(events)
    step(scheduler)
    assert scheduler.running == {0: other} and len(events) == told


def test_priority_and_deadline_decide_who_waits(model: pangu.LanguageModel) -> None:
    scheduler = scheduler_of(model, rows=1)
    events: list[Event] = []
    late = answering(model, "今天", events, deadline=time.monotonic() - 1)
    scheduler.submit([answering(model, "人", [], priority=5), late])
    urgent = answering(model, "北京", [], priority=-1)
    scheduler.submit([urgent])
    step(scheduler)
    assert scheduler.running == {0: urgent}
    scheduler.cancel(urgent)
    step(scheduler)
    assert events[0].error == "the deadline has passed"
    with pytest.raises(QueueFull):
        scheduler.submit([answering(model, "人", []) for _ in range(9)])


# -- real clients, the command line ----------------------------------------------------------------------------------


def test_the_openai_package_is_served(model: pangu.LanguageModel, port: int) -> None:
    openai = pytest.importorskip("openai", reason="the openai package is not installed")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    assert [one.id for one in client.models.list()] == ["small"]
    whole = client.completions.create(model="small", prompt=PROMPTS[0], max_tokens=8, seed=3, logprobs=1)
    stream = client.completions.create(model="small", prompt=PROMPTS[0], max_tokens=8, seed=3, stream=True)
    assert "".join(part.choices[0].text for part in stream) == whole.choices[0].text
    chat = client.chat.completions.create(model="small", messages=[{"role": "user", "content": "你好"}], max_tokens=4)
    assert chat.choices[0].message.role == "assistant" and chat.usage.completion_tokens <= 4
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="none", prompt="x")


def test_langchain_is_served(model: pangu.LanguageModel, port: int) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    where = {"model": "small", "base_url": f"http://127.0.0.1:{port}/v1", "api_key": "none", "seed": 3}
    completions = langchain.OpenAI(max_tokens=8, temperature=0.8, **where)
    whole = completions.invoke(PROMPTS[0])
    assert whole and "".join(completions.stream(PROMPTS[0])) == whole
    assert completions.batch([PROMPTS[0], PROMPTS[1]])[0] == whole
    answer = langchain.ChatOpenAI(max_tokens=4, **where).invoke("你好")
    assert answer.type == "ai" and answer.usage_metadata["output_tokens"] <= 4


def test_lm_evaluation_harness_is_served(model: pangu.LanguageModel, port: int) -> None:
    """Its `local-completions` with the server's own tokenizer gives the log-likelihoods of the model."""
    clients = pytest.importorskip("lm_eval.models.openai_completions", reason="lm-evaluation-harness is not installed")
    instance = pytest.importorskip("lm_eval.api.instance").Instance
    client = clients.LocalCompletionsAPI(
        model="small",
        base_url=f"http://127.0.0.1:{port}/v1/completions",
        tokenizer_backend="remote",
        max_length=model.config.seq_length - 1,
    )
    pairs = [("今天", "天气"), (PROMPTS[1], PROMPTS[0])]
    asked = [instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    expected = [float(one.log_probabilities.sum()) for one in model.log_likelihood(pairs)]
    assert [value for value, _ in client.loglikelihood(asked)] == pytest.approx(expected, abs=1e-6)
    options = {"until": ["\n"], "max_gen_toks": 6, "temperature": 0}
    [text] = client.generate_until([instance("generate_until", {}, (PROMPTS[0], options), 0)])
    assert text == model.generate(PROMPTS[0], max_new_tokens=6, temperature=0, stop_strings=("\n",))


def test_the_playground_asks_nobody_else() -> None:
    text = (Path(pangu.__file__).parent / "serving/playground.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=[\"'](?!data:)", text) and "//cdn" not in text
    assert set(re.findall(r"https?://[^\s\"'`$<]+", text)) == set()
    words = re.search(r"zh: \{(.*?)\},\n  en: \{(.*?)\} \};", text, re.DOTALL)
    assert words
    chinese, english = (set(re.findall(r"(\w+): \"", part)) for part in words.groups())
    assert chinese == english and "presets" in chinese


def test_a_person_plays_with_the_page(model: pangu.LanguageModel, port: int, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as browser:
        browser.open(f"http://127.0.0.1:{port}/")
        browser.wait("document.getElementById('first')?.options.length === 1")
        browser.evaluate("document.getElementById('prompt').value = '今天天气'; set('max_tokens', 12); set('seed', 3)")
        browser.evaluate("document.getElementById('run').click()")
        browser.wait("document.querySelector('.answer small')?.textContent && !document.getElementById('run').disabled")
        written = browser.evaluate("document.querySelector('.text').textContent")
        options = {"max_new_tokens": 12, "temperature": 0.8, "top_k": 40, "seed": 3}
        assert written == "今天天气" + model.generate("今天天气", **options)
        assert "%" in browser.evaluate("document.querySelector('.token').dataset.tip")
        browser.evaluate("document.getElementById('language').click()")
        labels = [browser.evaluate("document.getElementById('run').textContent")]
        browser.evaluate("document.getElementById('language').click()")
        labels.append(browser.evaluate("document.getElementById('run').textContent"))
        assert set(labels) == {"续写 (Ctrl+Enter)", "Continue (Ctrl+Enter)"}
        browser.send("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
        assert browser.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "set PANGU_API_KEY or give --api-key-file"),
        (["--api-key-file", "no-such-file"], "no-such-file: cannot be read"),
        (["--rows", "0"], "--rows must be at least 1"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    model: pangu.LanguageModel, monkeypatch: pytest.MonkeyPatch, capsys, words: list[str], message: str
) -> None:
    monkeypatch.delenv("PANGU_API_KEY", raising=False)
    assert main(["serve", model.source, *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


def test_two_models_need_two_names() -> None:
    from pangu.commands.serve import named

    assert named(["a=x/run", "y/b"]) == {"a": "x/run", "b": "y/b"}
    with pytest.raises(UserError):
        named(["x/run", "y/run"])


def test_a_conversation_ends_with_the_user() -> None:
    with pytest.raises(RequestError):
        check_conversation([Message(role="assistant", content="好")])
    with pytest.raises(RequestError):
        check_conversation([Message(role="user", content="好"), Message(role="system", content="好")] * 2)
