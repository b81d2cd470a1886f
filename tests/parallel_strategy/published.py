"""Runs that papers and pages published, which are in no table of measured rows: setups, and seconds of a step.

A figure of a preset was read off some of them, so they are no unseen rows: the one network card of `deepspeed-zero3`
off the first, broadcasts by owner and the overlap of `internevo` off the second, the engine's 45 ms off the third.
"""

from collections.abc import Iterator

from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.spec.strategy import Setup
from tests.parallel_strategy.strategies import setup_of

# layers, hidden size, heads, devices, batch, micro-batch, TFLOP/s a device: ZeRO-3 in table 2 of Narayanan et al. 2021
ZERO_3 = [
    (96, 12288, 96, 384, 1536, 4, 144),
    (96, 12288, 96, 768, 1536, 2, 88),
    (96, 12288, 96, 1536, 1536, 1, 44),
    (105, 20480, 128, 640, 2560, 4, 138),
    (105, 20480, 128, 1120, 2240, 2, 98),
    (105, 20480, 128, 2240, 2240, 1, 48),
]
# (tensor group, ranks that share an optimizer) -> tokens/s of a device on 8, 16, ... 1024: InternEvo's 7B in 4
# micro-batches (its page of training performance)
INTERNEVO = {
    (1, -1): (4062, 3842, 3752, 3690, 3571, 3209, 2861, 2271),
    (1, 8): (4078, 3939, 3919, 3944, 3928, 3920, 3835, 3625),
    (2, -1): (3822, 3595, 3475, 3438, 3308, 3094, 2992, 2785),
    (2, 4): (3761, 3658, 3655, 3650, 3651, 3653, 3589, 3486),
}
# servers -> seconds: MT-NLG 530B (Smith et al. 2022)
MT_NLG = {280: 60.1, 350: 50.2, 420: 44.4}
Run = tuple[Setup, float]


def gpt(layers: int, hidden: int, heads: int, **more) -> ModelSpec:
    return ModelSpec(
        num_layers=layers,
        hidden_size=hidden,
        num_heads=heads,
        ffn_hidden_size=4 * hidden,
        seq_length=2048,
        vocab_size=51200,
        **more,
    )


def zero_3() -> Iterator[Run]:
    for layers, hidden, heads, devices, batch, micro, rate in ZERO_3:
        flops = 96 * batch * 2048 * layers * hidden**2 * (1 + 2048 / 6 / hidden + 51200 / 16 / layers / hidden)
        yield (
            setup_of(
                gpt(layers, hidden, heads),
                "dgx-a100",
                "deepspeed-zero3",
                batch={"global": batch, "micro": micro},
                mesh={"dp": devices},
                zero={"optimizer_shard": True, "level": 3},
                recompute={"mode": "full"},
            ),
            flops / devices / rate / 1e12,
        )


def internevo(tensor: int, shared: int, devices: int) -> Run:
    """Return the run with optimizer states shared out over `shared` ranks, -1: all."""
    model = ModelSpec(
        num_layers=32, hidden_size=4096, num_heads=32, ffn_hidden_size=11008, seq_length=2048, vocab_size=103168,
        gated_ffn=True, norm="rms_norm", position="rotary", bias=False, tied_embedding=False, dropout_rate=0.0,
        compute_dtype="bf16",
    )  # fmt: skip
    micro, replicas = 2 * tensor, devices // tensor
    setup = setup_of(
        model,
        "jean-zay-a100",
        "internevo",
        batch={"global": 4 * micro * replicas, "micro": micro},
        mesh={"dp": replicas, "tp": tensor},
        zero={"optimizer_shard": True, "level": 1, "weight_shard_size": shared},
    )
    rate = INTERNEVO[tensor, shared][(devices // 8).bit_length() - 1]
    return setup, 4 * micro * 2048 / tensor / rate


def mt_nlg() -> Iterator[Run]:
    model = gpt(105, 20480, 128, compute_dtype="bf16")
    for servers, seconds in MT_NLG.items():
        yield (
            setup_of(
                model,
                "dgx-a100",
                "deepspeed-pipeline",
                batch={"global": 1920},
                mesh={"pp": 35, "dp": servers // 35, "tp": 8},
                recompute={"mode": "full"},
            ),
            seconds,
        )
