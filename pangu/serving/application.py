"""Routes and answers: OpenAI's models, completions and chat, a tokenizer's, health, figures and the playground."""

import asyncio
import math
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from pangu.foundation.errors import UserError
from pangu.foundation.json_text import dumps
from pangu.foundation.page import policy as content_policy
from pangu.foundation.word_list import WordList
from pangu.generation.fill import BEGINS_WITH_GAP
from pangu.serving.answers import Asked, GrowingChoice, failure, grow, turn_stops, usage_of
from pangu.serving.events import Event
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
from pangu.serving.scheduler import Answering, QueueFull, Scheduler
from pangu.serving.statistics import Statistics
from pangu.serving.word_filter import Filter
from pangu.tuning.records import Turn

if TYPE_CHECKING:
    from pangu.language_model import LanguageModel

PLAYGROUND = Path(__file__).with_name("playground.html")
WATCH_SECONDS = 0.25  # how often a request that is not streamed looks whether its client is still there
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@dataclass(frozen=True)
class Sequences:
    """What a request asks for: samples of every prompt. behind, suffix: what follows a gap, as ids and as text.

    scores: how many alternatives to score, None: no scores. scores_prompt: score the prompt's tokens as well.
    """

    prompts: list[list[int]]
    max_tokens: int
    samples: int
    scores: int | None
    scores_prompt: bool = False
    behind: list[int] = field(default_factory=list)
    suffix: str = ""


