"""What of a setup its price leaves out: said with every prediction."""

import re
from collections.abc import Iterator

from parallel_strategy.spec.strategy import Setup

# families whose layers are not all softmax attention over the whole sequence
WINDOWED = r"gemma|gpt-?oss|mistral(?!.*(nemo|large|small))|ministral|phi-?3|command-?r|cohere2|llama-?4"
CAPPED = r"gemma-?2|grok"
HYBRID = r"mamba|jamba|zamba|nemotron-?(h|3)|qwen3-?(next|\.5)|minimax|kimi-?linear|falcon-?h|rwkv|granite-?4"


def unpriced(setup: Setup) -> list[str]:
    """Return what the price leaves out, a line each."""
    return [*_of_model(setup), *_of_strategy(setup)]


def _of_model(setup: Setup) -> Iterator[str]:
    model = setup.model
    name = re.sub(r"[\s_]+", "-", model.name.lower())
    if re.search(WINDOWED, name):
        yield "sliding windows: attention is priced over the whole sequence in every layer"
    if re.search(CAPPED, name):
        yield "soft-capped logits: priced as plain attention"
    if re.search(HYBRID, name):
        yield "layers that are no attention: priced as attention"
    if model.experts is not None:
        yield "loads of experts: priced as balanced, times experts.capacity_factor"
    if model.compute_dtype == "fp4":
        yield "layers that recipes of fp4 keep in bf16: every product is priced in fp4"
    if model.latent_attention is not None:
        yield "latent attention: priced, but `prove` does not execute it"


def _of_strategy(setup: Setup) -> Iterator[str]:
    if setup.strategy.mesh.cp > 1 and not setup.framework.partial_gradients:
        yield "Ulysses: context parallelism is priced as a ring"
