"""Check what is asked: OpenAI's completions and chat completions, with two options of our own.

An unknown field is ignored, as other servers do; a known one of a wrong type or value is one line that names it.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pangu.foundation.errors import UserError
from pangu.generation.options import GenerationOptions

Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
MOST_STOPS, LONGEST_STOP, MOST_CHOICES, MOST_PROMPTS = 16, 200, 16, 64


class RequestError(Exception):
    """A request that gets an error: HTTP status, message, the field that is wrong, a code."""

    def __init__(self, status: int, message: str, field: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.field, self.code = status, message, field, code

    @property
    def body(self) -> dict[str, Any]:
        """Return OpenAI's form of an error."""
        kind = (
            "server_error"
            if self.status >= 500
            else "rate_limit_error"
            if self.status == 429
            else "invalid_request_error"
        )
        return {"error": {"message": self.message, "type": kind, "param": self.field, "code": self.code}}


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    include_usage: bool = False


class Sampling(BaseModel):
    """The fields that both ways of asking share."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, strict=True)

    model: Annotated[str, Field(max_length=200)] = ""
    temperature: Annotated[float, Field(ge=0, le=10)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: str | list[Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    user: str | None = None
    # of our own
    top_k: Annotated[int, Field(ge=0)] = 0
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    priority: Annotated[int, Field(ge=-100, le=100, description="lower goes first")] = 0
    deadline: Annotated[float, Field(gt=0, description="seconds after which nobody waits any more")] | None = None

    def stops(self) -> tuple[str, ...]:
        """Return the stop strings. Raises RequestError where there are too many."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > MOST_STOPS:
            raise RequestError(400, f"stop: has {len(stops)} strings; at most {MOST_STOPS} are taken", "stop")
        return tuple(stop for stop in stops if stop)

    def biases(self, vocabulary: int) -> dict[int, float]:
        """Return {token: bias}. Raises RequestError for what is no token."""
        found = {}
        for name, value in (self.logit_bias or {}).items():
            is_number = name.isascii() and name.isdigit() and len(name) < 10
            if not is_number or int(name) >= vocabulary:
                raise RequestError(
                    400, f"logit_bias: {name[:20]!r} is no token id; they are 0..{vocabulary - 1}", "logit_bias"
                )
            found[int(name)] = value
        return found

    def options(self, max_new_tokens: int, seed: int, sample: int, stop_ids: tuple[int, ...]) -> GenerationOptions:
        """Return the options of generation."""
        return GenerationOptions(
            max_new_tokens=max_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            stop_ids=stop_ids,
            stop_strings=self.stops(),
            seed=seed,
            sample=sample,
        )


class CompletionRequest(Sampling):
    """POST /v1/completions."""

    prompt: str | Ids | list[str] | list[Ids]
    max_tokens: Annotated[int, Field(ge=0)] = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool = False
    best_of: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    suffix: str | None = None

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts as a list. Raises RequestError where there are none or too many."""
        given: Any = self.prompt
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            return [given]
        if not 1 <= len(given) <= MOST_PROMPTS:
            raise RequestError(400, f"prompt: has {len(given)} prompts; 1 to {MOST_PROMPTS} are taken", "prompt")
        return list(given)


class Message(BaseModel):
    model_config = ConfigDict(strict=True)

    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(Sampling):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0


class TokenizeRequest(BaseModel):
    """POST /tokenize, as lm-evaluation-harness's remote tokenizer asks."""

    model_config = ConfigDict(extra="ignore", strict=True)

    prompt: str
    add_special_tokens: bool = False


Model = TypeVar("Model", bound=BaseModel)


def parse(schema: type[Model], fields: Any) -> Model:
    """Check a JSON body. Raises RequestError that names the first wrong field."""
    if not isinstance(fields, dict):
        raise RequestError(400, "the body must be a JSON object")
    try:
        # Clients write null for what they leave out.
        return schema.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"] if not isinstance(part, int) and "[" not in str(part))
        top = str(first["loc"][0]) if first["loc"] else None
        raise RequestError(400, f"{name or 'the body'}: {first['msg'].lower()}", top) from None
    except UserError as error:
        raise RequestError(400, str(error)) from None


def check_conversation(messages: list[Message]) -> None:
    """Raise RequestError where the last message is not the user's, or where a system message stands inside."""
    if messages[-1].role != "user":
        raise RequestError(400, "messages: the last one must be of role user", "messages")
    for number, message in enumerate(messages[1:], 1):
        if message.role == "system":
            raise RequestError(400, f"messages[{number}]: a system message stands first", "messages")
