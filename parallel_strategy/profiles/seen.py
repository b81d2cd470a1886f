"""What profiles show, in one form: kernels by shape, collectives by size, shares of a step."""

from dataclasses import dataclass, field

from parallel_strategy.measure.timed_kernels import Collected, Moved

LARGEST = 10**15  # elements of a tensor
WIDTHS = {"fp32": 4, "fp16": 2, "bf16": 2, "tf32": 4, "fp8": 1}


@dataclass(frozen=True, slots=True)
class SeenProduct:
    """`batch` products m x n x k. dtype: fp32, fp16, bf16, or tf32, which no cluster file has."""

    name: str
    dtype: str
    m: int
    n: int
    k: int
    batch: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SeenAttention:
    """Fused attention. flops: of what the kernel computes; backward has 2.5 times those of forward."""

    name: str
    dtype: str
    batch: int
    heads: int
    sequence: int
    width: int
    is_backward: bool
    flops: float
    seconds: float


@dataclass(frozen=True, slots=True)
class SeenLink:
    """Bytes that one device sent over links of one kind, and the time that it sent."""

    kind: str  # HCCS, PCIE, RDMA, SDMA
    megabytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class SeenStep:
    """Seconds of one rank's step: computing, communication that nothing hides, neither."""

    rank: str
    computing: float
    exposed: float
    free: float


LISTS = ("products", "attention", "vectors", "collectives", "links", "steps")


@dataclass
class Seen:
    """Everything of one folder. notes: a line a file, also for those that could not be read."""

    device: str = ""
    products: list[SeenProduct] = field(default_factory=list)
    attention: list[SeenAttention] = field(default_factory=list)
    vectors: list[Moved] = field(default_factory=list)
    collectives: list[Collected] = field(default_factory=list)
    links: list[SeenLink] = field(default_factory=list)
    steps: list[SeenStep] = field(default_factory=list)
    others: float = 0.0  # seconds of kernels without a known shape
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(getattr(self, name)) for name in LISTS)

    def add(self, other: "Seen") -> None:
        """Take over what another file shows."""
        self.device = self.device or other.device
        for name in LISTS:
            getattr(self, name).extend(getattr(other, name))
        self.others += other.others

    def words(self) -> str:
        """Return what a file showed, in a few words."""
        counts = {
            "products": len(self.products), "attention kernels": len(self.attention),
            "vector kernels": len(self.vectors),
            "collectives": len(self.collectives), "links": len(self.links), "steps of ranks": len(self.steps),
        }  # fmt: skip
        told = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        rest = f"; {self.others * 1e3:,.1f} ms of kernels without a known shape" if self.others else ""
        return (told or "no kernel with a shape") + rest
