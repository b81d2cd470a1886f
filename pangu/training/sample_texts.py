"""Texts that a model writes while it is trained: `RUN/samples.jsonl`, and on standard error.

The same prompts at each evaluation, greedy, so that what differs is the model. Nothing here changes a bit of the
training, and nothing that goes wrong ends it.
"""

from pathlib import Path

from pangu.foundation.best_effort import BestEffortFile, first_line_of, warn
from pangu.foundation.json_text import dumps
from pangu.training.step_metrics import records_with_ends
from pangu.training.trainer import Trainer

SAMPLES = "samples.jsonl"


class SamplesWriter:
    """Appends to the samples of a run that has done `step` updates; it first forgets what came after them."""

    def __init__(self, run: Path, step: int) -> None:
        size = 0
        for record, end in records_with_ends(run / SAMPLES):
            if record["step"] > step:
                break
            size = end
        self.file = BestEffortFile(run / SAMPLES, size)
        self.file.flush()
        self.is_failing = False

    def write(self, trainer: Trainer) -> None:
        """Write what the model says now to each prompt."""
        config = trainer.config
        try:
            texts = continuations(trainer, config.sample_prompts, config.sample_tokens)
        except Exception as error:
            if not self.is_failing:
                warn(f"warning: samples: {first_line_of(error)}; training goes on")
            self.is_failing = True
            return
        for prompt, text in zip(config.sample_prompts, texts, strict=True):
            record = {"step": trainer.state.step, "prompt": prompt, "text": text}
            self.file.append(dumps(record, ensure_ascii=False).encode() + b"\n")
            warn(f"sample at step {trainer.state.step:,}: {prompt}|{' '.join(text.split())}")

    def close(self) -> None:
        self.file.close()


def continuations(trainer: Trainer, prompts: list[str], tokens: int) -> list[str]:
    """Return how the model goes on from each prompt."""
    from pangu.generation import GenerationOptions, Generator
    from pangu.model.network import read_weights
    from pangu.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(trainer.data.tokenizer_directory)
    config = trainer.model.model_copy(update={"softmax_dtype": "fp32"})
    generator = Generator(config, read_weights(trainer.network), tokenizer, engine="compiled")
    options = GenerationOptions(
        max_new_tokens=tokens, temperature=0, overflow="truncate", stop_ids=(tokenizer.special.end_of_document,)
    )
    ids = [[int(token) for token in row] for row in tokenizer.encode_batch(prompts)]
    return [result.text for result in generator.generate(ids, options)]
