"""Predicted beside measured, kernel by kernel: what the cluster file of a strategy says of the kernels of a profile."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from parallel_strategy.predict import Prediction
from parallel_strategy.profiles.profile_figures import attention_share, product_seconds
from parallel_strategy.profiles.seen import Seen


@dataclass(frozen=True, slots=True)
class KernelPair:
    """Kernels of one kind and shape. operator: the strategy's own kernel of that shape, empty where it has none."""

    kind: str
    shape: str
    count: int
    measured_seconds: float  # median of one
    predicted_seconds: float
    operator: str

    @property
    def difference(self) -> float:
        return self.predicted_seconds / self.measured_seconds - 1


def compare_kernels(seen: Seen, prediction: Prediction) -> list[KernelPair]:
    """Return a pair for each shape, those that took longest in all first."""
    device, framework = prediction.setup.cluster.device, prediction.setup.framework
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    predicted: dict[tuple[str, str], float] = {}
    operators: dict[tuple[str, str], str] = {}
    own = _own_products(prediction)
    for one in seen.products:
        if one.dtype not in ("fp16", "bf16", "fp32"):
            continue
        key = (f"product {one.dtype}", _product_shape(one.m, one.n, one.k, one.batch))
        if key not in predicted:
            predicted[key] = float(product_seconds(device, [one])[0])
            operators[key] = own.get((*sorted((one.m, one.n, one.k)), one.batch), "")
        groups[key].append(one.seconds)
    for attended in seen.attention:
        kind = "attention backward" if attended.is_backward else "attention"
        key = (
            f"{kind} {attended.dtype}",
            f"{attended.batch} x {attended.heads} x {attended.sequence:,} x {attended.width}",
        )
        share = (
            attention_share(device, attended)
            * device.flash_eff
            * framework.flash_scale
            * (device.flash_backward if attended.is_backward else 1.0)
        )
        predicted[key] = attended.flops / (device.peak(attended.dtype) * share) + device.gemm.launch_us * 1e-6
        groups[key].append(attended.seconds)
    bandwidth = device.hbm.gbps * 1e9 * device.hbm.eff * device.vector.eff
    for moved in seen.vectors:
        key = (moved.name, f"{moved.bytes / 1e6:.4g} MB")
        predicted[key] = moved.bytes / bandwidth + device.vector.launch_us * 1e-6
        groups[key].append(moved.seconds)
    pairs = [
        KernelPair(*key, len(found), float(np.median(found)), predicted[key], operators.get(key, ""))
        for key, found in groups.items()
    ]
    return sorted(pairs, key=lambda pair: -pair.measured_seconds * pair.count)


def _own_products(prediction: Prediction) -> dict[tuple[int, ...], str]:
    """Return {sizes in order, batch: name} of the strategy's products; a transposed one is the same."""
    found: dict[tuple[int, ...], str] = {}
    for kind, block in prediction.program.blocks.items():
        for kernel in block.kernels:
            if kernel.m:
                key = (*sorted((int(kernel.m), int(kernel.n), int(kernel.k))), int(kernel.batch))
                found.setdefault(key, f"{kind}: {kernel.name}")
    return found


def _product_shape(m: int, n: int, k: int, batch: int) -> str:
    return (f"{batch:,} x " if batch > 1 else "") + f"{m:,} x {n:,} x {k:,}"
