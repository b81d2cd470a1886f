"""Measured training runs from a CSV file, each turned into a setup for the emulator.

The columns are those of the project's validation tables: `hw` and `framework` are free text that is looked up in a
table of names; a pair that is not known is named and its rows are skipped.
"""

import ast
import csv
import math
import re
import sys
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from pangu.foundation.best_effort import print_translated, reason_of
from pangu.foundation.errors import UserError
from parallel_strategy.calibrate.columns import REQUIRED
from parallel_strategy.calibrate.known_names import cluster_of, framework_of, model_traits
from parallel_strategy.graph.program import Program
from parallel_strategy.spec.cluster import ClusterSpec
from parallel_strategy.spec.framework import FrameworkSpec
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.spec.strategy import CHUNKED, Setup, StrategySpec, divisors, even_stages, nearest

# (pattern, dtype) of what a table calls its precision, the first that matches
PRECISIONS = (
    (r"fp4", "fp4"),
    (r"fp8|mxfp8|e4m3", "fp8"),
    (r"bf16|bfloat16", "bf16"),
    (r"fp16|float16|half", "fp16"),
    (r"fp32|float32|tf32", "fp32"),
)
MOST = 10**7  # devices, stages, sequences of a row
SCHEDULES = {
    "1f1b": "1f1b",
    "1f1b-i": "interleaved",
    "zb-h1": "zb_h1",
    "zb-1p": "zb_h1",
    "zb-h2": "zb_h2",
    "zb-2p": "zb_h2",
    "zb-v": "zb_v",
}


@dataclass(frozen=True)
class MeasuredRow:
    """One measured run. `seconds` of a step and `gib` of memory where they were measured; `oom`: it did not fit."""

    id: str
    table: str
    group: str  # what a calibration may treat as one machine: cluster and framework preset
    model: str
    size: str  # model size, for leave-one-size-out
    quality: str
    seconds: float | None
    gib: float | None
    memory_kind: str
    oom: bool
    setup: Setup
    software: str = ""  # the framework as the table names it, and the release that its source names

    @cached_property
    def share_of_peak(self) -> float:
        """Return the share of the devices' peak that the measured time implies: model FLOPs, nothing recomputed."""
        if not self.seconds:
            return 0.0
        peak = self.setup.cluster.device.peak(self.setup.model.compute_dtype)
        return Program(self.setup).flops_per_step() / (self.seconds * self.setup.strategy.mesh.devices * peak)

    @property
    def impossible(self) -> bool:
        """Return a time that needs more than 95 % of the hardware's peak contradicts the layout that the row names."""
        return self.share_of_peak > 0.95

    @property
    def scored(self) -> bool:
        """Return a and B count; C is context, D repeats another row."""
        return self.quality[:1] in ("A", "B")


@dataclass(frozen=True, slots=True)
class Skipped:
    id: str
    reason: str


