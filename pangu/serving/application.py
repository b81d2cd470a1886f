"""Routes and answers: OpenAI's models, completions and chat, a tokenizer's, health, figures and the playground."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from pangu.foundation.errors import UserError
from pangu.foundation.json_text import dumps
from pangu.foundation.page import policy as content_policy
from pangu.serving.guard import Guard, Policy, read_json
from pangu.serving.protocol import (
    ChatRequest,
    CompletionRequest,
    RequestError,
    Sampling,
    TokenizeRequest,
    check_conversation,
    parse,
)
from pangu.serving.scheduler import Answering, Event, QueueFull, Scheduler, TokenScore
from pangu.serving.statistics import Statistics
from pangu.tuning.records import Turn
from pangu.tuning.template import Template

if TYPE_CHECKING:
    from pangu.language_model import LanguageModel

PLAYGROUND = Path(__file__).with_name("playground.html")
FINISH = {"length": "length", "stop_id": "stop", "stop_string": "stop"}
WATCH_SECONDS = 0.25  # how often a request that is not streamed looks whether its client is still there
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@dataclass
class Choice:
    """A choice as it grows."""

    text: str = ""
    finish: str | None = None
    scores: list[TokenScore] = field(default_factory=list)
    prompt_scores: tuple[TokenScore, ...] = ()
    tokens: int = 0

    @property
    def mean(self) -> float:
        """Return the mean log p of its tokens, which `best_of` compares."""
        known = [score.log_probability for score in self.scores if score.log_probability is not None]
        return sum(known) / len(known) if known else float("-inf")


@dataclass
class Asked:
    """A request with its sequences. Sequence i is sample i % samples of prompt i // samples."""

    id: str
    model: str
    answering: list[Answering]
    events: "asyncio.Queue[tuple[int, Event]]"
    samples: int
    shown: int
    prompt_tokens: int
    is_chat: bool
    echo: list[str] = field(default_factory=list)
    drops_token: bool = False  # max_tokens 0: the token that the engine adds is not passed on
    created: int = field(default_factory=lambda: int(time.time()))


