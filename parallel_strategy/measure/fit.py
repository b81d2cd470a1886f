"""From measurements to a cluster file: the figures of kernels and links that meet them best."""

import re
from datetime import date
from typing import Literal

import numpy as np

from parallel_strategy.cost.kernel import matmul_seconds
from parallel_strategy.measure.timed_kernels import Collected, Measured
from parallel_strategy.spec.cluster import CalibrationNote, ClusterSpec, Device, Gemm, Host, Level, Memory, Vector
from parallel_strategy.spec.framework import TENSORS

# dense 16-bit peaks of data sheets, TFLOP/s; a device that is not here gets its fastest product over 0.95
DATA_SHEET = (
    (r"B200|B300|GB200|GB300", 2250.0),
    (r"H100|H200|H800", 989.0),
    (r"A100|A800", 312.0),
    (r"V100", 125.0),
    (r"910B1", 378.9),
    (r"910B2", 353.9),
    (r"910B3", 294.9),
    (r"910B4", 270.0),
    (r"910A|Ascend910$|910ProA", 256.0),
)
GPU_TILES = [(256, 128), (128, 128), (64, 128), (64, 64)]
CPU_TILES = [(64, 64), (16, 64)]
# microseconds to issue one element-wise kernel from Python on the hosts that the framework files speak of
REFERENCE_ISSUE_US = 6.0


def cluster_of(measured: Measured, devices: int = 1, name: str = "this-machine") -> ClusterSpec:
    """Return a cluster file of one server with `devices` such devices. `sources` says how well its figures meet the
    measurements."""
    hbm, vector = _memory(measured)
    gemm, peak, error = _gemm(measured, hbm, vector)
    cpu = measured.kind == "cpu"
    peaks: dict = {"fp32": peak} if cpu else {"fp32": peak / 8, "bf16": peak, "fp16": peak}
    device = Device(
        name=measured.device or measured.kind,
        peak_tflops=peaks,
        hbm=hbm,
        gemm=gemm,
        flash_eff=_flash(measured, peak),
        vector=vector,
    )
    host = Host(
        dram_gb=round(measured.host_gb, 1),
        cpus=1,
        h2d_gbps=round(measured.host_to_device_gbps or hbm.gbps / 2, 2),
        adam_gbps=round(measured.adam_gbps or hbm.gbps, 2),
        crowding=_crowding(measured),
        launch_scale=1.0 if cpu else round(measured.issue_seconds * 1e6 / REFERENCE_ISSUE_US, 3),
    )
    return ClusterSpec(
        name=name,
        device=device,
        topology=[_server(measured, devices)],
        host=host,
        calibration=CalibrationNote(
            measured_on=f"{measured.device}, {measured.backend}", date=date.today().isoformat()
        ),
        sources=f"measured: {len(measured.products)} products met within {error:.1%} on average",
    )


def _memory(measured: Measured) -> tuple[Memory, Vector]:
    """Return bandwidth from the largest copy; the share of it that kernels reach from all the others. Where kinds of
    kernels were told apart, the share is that of the plainest, and theirs stand over it, size by size."""
    gb, launch = measured.memory_gb, measured.launch_seconds
    memory = Memory(gb=round(gb, 2), usable_gb=round(0.94 * gb, 2), gbps=round(_copy_gbps(measured), 2), eff=1.0)
    largest = max(moved.bytes for moved in measured.moved)
    if not {"multiply", "scale"} <= {moved.name for moved in measured.moved}:
        kernels = [moved for moved in measured.moved if moved.name != "copy" and moved.bytes > 0.2 * largest]
        rates = [moved.bytes / moved.seconds / memory.gbps / 1e9 for moved in kernels]
        share = float(np.exp(np.mean(np.log(rates)))) if rates else 1.0
        return memory, Vector(eff=round(min(1.0, share), 3), launch_us=round(launch * 1e6, 3))
    plainest = max((moved for moved in measured.moved if moved.name == "multiply"), key=lambda moved: moved.bytes)
    share = round(min(1.0, plainest.bytes / plainest.seconds / 1e9 / memory.gbps), 3)
    kinds: dict[str, list[tuple[float, float]]] = {}
    for moved in sorted(measured.moved, key=lambda moved: moved.bytes):
        if moved.name in TENSORS:
            seconds = max(moved.seconds - launch, 0.1 * moved.seconds)
            speed = moved.bytes / seconds / 1e9 / (memory.gbps * share)
            kinds.setdefault(moved.name, []).append((round(moved.bytes / 1e6, 3), float(f"{speed:.3g}")))
    return memory, Vector(eff=share, launch_us=round(launch * 1e6, 3), kinds=kinds)


def _copy_gbps(measured: Measured) -> float:
    """Return GB/s of the largest copy, reads and writes."""
    copies = [moved for moved in measured.moved if moved.name in ("copy", "scale")]
    largest = max(copies, key=lambda moved: moved.bytes)
    return largest.bytes / largest.seconds / 1e9


