"""The form of answers: choices as they grow, and OpenAI's objects around them."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pangu.serving.events import Event, TokenScore
from pangu.serving.protocol import RequestError
from pangu.serving.scheduler import LATE, Answering
from pangu.tuning.template import Template

if TYPE_CHECKING:
    from pangu.tokenizer import Tokenizer

FINISH = {"length": "length", "stop_id": "stop", "stop_string": "stop", "filtered": "content_filter"}


@dataclass
class GrowingChoice:
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
    tokenizer: "Tokenizer"
    answering: list[Answering]
    events: "asyncio.Queue[tuple[int, Event]]"
    samples: int
    shown: int
    prompt_tokens: int
    is_chat: bool
    echo: list[str] = field(default_factory=list)
    drops_token: bool = False  # max_tokens 0: the token that the engine adds is not passed on
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: Sequence[GrowingChoice], has_scores: bool) -> dict[str, Any]:
        """Return the answer of a request that is not streamed."""
        shown: list[dict[str, Any]] = []
        for start in range(0, len(choices), self.samples):
            own = list(choices[start : start + self.samples])
            if self.samples > self.shown:
                own = sorted(own, key=lambda choice: -choice.mean)[: self.shown]
            echo = self.echo[start // self.samples] if self.echo else ""
            for choice in own:
                scores = [*choice.prompt_scores, *choice.scores] if has_scores else None
                shown.append(self.shown_choice(len(shown), echo + choice.text, choice.finish, scores))
        tokens = sum(choice.tokens for choice in choices)
        return self.envelope(shown, is_stream=False) | {"usage": usage_of(self.prompt_tokens, tokens)}

    def envelope(self, choices: list[dict[str, Any]], is_stream: bool) -> dict[str, Any]:
        """Return what stands around choices."""
        kind = "text_completion"
        if self.is_chat:
            kind = "chat.completion.chunk" if is_stream else "chat.completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}

    def shown_choice(
        self,
        index: int,
        text: str,
        finish: str | None,
        scores: Sequence[TokenScore] | None,
        is_stream: bool = False,
    ) -> dict[str, Any]:
        """Return a choice in the protocol's form."""
        tokenizer = self.tokenizer
        if self.is_chat:
            logprobs = None
            if scores is not None:
                logprobs = {"content": [chat_score(tokenizer, score) for score in scores]}
            part = {"delta" if is_stream else "message": {"role": "assistant", "content": text}}
            return {"index": index, **part, "logprobs": logprobs, "finish_reason": finish}
        logprobs = None if scores is None else completion_scores(tokenizer, scores)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def failure(event: Event) -> RequestError:
    """Return the error of an answer that came to no end; 504 where its time was over."""
    is_late = event.error == LATE
    return RequestError(504 if is_late else 503, event.error or "", code="deadline" if is_late else None)


def grow(choice: GrowingChoice, event: Event, work: Asked) -> None:
    """Add an event to a choice. Raises RequestError for an answer that failed whole."""
    if event.error:
        raise failure(event)
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