class Server:
    """Models by name, each with a scheduler."""

    def __init__(
        self,
        models: "dict[str, LanguageModel]",
        policy: Policy,
        rows: int = 8,
        most_waiting: int = 64,
        seconds: float = 600.0,
    ) -> None:
        self.models, self.seconds, self.statistics = models, seconds, Statistics()
        self.policy = Policy(policy.keys, policy.hosts, policy.origins, policy.most_bytes, self.count)
        self.schedulers = {
            name: Scheduler(model.generator, rows, most_waiting, self.statistics) for name, model in models.items()
        }
        self.created = int(time.time())

    def count(self, status: int) -> None:
        """Count an answer."""
        self.statistics.answers[status] = self.statistics.answers.get(status, 0) + 1

    def start(self) -> None:
        """Start the engines."""
        for scheduler in self.schedulers.values():
            scheduler.start()

    def stop(self, drain_seconds: float = 30.0) -> None:
        """Finish what runs, then end."""
        for scheduler in self.schedulers.values():
            scheduler.stop(drain_seconds)

    def application(self) -> Guard:
        """Return the ASGI application."""
        routes = [
            Route("/", self.playground),
            Route("/v1/models", self.list_models),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/tokenizer_info", self.tokenizer_info),
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/health", self.health),
            Route("/metrics", self.metrics),
        ]
        return Guard(
            Starlette(
                routes=routes,
                exception_handlers={RequestError: refused, UserError: mistaken, 404: unknown, Exception: failed},
            ),
            self.policy,
        )

    # -- small answers ----------------------------------------------------------------------------------------------

    async def playground(self, request: Request) -> Response:
        """Serve the page to play with."""
        headers = {"Content-Security-Policy": content_policy(has_script=True, has_server=True)}
        return HTMLResponse(PLAYGROUND.read_text(encoding="utf-8"), headers=headers)

    async def list_models(self, request: Request) -> Response:
        """List the models."""
        rows = [
            {"id": name, "object": "model", "created": self.created, "owned_by": "pangu"}
            | {"context": self.context(name)}
            for name in self.models
        ]
        return JSONResponse({"object": "list", "data": rows})

    def context(self, name: str) -> int:
        """Return the length of a model's context."""
        return self.models[name].config.seq_length

    async def health(self, request: Request) -> Response:
        """Say whether the engines run."""
        is_well = all(
            scheduler.thread.is_alive() and not scheduler.is_draining for scheduler in self.schedulers.values()
        )
        return JSONResponse({"status": "ok" if is_well else "stopping"}, 200 if is_well else 503)

    async def metrics(self, request: Request) -> Response:
        """Say what was done, for Prometheus."""
        self.statistics.running = sum(len(one.running) for one in self.schedulers.values())
        self.statistics.waiting = sum(one.promised for one in self.schedulers.values())
        return PlainTextResponse(self.statistics.text(), media_type="text/plain; version=0.0.4")

    async def tokenizer_info(self, request: Request) -> Response:
        """Say what lm-evaluation-harness asks of a remote tokenizer."""
        tokenizer = next(iter(self.models.values())).tokenizer
        end = tokenizer.piece(tokenizer.special.end_of_document)
        return JSONResponse({"eos_token": end, "bos_token": None, "pad_token": None, "chat_template": None})

    async def tokenize(self, request: Request) -> Response:
        """Cut a text into ids."""
        asked = parse(TokenizeRequest, await read_json(request, self.policy))
        ids = next(iter(self.models.values())).ids(asked.prompt) if asked.prompt else []
        return JSONResponse({"tokens": ids, "count": len(ids)})

    # -- completions ------------------------------------------------------------------------------------------------

    def model_of(self, name: str) -> str:
        """Return a model's name; with one model any name means it. Raises RequestError."""
        if name in self.models:
            return name
        if len(self.models) == 1 and not name:
            return next(iter(self.models))
        known = ", ".join(self.models)
        raise RequestError(404, f"model {name!r} does not exist; there is {known}", "model", "model_not_found")

    async def completions(self, request: Request) -> Response:
        """Continue prompts."""
        asked = parse(CompletionRequest, await read_json(request, self.policy))
        if asked.suffix:
            raise RequestError(400, "suffix: this model writes from left to right only", "suffix")
        samples = max(asked.n, asked.best_of or 0)
        if asked.stream and samples > asked.n:
            raise RequestError(400, "best_of: cannot be streamed; leave out stream", "best_of")
        if asked.best_of is not None and asked.best_of < asked.n:
            raise RequestError(400, f"best_of: is {asked.best_of}, n {asked.n}; must be at least n", "best_of")
        name = self.model_of(asked.model)
        model = self.models[name]
        prompts = [model.ids(prompt) or [self.end_of_document(model)] for prompt in asked.prompts()]
        scores = asked.logprobs if asked.logprobs is not None else 0 if samples > asked.n else None
        work = self.submit(
            name, asked, prompts, asked.max_tokens, samples, scores, asked.echo and asked.logprobs is not None
        )
        if asked.echo:
            texts = [one if isinstance(one, str) else model.tokenizer.decode(one) for one in asked.prompts()]
            work.echo = texts
        work.shown = asked.n
        return await self.answer(request, work, asked, asked.logprobs is not None)

    async def chat(self, request: Request) -> Response:
        """Answer the last message of a conversation."""
        asked = parse(ChatRequest, await read_json(request, self.policy))
        name = self.model_of(asked.model)
        model = self.models[name]
        check_conversation(asked.messages)
        prompt = model.ids(model.template.prompt([Turn(one.role, one.content) for one in asked.messages]))
        most = asked.max_completion_tokens or asked.max_tokens or max(1, self.context(name) + 1 - len(prompt))
        scores = asked.top_logprobs if asked.logprobs else None
        stop = [*asked.stops(), *turn_stops(model.template)]
        work = self.submit(name, asked.model_copy(update={"stop": stop}), [prompt], most, asked.n, scores, False)
        work.is_chat, work.shown = True, asked.n
        return await self.answer(request, work, asked, asked.logprobs)

    @staticmethod
    def end_of_document(model: "LanguageModel") -> int:
        """Return the id that an empty prompt stands for."""
        return model.tokenizer.special.end_of_document

    def submit(
        self,
        name: str,
        asked: Sampling,
        prompts: list[list[int]],
        max_tokens: int,
        samples: int,
        scores: int | None,
        scores_prompt: bool,
    ) -> Asked:
        """Queue the sequences of a request. Raises RequestError for what does not fit, and where the queue is full."""
        model, scheduler = self.models[name], self.schedulers[name]
        loop, events = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Event]]()
        context = self.context(name)
        if max_tokens > context:
            raise RequestError(400, f"max_tokens: is {max_tokens}; the context holds {context} tokens", "max_tokens")
        seed = asked.seed if asked.seed is not None else secrets.randbits(32)
        answering = []
        try:
            for prompt in prompts:
                for sample in range(samples):
                    number = len(answering)

                    def tell(event: Event, number: int = number) -> None:
                        loop.call_soon_threadsafe(events.put_nowait, (number, event))

                    options = asked.options(max(1, max_tokens), seed, sample, (self.end_of_document(model),))
                    one = Answering(list(prompt), options, tell, scores, scores_prompt, asked.priority)
                    one.deadline = time.monotonic() + self.seconds
                    one.bias = asked.biases(model.config.vocab_size)
                    answering.append(one)
            scheduler.submit(answering)
        except UserError as error:
            raise RequestError(400, str(error), code="context_length_exceeded") from None
        except QueueFull:
            raise RequestError(429, "too many requests wait; try again in a moment", code="queue_full") from None
        tokens = sum(map(len, prompts))
        made = "chatcmpl-" if isinstance(asked, ChatRequest) else "cmpl-"
        work = Asked(made + secrets.token_hex(12), name, answering, events, samples, samples, tokens, False)
        work.drops_token = max_tokens == 0
        return work

    async def answer(self, request: Request, work: Asked, asked: Sampling, has_scores: bool) -> Response:
        """Answer at once, or piece by piece."""
        if asked.stream:
            usage = asked.stream_options is not None and asked.stream_options.include_usage
            return StreamingResponse(
                self.stream(work, has_scores, usage), media_type="text/event-stream", headers=STREAM_HEADERS
            )
        try:
            choices = [Choice() for _ in work.answering]
            left = len(choices)
            while left:
                try:
                    number, event = await asyncio.wait_for(work.events.get(), WATCH_SECONDS)
                except TimeoutError:
                    if await request.is_disconnected():
                        return Response(status_code=499)
                    continue
                grow(choices[number], event, work)
                left -= event.is_last
        finally:
            self.cancel(work)
        return JSONResponse(self.whole(work, choices, has_scores))

    def cancel(self, work: Asked) -> None:
        """Free the rows of a request that has ended."""
        for one in work.answering:
            self.schedulers[work.model].cancel(one)

    def whole(self, work: Asked, choices: Sequence[Choice], has_scores: bool) -> dict[str, Any]:
        """Return the answer of a request that is not streamed."""
        shown: list[dict[str, Any]] = []
        for start in range(0, len(choices), work.samples):
            own = list(choices[start : start + work.samples])
            if work.samples > work.shown:
                own = sorted(own, key=lambda choice: -choice.mean)[: work.shown]
            echo = work.echo[start // work.samples] if work.echo else ""
            for choice in own:
                scores = [*choice.prompt_scores, *choice.scores] if has_scores else None
                shown.append(self.shown_choice(work, len(shown), echo + choice.text, choice.finish, scores))
        tokens = sum(choice.tokens for choice in choices)
        return self.envelope(work, shown, is_stream=False) | {"usage": usage_of(work.prompt_tokens, tokens)}

    def envelope(self, work: Asked, choices: list[dict[str, Any]], is_stream: bool) -> dict[str, Any]:
        """Return what stands around choices."""
        kind = "text_completion"
        if work.is_chat:
            kind = "chat.completion.chunk" if is_stream else "chat.completion"
        return {"id": work.id, "object": kind, "created": work.created, "model": work.model, "choices": choices}

    def shown_choice(
        self,
        work: Asked,
        index: int,
        text: str,
        finish: str | None,
        scores: Sequence[TokenScore] | None,
        is_stream: bool = False,
    ) -> dict[str, Any]:
        """Return a choice in the protocol's form."""
        tokenizer = self.models[work.model].tokenizer
        if work.is_chat:
            logprobs = None
            if scores is not None:
                logprobs = {"content": [chat_score(tokenizer, score) for score in scores]}
            part = {"delta" if is_stream else "message": {"role": "assistant", "content": text}}
            return {"index": index, **part, "logprobs": logprobs, "finish_reason": finish}
        logprobs = None if scores is None else completion_scores(tokenizer, scores)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    async def stream(self, work: Asked, has_scores: bool, has_usage: bool) -> AsyncIterator[str]:
        """Yield server-sent events. Closing the stream frees the rows."""
        try:
            left, tokens = len(work.answering), 0
            echoed = [not work.echo] * left
            while left:
                number, event = await work.events.get()
                choice = Choice()
                left -= event.is_last
                if event.error:
                    error = RequestError(503, event.error)
                    yield f"data: {dumps(error.body, ensure_ascii=False)}\n\n"
                    continue
                grow(choice, event, work)
                tokens += choice.tokens
                if not echoed[number]:
                    choice.text = work.echo[number // work.samples] + choice.text
                    echoed[number] = True
                if not choice.text and not choice.finish and not (has_scores and choice.scores):
                    continue
                scores = [*choice.prompt_scores, *choice.scores] if has_scores else None
                shown = self.shown_choice(work, number, choice.text, choice.finish, scores, is_stream=True)
                yield f"data: {dumps(self.envelope(work, [shown], is_stream=True), ensure_ascii=False)}\n\n"
            if has_usage:
                last = self.envelope(work, [], is_stream=True) | {"usage": usage_of(work.prompt_tokens, tokens)}
                yield f"data: {dumps(last)}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            self.cancel(work)


def grow(choice: Choice, event: Event, work: Asked) -> None:
    """Add an event to a choice. Raises RequestError for an answer that failed whole."""
    if event.error:
        raise RequestError(503, event.error)
    if event.prompt is not None:
        choice.prompt_scores = event.prompt
    if event.piece is None:
        return
    choice.finish = FINISH[event.piece.finish] if event.piece.finish else None
    if work.drops_token:
        return
    choice.text += event.piece.text
    choice.tokens += event.piece.token_id is not None
    if event.score is not None:
        choice.scores.append(event.score)


def usage_of(prompt: int, completion: int) -> dict[str, int]:
    """Return the protocol's count of tokens."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def completion_scores(tokenizer: Any, scores: Sequence[TokenScore]) -> dict[str, Any]:
    """Return scores in the form of completions; the first token of a prompt has none."""
    offsets, place = [], 0
    for score in scores:
        offsets.append(place)
        place += len(tokenizer.decode([score.token_id]))
    return {
        "tokens": [tokenizer.piece(score.token_id) for score in scores],
        "token_logprobs": [score.log_probability for score in scores],
        "top_logprobs": [
            None
            if score.log_probability is None
            else {tokenizer.piece(one): value for one, value in score.alternatives}
            for score in scores
        ],
        "text_offset": offsets,
    }


def chat_score(tokenizer: Any, score: TokenScore) -> dict[str, Any]:
    """Return a score in the form of chats."""

    def named(token: int, value: float | None) -> dict[str, Any]:
        return {"token": tokenizer.piece(token), "logprob": value, "bytes": list(tokenizer.bytes_of(token))}

    own = named(score.token_id, score.log_probability)
    return own | {"top_logprobs": [named(token, value) for token, value in score.alternatives]}


def turn_stops(template: Template) -> list[str]:
    """Return what begins the user's next turn, where an answer ends."""
    start = template.user.split("{text}")[0].strip()
    return [template.between + start] if start else []


async def refused(request: Request, error: Exception) -> Response:
    """Answer a request that cannot be served."""
    assert isinstance(error, RequestError)
    headers = {"Retry-After": "1"} if error.status == 429 else None
    return JSONResponse(error.body, error.status, headers=headers)


async def mistaken(request: Request, error: Exception) -> Response:
    """Answer a request with a text or an id that the model cannot take."""
    return JSONResponse(RequestError(400, str(error)).body, 400)


async def failed(request: Request, error: Exception) -> Response:
    """Answer a request that met a fault of ours."""
    return JSONResponse(RequestError(500, "the server failed; its log says why").body, 500)


async def unknown(request: Request, error: Exception) -> Response:
    """Answer for a path that is none."""
    return JSONResponse(RequestError(404, f"{request.url.path}: no such path").body, 404)
