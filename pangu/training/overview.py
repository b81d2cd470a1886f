"""What a run is going to do, said before it begins, and what looks wrong about it."""

from collections.abc import Iterator

from pangu.checkpoint.open import TrainingState
from pangu.config import LearningRateConfig, ModelConfig, TrainConfig
from pangu.training.data import PackedData
from pangu.training.schedule import complete

# Epochs after which reading the same samples once more teaches little (Muennighoff et al. 2023: about four are as good
# as new data, and forty are of no use).
MANY_EPOCHS = 40
# Tokens a parameter below which a model has seen next to nothing (Hoffmann et al. 2022 train with twenty).
FEW_TOKENS_A_PARAMETER = 0.1


def described(model: ModelConfig, config: TrainConfig, data: PackedData, state: TrainingState) -> list[str]:
    """Return the lines that say what is trained, on what, for how long; warnings come last."""
    train, heldout = data.split("train"), data.split("heldout")
    rate = complete(config.learning_rate, config.steps)
    tokens = config.steps * config.batch_size * data.seq_length
    goes_on = f", going on after step {state.step:,}" if state.step else ""
    if rate.shape == "cosine":
        course = f"cosine to {rate.end:g} at {rate.begin_step + (rate.decay_steps or 0):,}"
    else:
        course = f"{rate.peak:g} until the last {rate.cooldown_steps:,} of {rate.decay_steps:,}, then to {rate.end:g}"
    begins = f", counted from update {rate.begin_step:,}" if rate.begin_step else ""
    return [
        f"model  {model.num_parameters:,} parameters: {model.num_layers} layers, hidden {model.hidden_size}, "
        f"{model.num_heads} heads, context {model.seq_length:,}, vocabulary {model.vocab_size:,}, "
        f"{model.compute_dtype}",
        f"data   {train.samples:,} samples of {data.seq_length:,} tokens, {train.tokens:,} tokens; "
        f"validation {heldout.samples:,} samples, {min(config.evaluate_samples, heldout.samples):,} of them each time",
        f"run    {config.steps:,} steps of {config.batch_size:,} samples = {tokens:,} tokens: "
        f"{config.steps * config.batch_size / train.samples:.3g} epochs, {tokens / model.num_parameters:.3g} tokens a "
        f"parameter{goes_on}",
        f"rate   {rate.peak:g} after a warm-up of {rate.warmup_steps:,} steps, {course}{begins}",
        f"engine {'compiled steps' if config.engine == 'compiled' else 'MindSpore'}, {config.device}",
        *(f"warning: {line}" for line in warnings(model, config, data, state)),
    ]


def warnings(model: ModelConfig, config: TrainConfig, data: PackedData, state: TrainingState) -> Iterator[str]:
    """Yield what looks wrong, each with what would be right."""
    yield from about_rate(complete(config.learning_rate, config.steps), config, state)
    samples, read = data.split("train").samples, config.steps * config.batch_size
    tokens = read * data.seq_length
    if read < samples:
        enough = -(-samples // config.batch_size)
        yield f"{samples - read:,} of {samples:,} samples are never read: {enough:,} steps read all"
    if read > MANY_EPOCHS * samples:
        yield f"every sample is read {read / samples:.0f} times: the model will know it by heart; take fewer steps"
    if tokens < FEW_TOKENS_A_PARAMETER * model.num_parameters:
        yield (
            f"{tokens / model.num_parameters:.2g} tokens a parameter are hardly any (about 20 are usual): more "
            "steps, or a smaller model"
        )
    if model.seq_length > data.seq_length:
        yield (
            f"positions {data.seq_length:,} to {model.seq_length - 1:,} of the context are never trained: generate no "
            f"longer texts, or set the model's seq_length to {data.seq_length}, or pack longer samples"
        )
    if model.vocab_size > data.vocab_size:
        yield (
            f"rows {data.vocab_size:,} to {model.vocab_size - 1:,} of the word table are never trained: "
            "fit_vocabulary: true leaves them out"
        )


def about_rate(rate: LearningRateConfig, config: TrainConfig, state: TrainingState) -> Iterator[str]:
    """Yield what looks wrong about the learning rate."""
    assert rate.warmup_steps is not None and rate.decay_steps is not None
    length, end = config.steps - rate.begin_step, rate.begin_step + rate.decay_steps
    if rate.warmup_steps >= length:
        yield (
            f"a warm-up of {rate.warmup_steps:,} steps is longer than the run ({length:,}): the rate never reaches "
            f"{rate.peak:g}; set learning_rate.warmup_steps to {max(1, length // 10)}"
        )
    assert rate.cooldown_steps is not None
    flat = rate.decay_steps - rate.warmup_steps - rate.cooldown_steps
    if rate.shape == "warmup_stable_decay" and flat < 0:
        yield (
            f"a warm-up of {rate.warmup_steps:,} steps and a cooldown of {rate.cooldown_steps:,} do not fit a schedule "
            f"of {rate.decay_steps:,}: the rate never reaches {rate.peak:g}; set learning_rate.cooldown_steps to "
            f"{max(1, rate.decay_steps // 10)}"
        )
    if rate.end > rate.peak:
        yield f"the rate rises from {rate.peak:g} to {rate.end:g} at the end: learning_rate.end is above its peak"
    if config.steps > end:
        done = state.step - state.skipped
        yield (
            f"steps {end + 1:,} to {config.steps:,} lie behind the schedule, with the rate {rate.end:g}: to go on with "
            f"the moments under a new one set learning_rate.begin_step: {max(done, rate.begin_step)}"
        )
    elif length < rate.decay_steps and rate.decay_steps > rate.warmup_steps:
        yield (
            f"the run ends at step {config.steps:,}, before the schedule does ({end:,}): the rate does not come "
            f"down to {rate.end:g}"
        )
