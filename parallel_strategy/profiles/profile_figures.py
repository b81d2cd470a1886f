"""From profiles to a cluster file: figures that measured kernels and collectives say, and how far they reach.

Only what was seen is changed: the share of peak of products and of attention, that of memory bandwidth, the floor of a
kernel, links within a server. A collective in a profile also waits for the slowest rank, so the fast ones count.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date

import numpy as np

from pangu.foundation.errors import UserError
from parallel_strategy.cost.kernel import matmul_seconds, narrow_head_share
from parallel_strategy.measure.timed_kernels import Collected
from parallel_strategy.profiles.seen import Seen, SeenAttention, SeenProduct
from parallel_strategy.spec.cluster import CalibrationNote, ClusterSpec, Device, Level

LARGE_VECTOR = 4e6  # bytes from which an element-wise kernel is bound by memory
SMALL_VECTOR = 65_536  # bytes below which it is a launch
LARGE_COLLECTIVE = 1e6
LARGE_LINK = 64.0  # MB sent in all before a link's rate says something
FEWEST_SHAPES = 6  # to bend a curve, not only to lift it
BUS = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 1.0}


@dataclass
class Fitted:
    """A cluster file and a line for each figure that changed, or that nothing was seen for."""

    cluster: ClusterSpec
    lines: list[str] = field(default_factory=list)


def fit_cluster(seen: Seen, base: ClusterSpec, where: str) -> Fitted:
    """Return the cluster with the figures that profiles say. Raises UserError where they say none."""
    fitted = Fitted(base)
    device = base.device
    device = _products(seen, device, fitted.lines)
    device = _attention(seen, device, fitted.lines)
    device = _vectors(seen, device, fitted.lines)
    topology = _links(seen, base, fitted.lines)
    if device == base.device and topology == base.topology:
        raise UserError(f"{where}: shows nothing that changes {base.name}: {'; '.join(fitted.lines)}")
    note = CalibrationNote(measured_on=seen.device or device.name, date=date.today().isoformat(), file=where)
    sources = f"{base.sources}; figures from profiles ({where}): {'; '.join(fitted.lines)}"
    fitted.cluster = base.model_copy(
        update={"device": device, "topology": topology, "calibration": note, "sources": sources}
    )
    return fitted


def product_seconds(device: Device, products: Sequence[SeenProduct]) -> np.ndarray:
    """Return what a device file says of these products, as a step is priced."""
    names = ("m", "n", "k", "batch")
    m, n, k, batch = (np.array([getattr(one, name) for one in products], dtype=float) for name in names)
    memory = 2.0 * batch * (m * k + k * n + m * n) / (device.hbm.gbps * 1e9 * device.hbm.eff)
    compute = matmul_seconds(device, products[0].dtype, m, n, k, batch)
    return np.maximum(compute, memory) + device.gemm.launch_us * 1e-6


def by_shape(products: Sequence[SeenProduct]) -> list[SeenProduct]:
    """Return one product a shape, with the median of its times."""
    groups: dict[tuple, list[SeenProduct]] = defaultdict(list)
    for one in products:
        groups[one.dtype, one.m, one.n, one.k, one.batch].append(one)
    return [replace(found[0], seconds=float(np.median([one.seconds for one in found]))) for found in groups.values()]


def _products(seen: Seen, device: Device, lines: list[str]) -> Device:
    plain = [one for one in seen.products if one.dtype in device.peak_tflops and one.dtype in ("fp16", "bf16")]
    left = len(seen.products) - len(plain)
    if left:
        kinds = ", ".join(sorted({one.dtype for one in seen.products if one not in plain}))
        lines.append(f"{left:,} products in {kinds} are not used: figures are of 16 bits")
    if not plain:
        lines.append("gemm: no product in 16 bits seen, figures stay")
        return device
    dtype = max({one.dtype for one in plain}, key=[one.dtype for one in plain].count)
    shapes = by_shape([one for one in plain if one.dtype == dtype])
    measured = np.array([one.seconds for one in shapes])
    flops = np.array([2.0 * one.m * one.n * one.k * one.batch for one in shapes])
    before = float(np.abs(np.log(product_seconds(device, shapes) / measured)).mean())
    bends = (0, 32, 64, 96, 128, 192, 256, 384, 512) if len(shapes) >= FEWEST_SHAPES else (device.gemm.k_half,)
    best: tuple[float, Device] | None = None
    for k_half in bends:
        trial = device.model_copy(update={"gemm": device.gemm.model_copy(update={"k_half": float(k_half)})})
        for _ in range(4):  # the height enters a maximum with memory, so a few rounds settle it
            error = np.log(product_seconds(trial, shapes) / measured)
            height = float(np.exp(np.average(error, weights=np.sqrt(flops))))
            reached = float(np.clip(trial.gemm.eff_max * height, 0.02, 1.0))
            trial = trial.model_copy(update={"gemm": trial.gemm.model_copy(update={"eff_max": round(reached, 4)})})
        mean = float(np.abs(np.log(product_seconds(trial, shapes) / measured)).mean())
        if best is None or mean < best[0] - 1e-9:
            best = (mean, trial)
    assert best is not None
    gemm = best[1].gemm
    reach = ", ".join(
        f"{axis} {min(getattr(one, axis) for one in shapes):,} to {max(getattr(one, axis) for one in shapes):,}"
        for axis in ("m", "n", "k")
    )
    count = sum(one.dtype == dtype for one in plain)
    lines.append(
        f"gemm.eff_max {device.gemm.eff_max:g} -> {gemm.eff_max:g}, k_half {device.gemm.k_half:g} -> {gemm.k_half:g}: "
        f"{count:,} products in {dtype} of {len(shapes)} shapes ({reach}), met within {best[0]:.1%}, "
        f"before {before:.1%}"
    )
    return best[1]


def _attention(seen: Seen, device: Device, lines: list[str]) -> Device:
    forward = [one for one in seen.attention if not one.is_backward and one.dtype in ("fp16", "bf16")]
    if not forward:
        lines.append("flash_eff: no fused attention seen, the figure stays")
        return device
    reached = _attention_rate(forward, device)
    updates = {"flash_eff": round(float(np.clip(reached, 0.01, 0.98)), 3)}
    lines.append(f"flash_eff {device.flash_eff:g} -> {updates['flash_eff']:g}: {_attention_words(forward)}")
    backward = [one for one in seen.attention if one.is_backward and one.dtype in ("fp16", "bf16")]
    if backward:
        share = _attention_rate(backward, device) / reached
        updates["flash_backward"] = round(float(np.clip(share, 0.05, 2.0)), 3)
        lines.append(
            f"flash_backward {device.flash_backward:g} -> {updates['flash_backward']:g}: {_attention_words(backward)}"
        )
    return device.model_copy(update=updates)


def _attention_rate(seen: Sequence[SeenAttention], device: Device) -> float:
    """Return the rate of these kernels over the peak that clock and head size leave."""
    launch = device.gemm.launch_us * 1e-6
    rates = [
        one.flops
        / max(one.seconds - launch, 0.2 * one.seconds)
        / (device.peak(one.dtype) * attention_share(device, one))
        for one in seen
    ]
    return float(np.median(rates))


def _attention_words(seen: Sequence[SeenAttention]) -> str:
    lengths, widths = sorted({one.sequence for one in seen}), sorted({one.width for one in seen})
    return f"{len(seen):,} kernels, sequences of {_range(lengths)}, heads of {_range(widths)}"


def attention_share(device: Device, one: SeenAttention) -> float:
    """Return what clock and head size leave of the peak, before `flash_eff`."""
    return float(device.clock * narrow_head_share(device, one.width))


def _vectors(seen: Seen, device: Device, lines: list[str]) -> Device:
    updates: dict[str, float] = {}
    small = [one.seconds for one in seen.vectors if one.bytes < SMALL_VECTOR]
    if len(small) >= 5:
        updates["launch_us"] = round(float(np.quantile(small, 0.25)) * 1e6, 2)
        lines.append(
            f"vector.launch_us {device.vector.launch_us:g} -> {updates['launch_us']:g}: {len(small):,} small kernels"
        )
    launch = updates.get("launch_us", device.vector.launch_us) * 1e-6
    large = [one for one in seen.vectors if one.bytes >= LARGE_VECTOR]
    if large:
        full = device.hbm.gbps * 1e9 * device.hbm.eff
        rates = [one.bytes / max(one.seconds - launch, 0.2 * one.seconds) / full for one in large]
        updates["eff"] = round(float(np.clip(np.median(rates), 0.02, 1.0)), 3)
        sizes = [one.bytes / 1e6 for one in large]
        lines.append(
            f"vector.eff {device.vector.eff:g} -> {updates['eff']:g}: {len(large):,} kernels of {min(sizes):.3g} to "
            f"{max(sizes):.3g} MB"
        )
    if not updates:
        lines.append("vector: no element-wise kernel of a size that says something, figures stay")
        return device
    return device.model_copy(update={"vector": device.vector.model_copy(update=updates)})


def _links(seen: Seen, base: ClusterSpec, lines: list[str]) -> list[Level]:
    topology = list(base.topology)
    topology[0] = _bus(seen.collectives, topology[0], lines)
    for index, level in enumerate(topology):
        kind = "RDMA" if level.nic_gbit else "HCCS" if level.kind == "full_mesh" else None
        sent = [one for one in seen.links if one.kind == kind]
        total, seconds = sum(one.megabytes for one in sent), sum(one.seconds for one in sent)
        if not sent:
            continue
        if total < LARGE_LINK:
            lines.append(f"{level.level}: {total:.3g} MB over {kind}, too few to say a rate, figures stay")
            continue
        if level.bus_gbps:
            lines.append(f"{level.level}: {total:,.0f} MB over {kind} are not used: bus_gbps stands in place of eff")
            continue
        raw = (level.gbps_per_link or 0) if kind == "HCCS" else (level.nic_gbit or 0) * level.nics_per_device / 8
        reached = total * 1e6 / seconds / 1e9
        share = round(float(np.clip(reached / raw, 0.02, 1.0)), 3)
        lines.append(f"{level.level}.eff {level.eff:g} -> {share:g}: {total:,.0f} MB over {kind} at {reached:.3g} GB/s")
        topology[index] = level.model_copy(update={"eff": share})
    return topology


def _bus(collectives: Sequence[Collected], level: Level, lines: list[str]) -> Level:
    """Return the innermost level with the bus bandwidth of large collectives among so many members."""
    rates: dict[int, list[float]] = defaultdict(list)
    beyond = 0
    for one in collectives:
        if one.op in BUS and one.bytes >= LARGE_COLLECTIVE and one.members > 1 and one.seconds > 0:
            if one.members > level.size:
                beyond += 1
            else:
                share = BUS[one.op] * (one.members - 1) / one.members
                rates[one.members].append(share * one.bytes / one.seconds / 1e9)
    if beyond:
        lines.append(f"{beyond:,} collectives reach beyond {level.level}: not used, for a profile mixes its links")
    if not rates:
        if collectives:
            lines.append(f"{level.level}: {len(collectives):,} collectives of no size that says a rate, figures stay")
        return level
    bus = {members: round(float(np.quantile(found, 0.75)), 2) for members, found in sorted(rates.items())}
    for members, rate in bus.items():
        lines.append(
            f"{level.level}.bus_gbps {level.device_gbps(members):.4g} -> {rate:g} among {members}: "
            f"{len(rates[members]):,} collectives, the faster quarter"
        )
    return level.model_copy(update={"bus_gbps": bus})


def _range(values: Sequence[int]) -> str:
    return f"{values[0]:,}" if values[0] == values[-1] else f"{values[0]:,} to {values[-1]:,}"