def _gemm(measured: Measured, hbm: Memory, vector: Vector) -> tuple[Gemm, float, float]:
    """Return (figures, peak in TFLOP/s, mean absolute error of the logarithm): a grid over what bends the curve, with
    the height that meets the median."""
    m, n, k, batch, seconds = (
        np.array([getattr(product, name) for product in measured.products], dtype=float)
        for name in ("m", "n", "k", "batch", "seconds")
    )
    fastest = float((2.0 * m * n * k * batch / seconds).max()) / 1e12
    sheet = next((peak for pattern, peak in DATA_SHEET if re.search(pattern, measured.device)), None)
    if measured.kind == "cpu":
        sheet = None
    peak = sheet if sheet is not None and sheet >= fastest else fastest / 0.95
    cpu = measured.kind == "cpu"
    element = 4 if cpu else 2
    memory = element * batch * (m * k + k * n + m * n) / (hbm.gbps * 1e9)
    floor = vector.launch_us * 1e-6
    best: tuple[float, Gemm] | None = None
    for k_half in (0, 16, 32, 64, 128, 256, 512):
        for small in (0.7, 0.8, 0.9, 1.0):
            for poor in (1.0,) if cpu else (0.8, 0.9, 1.0):
                efficiency = 0.8
                for _ in range(3):  # the height enters a maximum with memory, so a few rounds settle it
                    gemm = Gemm(
                        eff_max=efficiency,
                        k_half=k_half,
                        tiles=CPU_TILES if cpu else GPU_TILES,
                        small_tile_eff=small,
                        cores=max(1, measured.cores),
                        align=1 if cpu else 8,
                        good_align=1 if cpu else 64,
                        poor_align_eff=poor,
                        launch_us=round(floor * 1e6, 3),
                    )
                    device = Device(name="fit", peak_tflops={"fp32": peak}, hbm=hbm, gemm=gemm)
                    compute = matmul_seconds(device, "fp32", m, n, k, batch)
                    predicted = np.maximum(compute, memory) + floor
                    error = np.log(predicted / seconds)
                    bound = compute > memory
                    height = float(np.exp(np.median(error[bound]))) if bound.any() else 1.0
                    efficiency = round(float(np.clip(efficiency * height, 0.05, 1.0)), 4)
                mean = float(np.abs(error).mean())
                if best is None or mean < best[0]:
                    best = (mean, gemm)
    assert best is not None
    return best[1], float(f"{peak:.5g}"), best[0]


def _flash(measured: Measured, peak: float) -> float:
    """Return the share of peak of fused attention, at the longest sequence."""
    rates = [attended.flops / attended.seconds / 1e12 / peak for attended in measured.attention]
    return round(float(np.clip(max(rates), 0.01, 0.95)), 3) if rates else 0.5


def _server(measured: Measured, devices: int) -> Level:
    """Return the devices of one server: latency and bandwidth from the all-reduces, or what copies suggest."""
    copy = _copy_gbps(measured)
    kind: Literal["shared_memory", "switch"] = "shared_memory" if measured.kind == "cpu" else "switch"
    found = measured.collectives
    if not found:
        return Level(
            level="server",
            size=max(1, devices),
            kind=kind,
            gbps=round(copy / 2, 2),
            latency_us=20,
            start_us=50,
            eff=0.5,
        )
    if measured.kind == "cpu" and {one.op for one in found} > {"all_reduce"}:  # processes as they train, over sockets
        return Level(
            level="server",
            size=max(devices, *(one.members for one in found)),
            kind=kind,
            gbps=round(copy / 2, 2),
            lines=_lines(found),
        )
    found = [one for one in found if one.op == "all_reduce"]
    bus: dict[int, float] = {}
    starts = []
    for members in sorted({one.members for one in found}):
        mine = [one for one in found if one.members == members]
        largest, smallest = max(mine, key=lambda one: one.bytes), min(mine, key=lambda one: one.bytes)
        share = 2.0 * (members - 1) / members
        bus[members] = round(share * largest.bytes / largest.seconds / 1e9, 3)
        starts.append(max(0.0, smallest.seconds - share * smallest.bytes / (bus[members] * 1e9)) * 1e6)
    return Level(
        level="server",
        size=max(devices, *bus),
        kind=kind,
        bus_gbps=bus,
        latency_us=round(max(0.5, 0.1 * float(np.median(starts))), 2),
        start_us=round(0.8 * float(np.median(starts)), 2),
    )


def _lines(found: list[Collected]) -> dict[str, dict[int, tuple[float, float]]]:
    """Return a line through the sizes of each collective, by relative errors; it starts no earlier than the smallest
    ends."""
    lines: dict[str, dict[int, tuple[float, float]]] = {}
    for op, members in sorted({(one.op, one.members) for one in found}):
        mine = [one for one in found if (one.op, one.members) == (op, members)]
        sizes, seconds = (np.array([getattr(one, name) for one in mine]) for name in ("bytes", "seconds"))
        # least squares of start/t + bytes/t * slope = 1
        columns = np.stack([1 / seconds, sizes / seconds], axis=1)
        (start, slope), *_ = np.linalg.lstsq(columns, np.ones(len(mine)), rcond=None)
        if start < 0 or slope <= 0:
            start, slope = float(seconds.min()), float(seconds.max() / sizes.max())
        lines.setdefault(op, {})[members] = (round(float(start) * 1e6, 1), round(float(slope) * 1e12, 2))
    return lines


def _crowding(measured: Measured) -> dict[int, tuple[float, float]]:
    """Return processes that compute at once -> slow-down of products and of kernels bound by memory."""
    found = {(one.name, one.members): round(max(1.0, one.slowdown), 3) for one in measured.crowded}
    return {members: (found["product", members], found["memory", members]) for members in sorted({n for _, n in found})}
