"""What of a strategy the framework's own configuration cannot say: `search` recommends nothing of it."""

from parallel_strategy.export import megatron, mindformers
from parallel_strategy.spec.strategy import Setup

FORMATS = {"megatron": megatron.unsaid, "mindformers": mindformers.unsaid}


def unsaid(setup: Setup, *, with_model: bool = False) -> list[str]:
    """Return the fields of the strategy, and of the model where that is asked, that nobody will obey.

    Empty for a framework without such a configuration.
    """
    of_format = FORMATS.get(setup.framework.described_by or "")
    fields = [] if of_format is None else of_format(setup)
    return [field for field in fields if with_model or not field.startswith("model.")]
