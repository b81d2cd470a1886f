"""Random legal strategy files, as a person may hand them to the search."""

import random

from pangu.foundation.errors import UserError
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.spec.strategy import Setup
from tests.parallel_strategy.strategies import setup_of

MODELS = ("pangu-alpha-350m", "pangu-alpha-1.3b", "gpt-2.7b", "llama3-8b", "mixtral-8x7b")
PLACES = (
    ("atlas-800-910a", "mindspore"),
    ("dgx-a100", "megatron-lm-2022"),
    ("dgx-h100", "megatron-core"),
    ("cloudbrain2-2048", "mindspore-2.10"),
    ("a100-server", "deepspeed-zero3"),
    ("atlas-800t-a2-910b2", "mindspeed"),
    ("atlas-800t-a2-910b1", "mindformers"),
    ("h20-server", "megatron-bridge"),
)


def some_file(choose: random.Random) -> Setup:
    """A random legal setup of at most 32 devices."""
    while True:
        cluster, framework = choose.choice(PLACES)
        model = ModelSpec.preset(choose.choice(MODELS))
        pp, dp, tp = (choose.choice([1, 2, 4]) for _ in range(3))
        micro, vpp = choose.choice([1, 2]), choose.choice([1, 1, 2])
        schedule = choose.choice(["1f1b", "gpipe", "zb_h1", "zb_v"]) if vpp == 1 else "interleaved"
        fields = {
            "batch": {"global": micro * dp * pp * choose.choice([1, 2, 4]), "micro": micro},
            "mesh": {"pp": pp, "dp": dp, "tp": tp, "order": choose.sample(["pp", "dp", "tp"], 3)},
            "pipeline": {"schedule": schedule, "vpp": vpp},
            "tensor": {"sequence_parallel": choose.random() < 0.5},
            "zero": {"optimizer_shard": choose.random() < 0.5, "level": choose.choice([1, 2, 3])},
            "recompute": {"mode": choose.choice(["none", "full", "selective"])},
            "offload": {"optimizer": choose.random() < 0.2, "activation": choose.choice([0.0, 0.0, 0.5])},
        }
        try:
            asked = setup_of(model, cluster, framework, **fields)
            asked.strategy.check_model(model)
            asked.strategy.check_stages(model)
            asked.strategy.check_parts(model, asked.cluster)
            return asked
        except UserError:
            continue
