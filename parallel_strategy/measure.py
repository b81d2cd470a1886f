"""Measures the machine that it runs on and writes it as a cluster file: matrix products over shapes, vectors, copies.

CPU: numpy's BLAS, as many threads as it is given. NVIDIA: PyTorch, where it is installed and sees a device. Times are
medians of repeated runs; the figures of the cluster file are fitted to them, not to any training run.
"""

import functools
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import numpy as np

from parallel_strategy.cost.kernel import matmul_seconds
from parallel_strategy.spec.cluster import CalibrationNote, ClusterSpec, Device, Gemm, Host, Level, Memory, Vector

# tokens, outputs, inputs: products of small transformers, forward and backward
SHAPES = [
    (m, n, k)
    for m in (256, 1024)
    for n, k in ((256, 256), (1024, 256), (768, 768), (3072, 768), (1024, 1024), (4096, 1024), (1024, 4096))
]


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of matrix products by shape, GB/s of a copy and of an element-wise kernel, seconds of an empty kernel."""

    backend: str
    device: str
    dtype: str
    products: list[tuple[int, int, int, float]]
    copy_gbps: float
    vector_gbps: float
    launch_seconds: float
    memory_gb: float
    cores: int


def measure(seconds: float = 20.0) -> Measured:
    """Measure the first device that is there: an NVIDIA one through PyTorch, else this CPU. `seconds`: about how
    long."""
    try:
        import torch

        if torch.cuda.is_available():
            return _measure_cuda(torch, seconds)
    except ImportError:
        pass
    return _measure_cpu(seconds)


def _median(run: Callable[[], object], budget: float) -> float:
    """Median seconds of a call, after one to warm up."""
    run()
    times: list[float] = []
    end = time.perf_counter() + budget
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 200):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _measure_cpu(seconds: float) -> Measured:
    import psutil

    generator = np.random.default_rng(0)
    budget = seconds / (len(SHAPES) + 6)
    products = []
    for m, n, k in SHAPES:
        a, b = generator.standard_normal((m, k), dtype=np.float32), generator.standard_normal((k, n), dtype=np.float32)
        out = np.empty((m, n), dtype=np.float32)
        products.append((m, n, k, _median(functools.partial(np.matmul, a, b, out=out), budget)))
    source = generator.standard_normal(16 * 2**20, dtype=np.float32)
    target = np.empty_like(source)
    copy = 2 * source.nbytes / _median(lambda: np.copyto(target, source), budget) / 1e9
    vector = 3 * source.nbytes / _median(lambda: np.add(source, target, out=target), budget) / 1e9
    tiny = np.zeros(16, dtype=np.float32)
    launch = _median(lambda: np.add(tiny, tiny, out=tiny), 0.05)
    return Measured(
        "numpy " + np.__version__,
        platform.processor() or platform.machine(),
        "fp32",
        products,
        copy,
        vector,
        launch,
        psutil.virtual_memory().total / 1e9,
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )


def _measure_cuda(torch, seconds: float) -> Measured:
    properties = torch.cuda.get_device_properties(0)
    budget = seconds / (len(SHAPES) + 6)

    def timed(run: Callable[[], object]) -> float:
        def synced() -> None:
            run()
            torch.cuda.synchronize()

        return _median(synced, budget)

    products = []
    for m, n, k in [(4 * m, 4 * n, 4 * k) for m, n, k in SHAPES]:
        a, b = (
            torch.randn(m, k, device="cuda", dtype=torch.bfloat16),
            torch.randn(k, n, device="cuda", dtype=torch.bfloat16),
        )
        products.append((m, n, k, timed(functools.partial(torch.matmul, a, b))))
    source = torch.randn(2**28, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / timed(lambda: target.copy_(source)) / 1e9
    vector = 3 * source.nbytes / timed(lambda: torch.add(source, target, out=target)) / 1e9
    tiny = torch.zeros(16, device="cuda")
    launch = timed(lambda: tiny.add_(1.0))
    return Measured(
        "torch " + torch.__version__,
        properties.name,
        "bf16",
        products,
        copy,
        vector,
        launch,
        properties.total_memory / 1e9,
        properties.multi_processor_count,
    )


def cluster_of(measured: Measured, devices: int = 1) -> ClusterSpec:
    """A cluster file from measurements: peak is the fastest product seen, k_half and eff_max fit all of them."""
    m, n, k, seconds = (np.array(column, dtype=float) for column in zip(*measured.products, strict=True))
    rates = 2.0 * m * n * k / seconds
    peak = float(rates.max()) / 1e12 / 0.95
    gpu = measured.backend.startswith("torch")
    tiles = [(128, 256), (128, 128), (64, 128), (64, 64)] if gpu else [(64, 64), (16, 64)]
    best: tuple[float, Gemm] | None = None
    for k_half in (0, 32, 64, 128, 256):
        for efficiency in np.arange(0.5, 1.001, 0.1):
            gemm = Gemm(
                eff_max=float(round(efficiency, 2)),
                k_half=k_half,
                tiles=tiles,
                cores=max(1, measured.cores),
                align=8 if gpu else 1,
                good_align=64 if gpu else 1,
                launch_us=measured.launch_seconds * 1e6,
            )
            device = _device(measured, peak, gemm)
            predicted = matmul_seconds(device, measured.dtype, m, n, k, np.ones_like(m)) + measured.launch_seconds
            error = float(np.abs(np.log(predicted / seconds)).mean())
            if best is None or error < best[0]:
                best = (error, gemm)
    assert best is not None
    note = CalibrationNote(measured_on=f"{measured.device}, {measured.backend}", date=date.today().isoformat())
    return ClusterSpec(
        name="this-machine",
        device=_device(measured, peak, best[1]),
        topology=[
            Level(
                level="server",
                size=max(1, devices),
                kind="shared_memory",
                gbps=measured.copy_gbps / 2,
                latency_us=20,
                start_us=50,
                eff=0.5,
            )
        ],
        host=Host(dram_gb=measured.memory_gb, cpus=1, h2d_gbps=measured.copy_gbps / 2, adam_gbps=measured.vector_gbps),
        calibration=note,
        sources=f"measured: {len(measured.products)} products met within {best[0]:.1%} on average",
    )


def _device(measured: Measured, peak: float, gemm: Gemm) -> Device:
    memory = Memory(gb=measured.memory_gb, usable_gb=0.9 * measured.memory_gb, gbps=measured.copy_gbps, eff=1.0)
    share = min(1.0, measured.vector_gbps / measured.copy_gbps)
    peaks: dict = {"fp32": peak} if measured.dtype == "fp32" else {"fp32": peak / 8, "bf16": peak, "fp16": peak}
    vector = Vector(eff=share, launch_us=measured.launch_seconds * 1e6)
    return Device(name=measured.device or "cpu", peak_tflops=peaks, hbm=memory, gemm=gemm, vector=vector)
