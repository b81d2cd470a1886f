"""cluster.yaml: a device with its kernel figures, and the levels of topology from the device outwards."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from parallel_strategy.spec.file import PRESETS, Section, SpecFile

# Sustained clock of matrix products by power. Power goes with clock times the square of a voltage that falls with it,
# down to a floor: between a third and all of the logarithm
CLOCK_OF_POWER = 0.5
# Far above every device that there is: a larger figure was written in another unit (bytes, FLOP/s).
MOST_TFLOPS, MOST_GB, MOST_GBPS = 1e6, 1e5, 1e8


class Memory(Section):
    gb: PositiveFloat = Field(le=MOST_GB)
    usable_gb: PositiveFloat | None = None
    gbps: PositiveFloat = Field(le=MOST_GBPS, description="GB/s of device memory")
    eff: float = Field(default=0.85, gt=0, le=1, description="share of it that a large copy reaches")

    @model_validator(mode="after")
    def check_usable(self) -> "Memory":
        if self.usable_gb is not None and self.usable_gb > self.gb:
            raise ValueError(f"usable_gb {self.usable_gb:g} is more than gb {self.gb:g}; nearest: {self.gb:g}")
        return self


class Gemm(Section):
    """What a matrix product reaches. All of it comes from a GEMM micro-benchmark over shapes, or from the data
    sheet."""

    eff_max: float = Field(default=0.8, gt=0, le=1, description="of peak, for a large aligned product")
    k_half: NonNegativeFloat = Field(
        default=96, description="K at which half of eff_max is reached: prologue and epilogue"
    )
    tiles: list[tuple[PositiveInt, PositiveInt]] = Field(
        default=[(128, 256), (128, 128), (64, 128), (64, 64)], min_length=1
    )
    small_tile_eff: float = Field(default=0.85, ge=0.01, le=1, description="loss for each halving of the tile")
    cores: PositiveInt = Field(default=108, description="units that take one tile each at a time")
    align: PositiveInt = Field(default=8, description="elements; a K or N that is no multiple falls to misaligned_eff")
    misaligned_eff: float = Field(default=0.6, gt=0, le=1, description="of a product whose rows are not aligned")
    misaligned_batch_eff: float | None = Field(
        default=None, gt=0, le=1, description="of many small ones at once, as in attention; absent: misaligned_eff"
    )
    good_align: PositiveInt = Field(default=64, description="128 bytes: below it loads are not whole lines")
    poor_align_eff: float = Field(default=0.8, gt=0, le=1)
    grouped_eff: float = Field(
        default=1.0, gt=0, le=1, description="of a product of several experts over that of one as large"
    )
    launch_us: NonNegativeFloat = Field(default=4.0, description="floor of one kernel on the device")


class Vector(Section):
    eff: float = Field(default=0.8, gt=0, le=1, description="share of memory bandwidth that element-wise kernels reach")
    launch_us: NonNegativeFloat = 3.0
    kinds: dict[str, list[tuple[PositiveFloat, PositiveFloat]]] = Field(
        default={},
        description="measured kinds of kernels: (MB that one moves, its speed over that of eff)",
    )


class Device(Section):
    name: str
    peak_tflops: dict[Literal["fp32", "fp16", "bf16", "fp8", "fp4"], Annotated[PositiveFloat, Field(le=MOST_TFLOPS)]]
    hbm: Memory
    gemm: Gemm = Gemm()
    flash_eff: float = Field(default=0.5, gt=0, le=1, description="of peak, forward fused attention")
    flash_backward: float = Field(
        default=0.8, gt=0, le=2, description="rate of its backward, which has 2.5 times the products, over forward's"
    )
    flash_full_head: NonNegativeFloat = Field(
        default=0.0,
        description="head size from which attention has flash_eff; below it by the square root, since the softmax of a "
        "smaller head takes as long (FlashAttention-3: 0.7 at 64)",
    )
    power_watts: PositiveFloat | None = Field(default=None, description="limit of the card's power, where it is set")
    rated_watts: PositiveFloat | None = Field(default=None, description="power at which the figures above were reached")
    vector: Vector = Vector()

    @model_validator(mode="after")
    def check_power(self) -> "Device":
        if self.power_watts and not self.rated_watts:
            raise ValueError("power_watts needs rated_watts beside it: the power at which the figures were reached")
        return self

    @property
    def clock(self) -> float:
        """Return the clock under the limit of power, over that at the rated one."""
        if not (self.power_watts and self.rated_watts):
            return 1.0
        return min(1.0, (self.power_watts / self.rated_watts) ** CLOCK_OF_POWER)

    def nearest_dtype(self, dtype: str) -> str:
        """Return the type itself, or the widest that comes next where the device has no such matrix products. Types of
        32 and 16 bits that are not stated are taken for ones that it has, more slowly; bf16 and narrower are not."""
        if dtype not in ("bf16", "fp8", "fp4") or dtype in self.peak_tflops:
            return dtype
        return next((name for name in ("fp8", "bf16", "fp16") if name in self.peak_tflops), "fp32")

    def peak(self, dtype: str) -> float:
        """Return FLOP/s of matrix products in this type; bf16 and fp16 stand in for one another, narrower ones fall
        back to wider ones."""
        for name in (dtype, *(["fp8"] if dtype == "fp4" else []), "bf16", "fp16", "fp32"):
            if name in self.peak_tflops:
                return self.peak_tflops[name] * 1e12  # type: ignore[index]
        raise AssertionError("checked on loading")


class Level(Section):
    """One level of topology: `size` groups of the level below."""

    level: str
    size: int = Field(gt=0, le=10**6)
    kind: Literal["full_mesh", "switch", "pcie", "ring", "fat_tree", "shared_memory"] = "switch"
    links: PositiveInt | None = Field(default=None, description="full_mesh: links of one device")
    gbps_per_link: PositiveFloat | None = Field(default=None, le=MOST_GBPS, description="GB/s, one direction")
    gbps: PositiveFloat | None = Field(default=None, le=MOST_GBPS, description="GB/s of one device, one direction")
    nic_gbit: PositiveFloat | None = Field(default=None, le=MOST_GBPS, description="Gbit/s of one network card")
    nics_per_device: PositiveFloat = 1
    shared_by: PositiveInt = Field(default=1, description="devices that share the bandwidth")
    oversubscription: float = Field(default=1.0, ge=1)
    latency_us: NonNegativeFloat = Field(default=5.0, description="of one hop")
    start_us: NonNegativeFloat = Field(default=0.0, description="of one collective, whatever its size")
    eff: float = Field(default=0.8, gt=0, le=1)
    bus_gbps: dict[int, PositiveFloat] | None = Field(
        default=None,
        min_length=1,
        description="measured all-reduce bus bandwidth by number of members; replaces gbps and eff",
    )
    lines: dict[str, dict[int, tuple[NonNegativeFloat, PositiveFloat]]] = Field(
        default={},
        description="measured collectives: operation -> members -> (microseconds to start, microseconds a MB of the "
        "whole tensor); replaces all other figures. A library without reduce_scatter does an all_reduce",
    )

    @model_validator(mode="after")
    def check_bandwidth(self) -> "Level":
        if self.lines and "all_reduce" not in self.lines:
            raise ValueError(f"level {self.level!r}: lines must name all_reduce")
        if self.kind == "full_mesh" and self.bus_gbps is None and not (self.links and self.gbps_per_link):
            raise ValueError(f"level {self.level!r}: full_mesh needs links and gbps_per_link")
        if self.kind != "full_mesh" and not (self.gbps or self.nic_gbit or self.bus_gbps):
            raise ValueError(f"level {self.level!r}: one of gbps, nic_gbit, bus_gbps must be given")
        return self

    def line(self, op: str, members: int) -> tuple[float, float] | None:
        """Return (seconds to start, seconds a byte) as measured among this many, or else among the most that are
        fewer."""
        found = self.lines.get(op) or (self.lines.get("all_reduce") if op == "reduce_scatter" else None)
        if not found:
            return None
        start, a_megabyte = found[max((n for n in found if n <= members), default=min(found))]
        return start * 1e-6, a_megabyte * 1e-12

    def device_gbps(self, members: int) -> float:
        """Return GB/s, one direction, that one device gets at this level when `members` sub-groups talk to each
        other."""
        if self.bus_gbps:
            below = [n for n in self.bus_gbps if n <= members] or [min(self.bus_gbps)]
            return self.bus_gbps[max(below)]
        if self.kind == "full_mesh":
            assert self.links and self.gbps_per_link
            return min(self.links, max(1, members - 1)) * self.gbps_per_link * self.eff
        raw = self.gbps if self.gbps is not None else (self.nic_gbit or 0) * self.nics_per_device / 8
        return raw * self.eff / self.shared_by / self.oversubscription


class Host(Section):
    dram_gb: PositiveFloat = Field(default=512, le=100 * MOST_GB)
    cpus: PositiveInt = 2
    h2d_gbps: PositiveFloat = Field(default=20, description="GB/s between host and one device")
    adam_gbps: PositiveFloat = Field(default=100, description="GB/s at which all cores of a server run Adam")
    launch_scale: PositiveFloat = Field(
        default=1.0, description="host time of this CPU over that of the framework file"
    )
    crowding: dict[int, tuple[PositiveFloat, PositiveFloat]] = Field(
        default={},
        description="devices of a server that share its cores and memory: how many compute at once -> how many times "
        "as long as alone products take, and kernels that are bound by memory",
    )


class CalibrationNote(Section):
    """Where the figures of a measured preset come from."""

    measured_on: str = ""
    date: str = ""
    file: str = ""


class ClusterSpec(SpecFile):
    """The machine room. `topology` goes from the device outwards; the product of sizes is the number of devices."""

    version: int = 1
    name: str
    device: Device
    topology: list[Level] = Field(min_length=1)
    gather_algorithms: Literal["ring", "any"] = Field(
        default="ring",
        description="how the library gathers and reduce-scatters: in rings only, as NCCL, whose latency grows with "
        "every member; or level by level too",
    )
    host: Host = Host()
    calibration: CalibrationNote = CalibrationNote()
    sources: str = Field(default="", description="where the figures come from")

    @classmethod
    def presets_directory(cls) -> Path:
        return PRESETS / "clusters"

    @model_validator(mode="after")
    def check_peak(self) -> "ClusterSpec":
        if not self.device.peak_tflops:
            raise ValueError("device.peak_tflops must name at least one of fp32, fp16, bf16, fp8, fp4")
        names = [level.level for level in self.topology]
        if len(set(names)) < len(names):
            raise ValueError(f"topology: two levels are called {max(names, key=names.count)!r}")
        return self

    @property
    def device_count(self) -> int:
        total = 1
        for level in self.topology:
            total *= level.size
        return total

    @property
    def devices_per_server(self) -> int:
        """Return devices below the first level that is a network."""
        count = 1
        for level in self.topology:
            if level.nic_gbit is not None or level.level in ("rack", "spine", "network", "fabric"):
                break
            count *= level.size
        return count

    def crowded(self, devices: int) -> "ClusterSpec":
        """Return the same cluster when this many devices compute at once, where they share what they compute with."""
        crowding, count = self.host.crowding, min(devices, self.devices_per_server)
        if not crowding or count == 1:
            return self
        products, memory = _crowding({1: (1.0, 1.0)} | crowding, count)
        gemm, hbm, vector = self.device.gemm, self.device.hbm, self.device.vector
        # kinds that are slower than memory are bound by the core; their speeds stand over that of memory
        kinds = {
            kind: [(mb, speed * memory / (products + (memory - products) * min(1.0, speed))) for mb, speed in points]
            for kind, points in vector.kinds.items()
        }
        device = self.device.model_copy(
            update={
                "peak_tflops": {name: peak / products for name, peak in self.device.peak_tflops.items()},
                "gemm": gemm.model_copy(update={"launch_us": gemm.launch_us * products}),
                "hbm": hbm.model_copy(update={"gbps": hbm.gbps / memory}),
                "vector": vector.model_copy(update={"launch_us": vector.launch_us * products, "kinds": kinds}),
            }
        )
        host = self.host.model_copy(update={"crowding": {}, "launch_scale": self.host.launch_scale * products})
        return self.model_copy(update={"device": device, "host": host})

    def with_devices(self, devices: int) -> "ClusterSpec":
        """Return the same cluster with exactly this many devices: outer levels shrink or grow."""
        topology, left = [], devices
        for index, level in enumerate(self.topology):
            last = index == len(self.topology) - 1
            size = left if last else min(level.size, left)
            topology.append(level.model_copy(update={"size": max(1, size)}))
            left = -(-left // max(1, size))
        return self.model_copy(update={"topology": topology})


def _crowding(known: dict[int, tuple[float, float]], count: int) -> tuple[float, float]:
    """Return slow-downs when `count` devices compute at once: between those that are known, and in proportion beyond
    them."""
    below, above = max(n for n in known if n <= count), min((n for n in known if n >= count), default=0)
    if not above:
        products, memory = known[below]
        return products * count / below, memory * count / below
    share = (count - below) / (above - below) if above > below else 0.0
    products, memory = (a + share * (b - a) for a, b in zip(known[below], known[above], strict=True))
    return products, memory
