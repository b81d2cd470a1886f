"""What is trained, a file each: all weights or biases, LoRA, bottlenecks, a prefix, a prompt. Needs MindSpore."""

from pangu.tuning.methods.bottleneck import Adapter
from pangu.tuning.methods.chosen_weights import BitFit, Full
from pangu.tuning.methods.lora import Lora
from pangu.tuning.methods.method import Method
from pangu.tuning.methods.prefix import Prefix
from pangu.tuning.methods.prompt import Prompt, PTuning

# By the names of `pangu.tuning.tuning_settings.METHODS`.
METHODS: dict[str, type[Method]] = {
    "full": Full,
    "lora": Lora,
    "adapter": Adapter,
    "prefix": Prefix,
    "prompt": Prompt,
    "p-tuning": PTuning,
    "bitfit": BitFit,
}
