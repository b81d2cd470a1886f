"""What is timed, and how: the same list of kernels on every backend, lower quartiles of repeated runs.

A backend (numpy, MindSpore, PyTorch) makes the calls; this module decides shapes and repeats. Nothing of a training run
is measured here, so a cluster file that comes of it has seen no step time.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

Call = Callable[[], object]
ATTENTION = ((1, 16, 1024, 64), (4, 16, 2048, 128), (2, 32, 4096, 128))  # batch, heads, sequence, width of a head


@dataclass(frozen=True, slots=True)
class Product:
    """`batch` products m x n x k, and the seconds of one call."""

    m: int
    n: int
    k: int
    batch: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Moved:
    """A kernel that only moves bytes: how many it reads and writes, and the seconds of one call."""

    name: str
    bytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Attended:
    """Fused attention forward: FLOPs of the unmasked half and seconds."""

    flops: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Collected:
    """A collective among `members` processes over `bytes` (of the whole tensor; 0 where a profile does not say)."""

    op: str
    members: int
    bytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Crowded:
    """How many times as long a kernel takes when `members` processes of the machine compute at once."""

    name: str  # product, memory
    members: int
    slowdown: float


@dataclass(slots=True)
class Measured:
    """Everything that one run of `measure` saw. GB are 10^9 bytes."""

    backend: str
    device: str
    kind: str  # cpu, gpu, npu
    dtype: str
    cores: int
    memory_gb: float
    host_gb: float
    products: list[Product] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)  # "copy" among them
    attention: list[Attended] = field(default_factory=list)
    collectives: list[Collected] = field(default_factory=list)
    crowded: list[Crowded] = field(default_factory=list)
    launch_seconds: float = 0.0  # one empty kernel, on the device
    issue_seconds: float = 0.0  # what issuing it costs the host
    host_to_device_gbps: float = 0.0
    adam_gbps: float = 0.0  # host memory traffic of an Adam update


class Backend(Protocol):
    """What a framework must offer to be measured. Calls may return before the device is done; `synchronize` waits."""

    name: str
    device: str
    kind: str
    dtype: str
    cores: int
    memory_gb: float
    clock: Callable[[], float]  # wall time, or processor time where others use the machine too
    overhead: float  # seconds of a call that are not its kernels': taken off
    launches: bool  # whether `workers` can start several processes of it
    repeats: int  # how often a call of `product` or `vectors` runs its kernel
    slices: int  # small kernels beside each of them: taken off

    def synchronize(self) -> None: ...
    def product(self, m: int, n: int, k: int, batch: int) -> Call: ...
    def vectors(self, elements: int) -> dict[str, tuple[Call, float]]:
        """Return element-wise and reducing kernels over `elements`: the call and the bytes that one kernel has to move.
        The names are those of `spec.framework.TENSORS` where the kinds of kernels shall be told apart, with `copy`
        else."""

    def attention(self, batch: int, heads: int, sequence: int, width: int) -> Call | None:
        """Return fused causal attention forward; None where there is no such kernel."""

    def empty(self) -> tuple[Call, int]:
        """Return a call that runs this many kernels with nothing to do."""

    def host_copy(self, size: int) -> Call | None:
        """Copy `size` bytes from the host to the device; None where they are one."""

    def collectives(self) -> list[Collected]: ...


def element_counts(kind: str) -> tuple[int, ...]:
    """Return the sizes of vectors: inside the caches and outside."""
    return (2**17, 2**20, 2**22) if kind == "cpu" else (2**22, 2**26)


def steps(backend: Backend) -> int:
    """Return how often `measure` tells what it does."""
    return len(product_shapes(backend.kind)) + len(element_counts(backend.kind)) + 2


def measure(backend: Backend, seconds: float, tell: Callable[[str], None] = lambda what: None) -> Measured:
    """Return time everything, for about `seconds`; `tell` is called before each part."""
    shapes, sizes = product_shapes(backend.kind), element_counts(backend.kind)
    budget = seconds / (len(shapes) + 15 * len(sizes) + len(ATTENTION) + 6)
    tell("launches")
    measured = Measured(
        backend.name, backend.device, backend.kind, backend.dtype, backend.cores, backend.memory_gb, host_memory_gb()
    )
    measured.launch_seconds, measured.issue_seconds = _launch(backend)

    def one(call: Call) -> float:
        """Return the seconds of one of the kernels in a call, launch and all."""
        return max(timed(backend, call, budget) / backend.repeats - backend.slices * measured.launch_seconds, 1e-8)

    for m, n, k, batch in shapes:
        tell(f"products {m} x {n} x {k}")
        measured.products.append(Product(m, n, k, batch, one(backend.product(m, n, k, batch))))
    for size in sizes:
        tell(f"vectors of {size} elements")
        for name, (call, moved) in backend.vectors(size).items():
            measured.moved.append(Moved(name, moved, one(call)))
    for batch, heads, sequence, width in ATTENTION if backend.kind != "cpu" else ():
        attend = backend.attention(batch, heads, sequence, width)
        if attend is not None:
            flops = 2.0 * batch * heads * sequence * sequence * width  # two products, half of each masked
            measured.attention.append(Attended(flops, timed(backend, attend, budget)))
    tell("copies, collectives")
    copy = backend.host_copy(2**27)
    if copy is not None:
        measured.host_to_device_gbps = 2**27 / timed(backend, copy, budget) / 1e9
    measured.adam_gbps = _adam(budget)
    measured.collectives = backend.collectives()
    return measured


def product_shapes(kind: str) -> list[tuple[int, int, int, int]]:
    """Return m, n, k, batch: products of transformers of several widths, forward and backward, and of their
    attention."""
    if kind == "cpu":
        tokens: tuple[int, ...] = (512, 2048)
        widths: tuple[tuple[int, int], ...] = (
            (128, 128),
            (512, 128),
            (256, 256),
            (1024, 256),
            (256, 1024),
            (512, 512),
            (2048, 512),
            (768, 768),
            (3072, 768),
            (4096, 256),
            (1024, 1024),
            (4096, 1024),
        )
        attention = [(256, 256, 64, 16), (256, 64, 256, 16), (256, 256, 32, 32), (256, 32, 256, 32)]
    else:
        tokens = (1024, 4096, 16384)
        widths = ((1024, 1024), (4096, 1024), (2048, 2048), (8192, 2048), (2560, 2560), (12288, 4096), (16384, 4096),
                  (4096, 16384), (50304, 2048), (8192, 8192), (192, 3072))  # fmt: skip
        attention = [(1024, 1024, 64, 64), (1024, 64, 1024, 64), (2048, 2048, 128, 32), (2048, 128, 2048, 32)]
    shapes = [(m, n, k, 1) for m in tokens for n, k in widths]
    # the gradient of a weight has the tokens as its inner size
    shapes += [(k, n, tokens[-1], 1) for n, k in widths[:7]]
    return shapes + attention


def timed(backend: Backend, call: Call, budget: float) -> float:
    """Return the seconds of a call, measured for about `budget` seconds. Short calls are timed many at once, so that
    waiting for the device does not count."""
    call()
    backend.synchronize()
    start = backend.clock()
    call()
    backend.synchronize()
    once = max(1e-7, backend.clock() - start)
    inner = max(1, min(1000, int(0.1 * budget / once)))
    times: list[float] = []
    end = backend.clock() + budget
    while len(times) < 3 or (backend.clock() < end and len(times) < 50):
        start = backend.clock()
        for _ in range(inner):
            call()
        backend.synchronize()
        times.append((backend.clock() - start) / inner)
    once = undisturbed(times)
    return max(once - backend.overhead, 0.05 * once)


def undisturbed(times: list[float]) -> float:
    """Return the lower quartile: whatever else runs on a machine only ever adds."""
    return float(np.quantile(times, 0.25))


def fewest(budget: float, once: float) -> int:
    """Return how often to repeat what takes `once` seconds: within the budget, at least three times."""
    return int(min(50, max(3, budget / max(once, 1e-6))))


def _launch(backend: Backend) -> tuple[float, float]:
    """Return the seconds of an empty kernel in a row of many, and of issuing one."""
    call, kernels = backend.empty()
    count = max(20, 2000 // kernels)
    for _ in range(count // 10):
        call()
    backend.synchronize()
    start = backend.clock()
    for _ in range(count):
        call()
    issued = backend.clock() - start
    backend.synchronize()
    total = backend.clock() - start
    return max(1e-7, total / count - backend.overhead) / kernels, max(1e-7, issued / count - backend.overhead) / kernels


def _adam(budget: float) -> float:
    """Return GB/s of host memory that an Adam update in numpy moves: seven streams of fp32."""
    size = 2**22
    weight, gradient, first, second = (np.ones(size, dtype=np.float32) for _ in range(4))
    scratch = np.empty_like(weight)

    def update() -> None:
        np.multiply(first, 0.9, out=first)
        np.multiply(gradient, 0.1, out=scratch)
        np.add(first, scratch, out=first)
        np.multiply(second, 0.95, out=second)
        np.multiply(scratch, gradient, out=scratch)
        np.add(second, scratch, out=second)
        np.sqrt(second, out=scratch)
        np.divide(first, scratch, out=scratch)
        np.subtract(weight, scratch, out=weight)

    update()
    times: list[float] = []
    end = time.perf_counter() + budget
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        update()
        times.append(time.perf_counter() - start)
    # each of the nine passes reads two streams and writes one at most; a fused one would move 28 bytes an element
    return 24.0 * 4 * size / float(np.median(times)) / 1e9


def host_memory_gb() -> float:
    import os

    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError):  # not POSIX
        return 16.0
