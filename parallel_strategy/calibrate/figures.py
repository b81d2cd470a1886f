"""The few figures that a calibration may move, each with the width of its prior. Links and network cards are not
among them."""

from dataclasses import dataclass
from functools import lru_cache

from parallel_strategy.spec.cluster import ClusterSpec
from parallel_strategy.spec.framework import FrameworkSpec
from parallel_strategy.spec.strategy import Setup


@dataclass(frozen=True, slots=True)
class Figure:
    """A multiplier of one figure of the cluster or framework file. `width`: standard deviation of its logarithm a
    priori."""

    name: str
    width: float
    meaning: str


FIGURES = (
    Figure("gemm_eff", 0.15, "device.gemm.eff_max: sustained clock and library; files have it from benchmarks"),
    Figure("vector_eff", 0.25, "device.vector.eff: element-wise kernels, fused or not"),
    Figure("flash_eff", 0.30, "device.flash_eff: the version of the attention kernel"),
    Figure("poor_align_eff", 0.20, "device.gemm.poor_align_eff and misaligned_eff"),
    Figure("host_launch", 0.35, "host.launch_scale: this CPU and this Python"),
    Figure("host_backward", 0.20, "framework.host_us_per_launch_backward over the forward figure"),
    Figure("step_overhead", 0.70, "framework.step_overhead_ms"),
    Figure(
        "exposed", 0.50, "what is left of hidden traffic: 1 - overlap, of gradients and of tensor-parallel collectives"
    ),
)
NAMES = tuple(figure.name for figure in FIGURES)


@lru_cache(maxsize=4096)
def _cluster(
    cluster_key: "_Hashed", gemm: float, vector: float, flash: float, align: float, host: float
) -> ClusterSpec:
    cluster: ClusterSpec = cluster_key.value
    device = cluster.device
    figures = device.gemm.model_copy(
        update={
            "eff_max": min(0.98, device.gemm.eff_max * gemm),
            "poor_align_eff": min(1.0, device.gemm.poor_align_eff * align),
            "misaligned_eff": min(1.0, device.gemm.misaligned_eff * align),
        }
    )
    device = device.model_copy(
        update={
            "gemm": figures,
            "vector": device.vector.model_copy(update={"eff": min(1.0, device.vector.eff * vector)}),
            "flash_eff": min(0.95, device.flash_eff * flash),
        }
    )
    scale = cluster.host.model_copy(update={"launch_scale": cluster.host.launch_scale * host})
    return cluster.model_copy(update={"device": device, "host": scale})


class _Hashed:
    """A frozen specification by identity: comparing whole cluster files for every row would cost more than pricing."""

    __slots__ = ("value",)

    def __init__(self, value: ClusterSpec) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and other.value is self.value


def apply(setup: Setup, multipliers: dict[str, float]) -> Setup:
    """Return the setup with its figures multiplied. Unknown names are the caller's mistake and raise KeyError."""
    factor = dict.fromkeys(NAMES, 1.0)
    for name, value in multipliers.items():
        if name not in factor:
            raise KeyError(name)
        factor[name] = value
    cluster = _cluster(
        _Hashed(setup.cluster),
        factor["gemm_eff"],
        factor["vector_eff"],
        factor["flash_eff"],
        factor["poor_align_eff"],
        factor["host_launch"],
    )
    return Setup.model_construct(
        model=setup.model,
        cluster=cluster,
        framework=_framework(setup.framework, factor),
        strategy=setup.strategy,
        residual=setup.residual,
    )


def _framework(framework: FrameworkSpec, factor: dict[str, float]) -> FrameworkSpec:
    exposed = factor["exposed"]

    def hidden(share: float) -> float:
        return max(0.0, min(1.0, 1.0 - (1.0 - share) * exposed)) if share > 0 else 0.0

    return framework.model_copy(
        update={
            "host_us_per_launch_backward": framework.host_us_per_launch_backward * factor["host_backward"],
            "step_overhead_ms": framework.step_overhead_ms * factor["step_overhead"],
            "dp_overlap": hidden(framework.dp_overlap),
            "gather_overlap": hidden(framework.gather_overlap),
            "tp_overlap": hidden(framework.tp_overlap),
            "tp_backward_overlap": hidden(framework.tp_backward_overlap),
        }
    )