def read_rows(path: Path | str, place: ClusterSpec | None = None) -> tuple[list[MeasuredRow], list[Skipped]]:
    """Return all rows that can be turned into setups, and why the others cannot. place: where all of them ran,
    whatever their `hw` says."""
    path = Path(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in REQUIRED if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(
                    f"{path}: column {missing[0]!r} is missing; `validate --template FILE` writes one with all"
                )
            records = [{name: row.get(name) or "" for name in reader.fieldnames or ()} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {reason_of(error)}") from None
    rows: list[MeasuredRow] = []
    skipped: list[Skipped] = []
    for record in records:
        try:
            row = _row(record, path.stem, "a100-server" if place is not None else None)
            rows.append(row if place is None else _moved(row, place))
        except (UserError, ValueError, ArithmeticError) as error:
            skipped.append(Skipped(record.get("id", "?"), " ".join(str(error).split())[:200]))
    return rows, skipped


def read_all(paths: list[str], cluster: str | None = None) -> list[MeasuredRow]:
    """Return rows of several files; what is skipped is said on standard error. `cluster`: a preset or file for every
    row."""
    rows: list[MeasuredRow] = []
    place = None if cluster is None else cluster_at(cluster)
    for path in paths:
        found, skipped = read_rows(path, place)
        rows += found
        reasons: dict[str, int] = {}
        for one in skipped:
            reasons[one.reason] = reasons.get(one.reason, 0) + 1
        for reason, count in reasons.items():
            print_translated(f"{path}: skipped {count} row{'s' if count > 1 else ''}: {reason}", to=sys.stderr)
    return rows


def cluster_at(name: str) -> ClusterSpec:
    """Return a cluster by the name of a preset or of a file."""
    return ClusterSpec.load(name) if name.endswith((".yaml", ".yml")) else ClusterSpec.preset(name)


def _moved(row: MeasuredRow, cluster: ClusterSpec) -> MeasuredRow:
    setup = row.setup
    devices = setup.strategy.mesh.devices
    here = cluster if cluster.device_count >= devices else cluster.with_devices(devices)
    moved = Setup.model_construct(model=setup.model, cluster=here, framework=setup.framework, strategy=setup.strategy)
    return replace(row, setup=moved, group=f"{cluster.name}/{setup.framework.name}")


def _row(record: dict[str, str], table: str, place: str | None = None) -> MeasuredRow:
    hardware, software = record["hw"], record["framework"]
    cluster_name = place or (hardware if hardware in ClusterSpec.preset_names() else cluster_of(hardware))
    is_preset = software in FrameworkSpec.preset_names()
    framework_name = software if is_preset else framework_of(software, record.get("source", ""), hardware)
    if cluster_name is None:
        raise UserError(f"hw {record['hw']!r} is not known")
    if framework_name is None:
        raise UserError(f"framework {record['framework']!r} is not known")
    memory = record.get("mem_gib", "").strip()
    setup = setup_of(record, cluster_name, framework_name)
    return MeasuredRow(
        id=record["id"],
        table=re.sub(r"_\d+$", "", record["id"]) or table,
        group=f"{cluster_name}/{framework_name}",
        model=record.get("model", ""),
        size=f"{record['layers']}x{record['hidden']}",
        quality=record.get("quality", "A") or "A",
        seconds=_number(record, "iter_time_s"),
        gib=None if memory in ("", "OOM") else _number(record, "mem_gib"),
        memory_kind=record.get("mem_kind", ""),
        oom=memory == "OOM",
        setup=setup,
        software=" ".join(
            [record["framework"], *re.findall(r"@[\w.-]+|\[[\d.]+ NeMo Container", record.get("source", ""))]
        ),
    )


def setup_of(record: dict[str, str], cluster_name: str, framework_name: str) -> Setup:
    """Return the setup whose answer the row measured. Raises UserError or ValueError where the row contradicts
    itself."""
    notes = record.get("notes", "")
    # a card that says nothing of flash attention was written before it
    flash = _note(notes, "flash") or ("False" if "flash= " in notes else None)
    framework = _framework(framework_name, flash)
    model = _model(record)
    devices = _whole(record, "n_dev", 0)
    if devices < 1:
        raise ValueError(f"n_dev {devices} must be above 0")
    tp, pp, cp = (_whole(record, name, 1) for name in ("tp", "pp", "cp"))
    dp = _whole(record, "dp", 0) or max(1, devices // (tp * pp * cp))
    micro = _whole(record, "mbs", 1)
    batch = _whole(record, "gbs", micro * dp)
    if batch % (micro * dp):
        batch = max(1, round(batch / (micro * dp))) * micro * dp
    vpp = _whole(record, "vpp", 1)
    schedule = _schedule(notes, vpp, pp)
    if schedule in CHUNKED and pp > 1 and vpp > 1 and (batch // dp // micro) % pp:
        batch = max(1, round(batch / (micro * dp * pp))) * micro * dp * pp
    chunks = _chunks(model, pp, vpp, framework_name) if schedule in CHUNKED else None
    stages = _stages(notes, model, pp, framework_name)
    if vpp * pp > model.num_layers and chunks is None:
        vpp = max(1, model.num_layers // pp)
    mode, per_stage = _recompute(record.get("recompute", ""), pp)
    if "AC per op" in record.get("quality", ""):  # attention is kept, every other product computed again
        mode, per_stage = "full", [(layers + 1) // 2 for layers in stages or even_stages(model.num_layers, pp)]
    if "no compile" in notes:
        framework = framework.model_copy(update={"fused_norm": False, "fused_bias_activation": False})
    zero = _whole(record, "zero", 0)
    accumulate = _note(notes, "interleave")
    fields = {
        "framework": framework.name,
        "batch": {"global": batch, "micro": micro},
        "mesh": {"pp": pp, "dp": dp, "cp": cp, "tp": tp, "ep": _whole(record, "ep", 1)},
        "pipeline": {
            "schedule": schedule,
            "vpp": vpp if schedule in CHUNKED else 1,
            "stages": stages if vpp == 1 else None,
            "chunks": chunks if vpp > 1 else None,
        },
        "tensor": {"sequence_parallel": _whole(record, "seq_par", 0) > 0 and tp > 1},
        "zero": {"optimizer_shard": zero > 0, "level": max(1, min(3, zero))},
        "recompute": {"mode": mode, "per_stage": per_stage, "mp_comm": "mp_comm_recompute=False" not in notes},
    }
    if accumulate is not None and int(accumulate) > 1 and micro % int(accumulate) == 0:
        fields["batch"] = {"global": batch, "micro": micro // int(accumulate)}
    etp = _expert_tensor(record, framework_name, model, tp)
    split = etp if etp is not None else tp
    sequence_parallel = bool(fields["tensor"]["sequence_parallel"])  # type: ignore[index]
    if etp is not None and (tp == 1 or sequence_parallel):
        fields["mesh"]["etp"] = etp  # type: ignore[index]
    else:
        split = tp
    fields["mesh"]["ep"] = _legal_ep(fields["mesh"]["ep"], dp * cp * tp // split, model)  # type: ignore[index]
    strategy = StrategySpec.from_fields(fields, record["id"])
    strategy.check_model(model)
    cluster = _cluster(cluster_name, strategy.mesh.devices)
    return Setup.model_construct(model=model, cluster=cluster, framework=framework, strategy=strategy)


@lru_cache(maxsize=512)
def _cluster(name: str, devices: int) -> ClusterSpec:
    cluster = _evenly_filled(ClusterSpec.preset(name), devices)
    return cluster if cluster.device_count >= devices else cluster.with_devices(devices)


def _evenly_filled(cluster: ClusterSpec, devices: int) -> ClusterSpec:
    """Return the cluster with as many devices of each server as the run took, where it did not fill all of them.

    Schedulers give a run equal shares: 64 devices of every NVL72 rack for 256.
    """
    server, *others = cluster.topology
    if devices <= server.size or devices % server.size == 0:
        return cluster
    taken = max(size for size in divisors(devices) if size <= server.size)
    return cluster.model_copy(update={"topology": [server.model_copy(update={"size": taken}), *others]})


@lru_cache(maxsize=64)
def _framework(name: str, flash: str | None) -> FrameworkSpec:
    framework = FrameworkSpec.preset(name)
    if flash in ("0", "False"):
        return framework.model_copy(update={"attention": "fused_softmax"})
    if flash in ("1", "True"):
        return framework.model_copy(update={"attention": "flash"})
    return framework


def _model(record: dict[str, str]) -> ModelSpec:
    hidden = int(record["hidden"])
    traits: dict[str, Any] = model_traits(record.get("model", ""))
    heads = _whole(record, "heads", 0) or int(traits.pop("num_heads", 0)) or max(1, hidden // 128)
    traits.pop("num_heads", None)
    kv_heads = _whole(record, "kv_heads", 0) or None
    precision = (record.get("precision", "") or "fp16").lower()
    fields: dict[str, object] = {
        "name": record.get("model") or "model",
        "num_layers": int(record["layers"]),
        "hidden_size": hidden,
        "num_heads": heads,
        "kv_heads": kv_heads,
        "ffn_hidden_size": _whole(record, "ffn", 4 * hidden),
        "seq_length": int(record["seq"]),
        "vocab_size": _whole(record, "vocab", 0) or int(traits.get("vocab_size", 51200)),
        "compute_dtype": next((dtype for pattern, dtype in PRECISIONS if re.search(pattern, precision)), precision),
    }
    if hidden % heads:
        fields["head_size"] = max(8, round(hidden / heads / 8) * 8)  # a slip in the row: no such head exists
    note = _note(record.get("notes", ""), "swiglu")
    if note is not None:
        traits["gated_ffn"] = note == "1"
    traits.pop("vocab_size", None)
    return ModelSpec.from_fields({**fields, **traits}, record["id"])


def _recompute(text: str, pp: int) -> tuple[str, list[int] | None]:
    per_stage = re.search(r"\[[\d, ]+\]", text)
    if per_stage:
        layers = ast.literal_eval(per_stage.group())
        return "full", list(layers) if len(layers) == pp else None
    if text.startswith("full"):
        return "full", None
    if text.startswith("selective") or "select True" in text:
        return "selective", None
    return "none", None


def _expert_tensor(record: dict[str, str], framework: str, model: ModelSpec, tp: int) -> int | None:
    """Return the ranks that split each expert, where they are not those of tp. Megatron-Bridge's recipes do not split
    experts."""
    if model.experts is None:
        return None
    etp = _whole(record, "etp", 1 if framework.startswith("megatron-bridge") else tp)
    return None if etp == tp else etp


# Megatron-Bridge's layouts of DeepSeek-V3 (recipes/deepseek): the last chunk is the shortest, since head and prediction
# layer follow it
BRIDGE_CHUNKS = {4: [16] * 3 + [13], 8: [8] * 7 + [5], 16: [4] * 15 + [1], 32: [1] + [2] * 30 + [0]}


def _bridge_chunks(model: ModelSpec, count: int, framework: str) -> list[int] | None:
    is_deepseek = framework.startswith("megatron-bridge") and re.search(r"deepseek-?v3", model.name.lower())
    return BRIDGE_CHUNKS.get(count) if is_deepseek and model.num_layers == 61 else None


def _chunks(model: ModelSpec, pp: int, vpp: int, framework: str) -> list[int] | None:
    """Return the layers of interleaved chunks where embedding and head count as a layer each, so that the first and the
    last have one less; None for even ones."""
    layers, count = model.num_layers, pp * vpp
    if vpp == 1 or pp == 1:
        return None
    if (known := _bridge_chunks(model, count, framework)) is not None:
        return known
    if not layers % count or (layers + 2) % count:
        return None
    each = (layers + 2) // count
    return [each - 1, *[each] * (count - 2), each - 1]


def _stages(notes: str, model: ModelSpec, pp: int, framework: str) -> list[int] | None:
    layers = model.num_layers
    offset = re.search(r"offset=\[([-\d, ]+)\]", notes)
    if offset:
        shift = [int(x) for x in offset.group(1).split(",")]
        stages = [layers // pp + s for s in shift]
        if len(stages) == pp and sum(stages) == layers and min(stages) > 0:
            return stages
    if pp > 2 and (known := _bridge_chunks(model, pp, framework)) is not None:
        return known
    if pp > 2 and layers % pp and (layers + 2) % pp == 0:
        # embedding and head count as layers when stages are balanced by type
        each = (layers + 2) // pp
        return [each - 1, *[each] * (pp - 2), each - 1]
    return even_stages(layers, pp)


def _schedule(notes: str, vpp: int, pp: int) -> str:
    if pp == 1:
        return "1f1b"
    named = re.search(r"schedule=([\w-]+)", notes)
    if named and named.group(1).lower() in SCHEDULES:
        return SCHEDULES[named.group(1).lower()]
    return "interleaved" if vpp > 1 else "1f1b"


def _legal_ep(ep: int, ranks: int, model: ModelSpec) -> int:
    if model.experts is None:
        return 1
    legal = [n for n in range(1, ranks + 1) if ranks % n == 0 and model.experts.count % n == 0]
    return nearest(legal, ep)


def _note(notes: str, name: str) -> str | None:
    found = re.search(rf"\b{name}=([\w.]+)", notes)
    return found.group(1) if found else None


def _number(record: dict[str, str], name: str) -> float | None:
    text = (record.get(name) or "").strip()
    if not text:
        return None
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} {text!r} must be a number from 0 on")
    return value or None


def _whole(record: dict[str, str], name: str, default: int) -> int:
    text = (record.get(name) or "").strip()
    if not text:
        return default
    value = float(text)
    if not 0 <= value <= MOST or value != int(value):
        raise ValueError(f"{name} {text!r} must be a whole number from 0 to {MOST:,}")
    return int(value)
