"""cluster.yaml: a device with its kernel figures, and the levels of topology from the device outwards."""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from parallel_strategy.spec.file import PRESETS, Section, SpecFile


class Memory(Section):
    gb: PositiveFloat
    usable_gb: PositiveFloat | None = None
    gbps: PositiveFloat = Field(description="GB/s of device memory")
    eff: float = Field(default=0.85, gt=0, le=1, description="share of it that a large copy reaches")


class Gemm(Section):
    """What a matrix product reaches. All of it comes from a GEMM micro-benchmark over shapes, or from the data
    sheet."""

    eff_max: float = Field(default=0.8, gt=0, le=1, description="of peak, for a large aligned product")
    k_half: NonNegativeFloat = Field(
        default=96, description="K at which half of eff_max is reached: prologue and epilogue"
    )
    tiles: list[tuple[int, int]] = Field(default=[(128, 256), (128, 128), (64, 128), (64, 64)])
    small_tile_eff: float = Field(default=0.85, gt=0, le=1, description="loss for each halving of the tile")
    cores: PositiveInt = Field(default=108, description="units that take one tile each at a time")
    align: PositiveInt = Field(default=8, description="elements; a K or N that is no multiple falls to misaligned_eff")
    misaligned_eff: float = Field(default=0.6, gt=0, le=1)
    good_align: PositiveInt = Field(default=64, description="128 bytes: below it loads are not whole lines")
    poor_align_eff: float = Field(default=0.8, gt=0, le=1)
    launch_us: NonNegativeFloat = Field(default=4.0, description="floor of one kernel on the device")


class Vector(Section):
    eff: float = Field(default=0.8, gt=0, le=1, description="share of memory bandwidth that element-wise kernels reach")
    launch_us: NonNegativeFloat = 3.0
    kinds: dict[str, list[tuple[PositiveFloat, PositiveFloat]]] = Field(
        default={},
        description="measured kinds of kernels: (MB that one moves, its speed over that of eff), so in cache and out of it",
    )


class Device(Section):
    name: str
    peak_tflops: dict[Literal["fp32", "fp16", "bf16", "fp8", "fp4"], PositiveFloat]
    hbm: Memory
    gemm: Gemm = Gemm()
    flash_eff: float = Field(
        default=0.5, gt=0, le=1, description="of peak, forward fused attention; backward 0.8 of it"
    )
    vector: Vector = Vector()

    def peak(self, dtype: str) -> float:
        """FLOP/s of matrix products in this type; bf16 and fp16 stand in for one another, narrower ones fall back to
        wider ones."""
        for name in (dtype, *(["fp8"] if dtype == "fp4" else []), "bf16", "fp16", "fp32"):
            if name in self.peak_tflops:
                return self.peak_tflops[name] * 1e12  # type: ignore[index]
        raise AssertionError("checked on loading")


class Level(Section):
    """One level of topology: `size` groups of the level below."""

    level: str
    size: PositiveInt
    kind: Literal["full_mesh", "switch", "pcie", "ring", "fat_tree", "shared_memory"] = "switch"
    links: PositiveInt | None = Field(default=None, description="full_mesh: links of one device")
    gbps_per_link: PositiveFloat | None = Field(default=None, description="GB/s, one direction")
    gbps: PositiveFloat | None = Field(default=None, description="GB/s of one device, one direction")
    nic_gbit: PositiveFloat | None = Field(default=None, description="Gbit/s of one network card")
    nics_per_device: PositiveFloat = 1
    shared_by: PositiveInt = Field(default=1, description="devices that share the bandwidth")
    oversubscription: float = Field(default=1.0, ge=1)
    latency_us: NonNegativeFloat = Field(default=5.0, description="of one hop")
    start_us: NonNegativeFloat = Field(default=0.0, description="of one collective, whatever its size")
    eff: float = Field(default=0.8, gt=0, le=1)
    bus_gbps: dict[int, PositiveFloat] | None = Field(
        default=None, description="measured all-reduce bus bandwidth by number of members; replaces gbps and eff"
    )

    @model_validator(mode="after")
    def check_bandwidth(self) -> "Level":
        if self.kind == "full_mesh" and self.bus_gbps is None and not (self.links and self.gbps_per_link):
            raise ValueError(f"level {self.level!r}: full_mesh needs links and gbps_per_link")
        if self.kind != "full_mesh" and not (self.gbps or self.nic_gbit or self.bus_gbps):
            raise ValueError(f"level {self.level!r}: one of gbps, nic_gbit, bus_gbps must be given")
        return self

    def device_gbps(self, members: int) -> float:
        """GB/s, one direction, that one device gets at this level when `members` sub-groups talk to each other."""
        if self.bus_gbps:
            below = [n for n in self.bus_gbps if n <= members] or [min(self.bus_gbps)]
            return self.bus_gbps[max(below)]
        if self.kind == "full_mesh":
            assert self.links and self.gbps_per_link
            return min(self.links, max(1, members - 1)) * self.gbps_per_link * self.eff
        raw = self.gbps if self.gbps is not None else (self.nic_gbit or 0) * self.nics_per_device / 8
        return raw * self.eff / self.shared_by / self.oversubscription


class Host(Section):
    dram_gb: PositiveFloat = 512
    cpus: PositiveInt = 2
    h2d_gbps: PositiveFloat = Field(default=20, description="GB/s between host and one device")
    adam_gbps: PositiveFloat = Field(default=100, description="GB/s at which all cores of a server run Adam")
    launch_scale: PositiveFloat = Field(
        default=1.0, description="host time of this CPU over that of the framework file"
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
        return self

    @property
    def device_count(self) -> int:
        total = 1
        for level in self.topology:
            total *= level.size
        return total

    @property
    def devices_per_server(self) -> int:
        """Devices below the first level that is a network."""
        count = 1
        for level in self.topology:
            if level.nic_gbit is not None or level.level in ("rack", "spine", "network", "fabric"):
                break
            count *= level.size
        return count

    def with_devices(self, devices: int) -> "ClusterSpec":
        """The same cluster with exactly this many devices: outer levels shrink or grow."""
        topology, left = [], devices
        for index, level in enumerate(self.topology):
            last = index == len(self.topology) - 1
            size = left if last else min(level.size, left)
            topology.append(level.model_copy(update={"size": max(1, size)}))
            left = -(-left // max(1, size))
        return self.model_copy(update={"topology": topology})