class Server:
    """Models by name; those that share their weights, as adapters do, share a scheduler.

    words: answers and prompts with one of them are refused. prefix_rows: as `Scheduler` takes it.
    """

    def __init__(
        self,
        models: "dict[str, LanguageModel]",
        policy: Policy,
        rows: int = 8,
        most_waiting: int = 64,
        seconds: float = 600.0,
        prefix_rows: int | None = 0,
        words: WordList | None = None,
    ) -> None:
        self.models, self.seconds, self.statistics, self.words = models, seconds, Statistics(), words
        self.policy = Policy(policy.keys, policy.hosts, policy.origins, policy.most_bytes, self.count)
        networks = {id(model.generator.network): model.generator for model in models.values()}
        running = {
            key: Scheduler(generator, rows, most_waiting, self.statistics, prefix_rows)
            for key, generator in networks.items()
        }
        self.schedulers = {name: running[id(model.generator.network)] for name, model in models.items()}
        self.engines = list(running.values())
        self.created = int(time.time())

    def count(self, status: int) -> None:
        """Count an answer."""
        self.statistics.answers[status] = self.statistics.answers.get(status, 0) + 1

    def start(self) -> None:
        """Start the engines."""
        for scheduler in self.engines:
            scheduler.start()

    def stop(self, drain_seconds: float = 30.0) -> None:
        """Finish what runs, then end."""
        for scheduler in self.engines:
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
        handlers = {RequestError: refused, UserError: mistaken, 404: unknown, 405: unknown, Exception: failed}
        return Guard(Starlette(routes=routes, exception_handlers=handlers), self.policy)

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
        is_well = all(scheduler.thread.is_alive() and not scheduler.is_draining for scheduler in self.engines)
        return JSONResponse({"status": "ok" if is_well else "stopping"}, 200 if is_well else 503)

    async def metrics(self, request: Request) -> Response:
        """Say what was done, for Prometheus."""
        self.statistics.running = sum(len(one.running) for one in self.engines)
        self.statistics.waiting = sum(one.promised for one in self.engines)
        return PlainTextResponse(self.statistics.text(), media_type="text/plain; version=0.0.4")

    async def tokenizer_info(self, request: Request) -> Response:
        """Say what lm-evaluation-harness asks of a remote tokenizer."""
        tokenizer = next(iter(self.models.values())).tokenizer
        end = tokenizer.piece(tokenizer.special.end_of_document)
        return JSONResponse({"eos_token": end, "bos_token": None, "pad_token": None, "chat_template": None})

    async def tokenize(self, request: Request) -> Response:
        """Cut a text into ids."""
        asked = parse(TokenizeRequest, await read_json(request, self.policy))
        [ids] = await ids_of(next(iter(self.models.values())), [asked.prompt])
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
        if asked.suffix and not asked.max_tokens:
            raise RequestError(400, "max_tokens: is 0; a gap before a suffix has at least one token", "max_tokens")
        samples = max(asked.n, asked.best_of or 0)
        if asked.stream and samples > asked.n:
            raise RequestError(400, "best_of: cannot be streamed; leave out stream", "best_of")
        if asked.best_of is not None and asked.best_of < asked.n:
            raise RequestError(400, f"best_of: is {asked.best_of}, n {asked.n}; must be at least n", "best_of")
        name = self.model_of(asked.model)
        model = self.models[name]
        self.refuse_words(asked.suffix or "", *(self.text_of(model, prompt) for prompt in asked.prompts()))
        *prompts, behind = await ids_of(model, [*asked.prompts(), asked.suffix or ""])
        scores = asked.logprobs if asked.logprobs is not None else 0 if samples > asked.n else None
        is_scored = asked.echo and asked.logprobs is not None
        sequences = Sequences(prompts, asked.max_tokens, samples, scores, is_scored, behind, asked.suffix or "")
        work = self.submit(name, asked, sequences)
        if asked.echo:
            work.echo = [self.text_of(model, prompt) for prompt in asked.prompts()]
        work.shown = asked.n
        return await self.answer(request, work, asked, asked.logprobs is not None)

    async def chat(self, request: Request) -> Response:
        """Answer the last message of a conversation."""
        asked = parse(ChatRequest, await read_json(request, self.policy))
        name = self.model_of(asked.model)
        model = self.models[name]
        check_conversation(asked.messages)
        self.refuse_words(*(one.content for one in asked.messages))
        turns = [Turn(one.role, one.content) for one in asked.messages]
        [prompt] = await ids_of(model, [model.template.prompt(turns)])
        most = asked.max_completion_tokens or asked.max_tokens or max(1, self.context(name) + 1 - len(prompt))
        scores = asked.top_logprobs if asked.logprobs else None
        stop = [*asked.stops(), *turn_stops(model.template)]
        sequences = Sequences([prompt], most, asked.n, scores)
        work = self.submit(name, asked.model_copy(update={"stop": stop}), sequences)
        work.is_chat, work.shown = True, asked.n
        return await self.answer(request, work, asked, asked.logprobs)

    @staticmethod
    def end_of_document(model: "LanguageModel") -> int:
        """Return the id that an empty prompt stands for."""
        return model.tokenizer.special.end_of_document

    @staticmethod
    def text_of(model: "LanguageModel", prompt: str | list[int]) -> str:
        """Return a prompt as text; ids that the tokenizer has not are left out."""
        if isinstance(prompt, str):
            return prompt
        most = model.tokenizer.vocab_size
        return model.tokenizer.decode([token for token in prompt if token < most])

    def refuse_words(self, *texts: str) -> None:
        """Raise RequestError where a text holds a word of the operator's list."""
        if self.words and any(self.words.hits(text) for text in texts):
            raise RequestError(400, "the prompt holds a word that this server does not take", code="content_filter")

    def submit(self, name: str, asked: Sampling, wanted: Sequences) -> Asked:
        """Queue the sequences of a request. Raises RequestError for what does not fit, and where the queue is
        full."""
        model, scheduler = self.models[name], self.schedulers[name]
        loop, events = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Event]]()
        context, behind, samples = self.context(name), wanted.behind, wanted.samples
        if wanted.max_tokens > context:
            raise RequestError(
                400, f"max_tokens: is {wanted.max_tokens}; the context holds {context} tokens", "max_tokens"
            )
        if behind and not all(wanted.prompts):
            raise RequestError(400, BEGINS_WITH_GAP, "prompt")
        seed = asked.seed if asked.seed is not None else secrets.randbits(32)
        end = self.end_of_document(model)
        answering: list[Answering] = []
        prompts = [prompt or [end] for prompt in wanted.prompts]
        word_filter = Filter(self.words, lambda token: model.tokenizer.decode([token])) if self.words else None
        seconds = min(self.seconds, asked.deadline or self.seconds)
        biases = asked.biases(model.config.vocab_size) | ({end: -math.inf} if behind else {})
        try:
            for prompt in prompts:
                for sample in range(samples):
                    number = len(answering)

                    def tell(event: Event, number: int = number) -> None:
                        loop.call_soon_threadsafe(events.put_nowait, (number, event))

                    options = asked.options(max(1, wanted.max_tokens), seed, sample, () if behind else (end,))
                    one = Answering(list(prompt), options, tell, wanted.scores, wanted.scores_prompt, asked.priority)
                    one.deadline = time.monotonic() + seconds
                    one.bias, one.adapter, one.suffix = biases, model.generator.adapter, behind
                    if word_filter:
                        one.screen = word_filter.screen(self.text_of(model, prompt), wanted.suffix)
                    answering.append(one)
            scheduler.submit(answering)
        except UserError as error:
            raise RequestError(400, str(error), code="context_length_exceeded") from None
        except QueueFull:
            raise RequestError(429, "too many requests wait; try again in a moment", code="queue_full") from None
        tokens = sum(map(len, prompts)) + len(prompts) * len(behind)
        made = "chatcmpl-" if isinstance(asked, ChatRequest) else "cmpl-"
        work = Asked(
            made + secrets.token_hex(12), name, model.tokenizer, answering, events, samples, samples, tokens, False
        )
        work.drops_token = wanted.max_tokens == 0
        return work

    async def answer(self, request: Request, work: Asked, asked: Sampling, has_scores: bool) -> Response:
        """Answer at once, or piece by piece."""
        if asked.stream:
            usage = asked.stream_options is not None and asked.stream_options.include_usage
            return StreamingResponse(
                self.stream(work, has_scores, usage), media_type="text/event-stream", headers=STREAM_HEADERS
            )
        try:
            choices = [GrowingChoice() for _ in work.answering]
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
        return JSONResponse(work.whole(choices, has_scores))

    def cancel(self, work: Asked) -> None:
        """Free the rows of a request that has ended."""
        for one in work.answering:
            self.schedulers[work.model].cancel(one)

    async def stream(self, work: Asked, has_scores: bool, has_usage: bool) -> AsyncIterator[str]:
        """Yield server-sent events. Closing the stream frees the rows."""
        try:
            left, tokens = len(work.answering), 0
            echoed = [not work.echo] * left
            while left:
                number, event = await work.events.get()
                choice = GrowingChoice()
                left -= event.is_last
                if event.error:
                    yield f"data: {dumps(failure(event).body, ensure_ascii=False)}\n\n"
                    continue
                grow(choice, event, work)
                tokens += choice.tokens
                if not echoed[number]:
                    choice.text = work.echo[number // work.samples] + choice.text
                    echoed[number] = True
                if not choice.text and not choice.finish and not (has_scores and choice.scores):
                    continue
                scores = [*choice.prompt_scores, *choice.scores] if has_scores else None
                shown = work.shown_choice(number, choice.text, choice.finish, scores, is_stream=True)
                yield f"data: {dumps(work.envelope([shown], is_stream=True), ensure_ascii=False)}\n\n"
            if has_usage:
                last = work.envelope([], is_stream=True) | {"usage": usage_of(work.prompt_tokens, tokens)}
                yield f"data: {dumps(last)}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            self.cancel(work)


async def ids_of(model: "LanguageModel", texts: Sequence[str | list[int]]) -> list[list[int]]:
    """Return the ids of texts. A long text takes time, in which the others are served: hence a thread of its own."""
    return await asyncio.to_thread(lambda: [model.ids(text) if text else [] for text in texts])


async def refused(request: Request, error: Exception) -> Response:
    """Answer a request that cannot be served."""
    assert isinstance(error, RequestError)
    # A client that tries again by itself would wait for a second deadline.
    headers = {429: {"Retry-After": "1"}, 504: {"X-Should-Retry": "false"}}.get(error.status)
    return JSONResponse(error.body, error.status, headers=headers)


async def mistaken(request: Request, error: Exception) -> Response:
    """Answer a request with a text or an id that the model cannot take."""
    return JSONResponse(RequestError(400, str(error)).body, 400)


async def failed(request: Request, error: Exception) -> Response:
    """Answer a request that met a fault of ours."""
    return JSONResponse(RequestError(500, "the server failed; its log says why").body, 500)


async def unknown(request: Request, error: Exception) -> Response:
    """Answer for a path that is none, or that is asked in another way."""
    status, path = getattr(error, "status_code", 404), request.url.path[:100]
    message = f"{path}: no such path" if status == 404 else f"{path}: does not take {request.method}"
    return JSONResponse(RequestError(status, message).body, status)
