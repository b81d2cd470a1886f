"""A model to use from Python: text in, text out, and ids wherever one wants them.

model = pangu.load("work/run")
model.generate("今天天气", max_new_tokens=20)
model.log_likelihood([("四川的省会是", "成都")])
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from pangu.foundation.errors import UserError
from pangu.generation.likelihood import Scored, score, windows
from pangu.generation.options import GenerationOptions

if TYPE_CHECKING:
    import numpy as np

    from pangu.config import ModelConfig
    from pangu.generation.engine import Continuation, Generator
    from pangu.generation.fill import Between
    from pangu.tokenizer import Tokenizer
    from pangu.tuning.template import Template

Text = str | Sequence[int]
Device = Literal["CPU", "Ascend", "GPU"]


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts texts: sums over all of them. `nats` is the negative log-likelihood."""

    nats: float
    tokens: int
    characters: int
    bytes: int

    @property
    def per_token(self) -> float:
        """Return exp(nats / tokens)."""
        return math.exp(self.nats / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """Return bits for each byte of UTF-8: comparable between tokenizers."""
        return self.nats / math.log(2) / self.bytes

    def to_dict(self) -> dict[str, float]:
        """Return every figure by name."""
        return {
            "nats": self.nats,
            "tokens": self.tokens,
            "characters": self.characters,
            "bytes": self.bytes,
            "perplexity": self.per_token,
            "bits_per_byte": self.bits_per_byte,
        }


def load(
    path: Path | str,
    *,
    model: Path | str | None = None,
    tokenizer: Path | str | None = None,
    device: Device = "CPU",
    dtype: str | None = None,
    engine: Literal["compiled", "mindspore"] | None = None,
    batch_size: int = 8,
    adapters: Mapping[str, Path | str] | None = None,
) -> "LanguageModel":
    """Load a run directory, a checkpoint, or weights of any form that `convert` reads.

    adapters: {name: directory} of LoRA adapters that share the weights: `model.adapted(name)` answers with one.
    model: a model.yaml or the name of a size, where nothing that lies with the weights says it. dtype: fp32, fp16 or
    bf16 (None: fp32 on a CPU). engine: None: the compiled one on a CPU, MindSpore's elsewhere.
    Raises UserError in one line.
    """
    from pangu.generation.engine import Generator

    for name, given, legal in (
        ("engine", engine, ("compiled", "mindspore")),
        ("dtype", dtype, ("fp32", "fp16", "bf16")),
    ):
        if given not in (None, *legal):
            raise UserError(f"{name} = {given!r}: must be one of {', '.join(legal)}")
    engine = engine or (None if device == "CPU" else "mindspore")
    if engine == "mindspore":
        from pangu.device import use_device

        use_device(device)
    dtype = dtype or ("fp32" if device == "CPU" and engine == "mindspore" else None)
    generator = Generator.load(path, model, tokenizer, dtype, batch_size, engine, adapters=adapters)
    return LanguageModel(generator, str(path), adapters, str(model) if model else None)


class LanguageModel:
    """A network with its tokenizer.

    source: the path that it was loaded from. base: of an adapter, where its base is; None: where it says.
    """

    def __init__(
        self,
        generator: "Generator",
        source: str = "",
        adapters: Mapping[str, Path | str] | None = None,
        base: str | None = None,
    ) -> None:
        self.generator, self.source, self.adapters = generator, source, dict(adapters or {})
        self.base = base

    def adapted(self, name: str) -> "LanguageModel":
        """Return a model that shares these weights and answers with an adapter, in its template. Raises UserError."""
        return LanguageModel(self.generator.adapted(name), str(self.adapters.get(name, "")), base=self.source)

    @property
    def config(self) -> "ModelConfig":
        """Return the network's sizes and choices."""
        return self.generator.config

    @property
    def tokenizer(self) -> "Tokenizer":
        """Return the tokenizer. Raises UserError where none lies beside the weights."""
        if self.generator.tokenizer is None:
            raise UserError(f"{self.source}: no tokenizer lies beside it; give one (--tokenizer, or tokenizer=)")
        return self.generator.tokenizer

    def ids(self, text: Text) -> list[int]:
        """Return the ids of a text; ids are returned as they are."""
        if isinstance(text, str):
            return [int(token) for token in self.tokenizer.encode_batch([text])[0]]
        return [int(token) for token in text]

    @cached_property
    def template(self) -> "Template":
        """Return the form in which the model is asked: an adapter's own, else the paper's form of questions."""
        from pangu.tuning.adapter_file import template_of_model

        return template_of_model(Path(self.source))

    def chat(self, question: str | Sequence[tuple[str, str]], **options: Any) -> str:
        """Answer a question, or the last of a conversation's (role, text) turns, in the model's template."""
        from pangu.tuning.records import Turn

        turns = [("user", question)] if isinstance(question, str) else list(question)
        for role, _ in turns:
            if role not in ("system", "user", "assistant"):
                raise UserError(f"role {role!r} is unknown; there are system, user and assistant")
        return self.generate(self.template.prompt([Turn(role, text) for role, text in turns]), **options)  # type: ignore[arg-type]

    def fill(self, text: str, gap_order: Literal["entropy", "left"] = "entropy", **options: Any) -> str:
        """Fill every `_` of a text with one token, given both sides; the surest gap first, or from the left.

        options: the fields of `GenerationOptions`. Needs a model that was trained with permuted rows.
        """
        from pangu.generation.fill import fill_text

        return fill_text(self.generator, text, self.options(options), gap_order).text

    @overload
    def generate(self, texts: str, **options: Any) -> str: ...

    @overload
    def generate(self, texts: Sequence[Text], **options: Any) -> list[str]: ...

    def generate(self, texts: Any, **options: Any) -> Any:
        """Continue one text, or several, and return what was written behind each.

        options: the fields of `GenerationOptions`. A text ends with the tokenizer's end of a document, which is no part
        of it.
        """
        if isinstance(texts, str):
            return self.complete([texts], **options)[0].text
        return [continuation.text for continuation in self.complete(texts, **options)]

    def complete(self, texts: Sequence[Text], **options: Any) -> "list[Continuation]":
        """Continue texts; like `generate`, with ids and the reason why each ended."""
        return self.generator.generate([self.ids(text) for text in texts], self.options(options))

    def stream(self, text: Text, **options: Any) -> Iterator[str]:
        """Continue a text piece by piece."""
        for piece in self.generator.stream([self.ids(text)], self.options(options)):
            if piece.text:
                yield piece.text

    def options(self, fields: dict[str, Any]) -> GenerationOptions:
        """Return options that also stop at the end of a document. Raises UserError for an unknown field."""
        known = GenerationOptions.__dataclass_fields__
        for name in fields:
            if name not in known:
                from pangu.foundation.settings import nearest_name

                raise UserError(f"option {name!r} is unknown{nearest_name(name, list(known))}")
        options = GenerationOptions(**fields)
        if self.generator.tokenizer is None:
            return options
        return replace(options, stop_ids=(*options.stop_ids, self.generator.tokenizer.special.end_of_document))

    def log_likelihood(
        self, pairs: Sequence[tuple[Text, Text]], done: Callable[[int], None] | None = None
    ) -> list[Scored]:
        """Score continuations of contexts: log p of every token of the second text behind the first, in nats.

        Where both are texts, what is scored are the ids of the whole behind its common beginning with the context's.
        An empty context begins a document (`pangu.generation.likelihood`). A context that is too long is cut from its
        left, never the rest.
        done: told of each pair that is finished.
        """
        return score(self.generator, [self.request(context, rest) for context, rest in pairs], done)

    def fill_log_likelihood(self, parts: Sequence[tuple[Text, Text, Text]]) -> list[Scored]:
        """Score the middle of (left, middle, right) given both sides: log p of its tokens from the left, in nats.

        An empty left side is the end of a document. Sides that are too long lose what is farthest from the middle.
        Needs a model that was trained with permuted rows. Raises UserError in one line.
        """
        from pangu.generation.fill import score_between

        return score_between(self.generator, [self.between(*one) for one in parts])

    def between(self, left: Text, middle: Text, right: Text) -> "Between":
        """Return the ids of what is scored and of its sides, cut to the context. Raises UserError."""
        from pangu.generation.fill import Between

        known, asked, behind = self.ids(left), self.ids(middle), self.ids(right)
        known = known or [self.tokenizer.special.end_of_document]
        room = self.config.seq_length - len(asked)
        if not asked:
            raise UserError(f"{middle!r} has no tokens: give what is scored")
        if room < 1:
            raise UserError(
                f"the middle has {len(asked)} tokens; the context holds {self.config.seq_length - 1} of them"
            )
        on_right = min(len(behind), max(room // 2, room - len(known)), room - 1)
        return Between(known[-(room - on_right) :], asked, behind[:on_right])

    def request(self, context: Text, rest: Text) -> tuple[list[int], list[int]]:
        """Return the ids of a context, cut from its left, and of what is scored behind it. Raises UserError."""
        first, second = self.parts(context, rest)
        most = self.config.seq_length + 1
        if len(second) >= most:
            raise UserError(f"a continuation has {len(second)} tokens; the context holds {most - 1} of them")
        return first[-(most - len(second)) :], second

    def parts(self, context: Text, rest: Text) -> tuple[list[int], list[int]]:
        """Return all ids of a context and of what is scored behind it. Raises UserError where nothing is."""
        if isinstance(context, str) and isinstance(rest, str) and context:
            before, whole = self.ids(context), self.ids(context + rest)
            same = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
            first, second = whole[: min(same, len(whole))], whole[same:]
        else:
            first, second = self.ids(context), self.ids(rest)
        if not second:
            raise UserError(f"{rest!r} has no tokens of its own behind its context; give a continuation")
        return first, second

    def rolling_log_likelihood(self, texts: Sequence[Text], done: Callable[[int], None] | None = None) -> list[float]:
        """Return the log-likelihood of whole texts, in nats, each token scored once (windows of the context's length).

        A text begins a document.
        """
        requests, owners = [], []
        for number, text in enumerate(texts):
            ids = self.ids(text)
            for request in windows(ids, self.config.seq_length):
                requests.append(request)
                owners.append(number)
        totals = [0.0] * len(texts)
        for owner, result in zip(owners, score(self.generator, requests, done), strict=True):
            totals[owner] += result.total
        return totals

    def nats_by_position(self, texts: Sequence[Text]) -> "tuple[np.ndarray, np.ndarray]":
        """Return sums of -log p in nats, fp64 [S], and numbers of tokens, int64 [S], at each position of the context.

        Position p counts the tokens that are predicted from p + 1 tokens; texts longer than the context are read in
        windows. It shows whether a longer context helps, and where a stretched one hurts.
        """
        import numpy as np

        most = self.config.seq_length
        requests = [request for text in texts for request in windows(self.ids(text), most)]
        sums, counts = np.zeros(most), np.zeros(most, np.int64)
        for (context, _), result in zip(requests, score(self.generator, requests), strict=True):
            begins = int(not context)  # the first token, and the second too, is predicted from one
            places = np.maximum(np.arange(len(result.log_probabilities)) - begins, 0)
            np.subtract.at(sums, places, result.log_probabilities)
            np.add.at(counts, places, 1)
        return sums, counts

    def perplexity(self, texts: Sequence[str]) -> Perplexity:
        """Measure how well the model predicts texts. Raises UserError where there is nothing to predict."""
        tokens = sum(len(self.ids(text)) for text in texts)
        if not tokens:
            raise UserError("there is nothing to predict: the texts are empty")
        nats = -sum(self.rolling_log_likelihood(texts))
        return Perplexity(nats, tokens, sum(map(len, texts)), sum(len(text.encode()) for text in texts))
