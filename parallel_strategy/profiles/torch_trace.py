"""Traces of PyTorch's profiler: Kineto's for GPUs, and torch_npu's `trace_view.json`.

A kernel is led back to the operator that launched it: by its correlation to the launch, and by the launch's time and
thread to the operator around it, which knows its shapes. Kernels of one operator are one.
"""

import bisect
import math
import re
from collections import defaultdict
from typing import Any

from pangu.foundation.errors import UserError
from parallel_strategy.measure.timed_kernels import Collected, Moved
from parallel_strategy.profiles.ascend_tables import COLLECTIVES
from parallel_strategy.profiles.seen import (
    LARGEST,
    WIDTHS,
    Seen,
    SeenAttention,
    SeenProduct,
)

DTYPES = {
    "float": "fp32", "c10::Half": "fp16", "c10::BFloat16": "bf16", "Float": "fp32", "Half": "fp16", "BFloat16": "bf16",
}  # fmt: skip
PRODUCTS = {"aten::mm": 0, "aten::addmm": 1, "aten::bmm": 0, "aten::baddbmm": 1}  # where the first factor stands
VECTORS = ("aten::add", "aten::add_", "aten::mul", "aten::mul_", "aten::copy_", "aten::div", "aten::sub")
ATTENTION = ("flash_attention", "efficient_attention", "npu_fusion_attention", "cudnn_attention")
TF32 = re.compile(r"s1688|tf32", re.IGNORECASE)

Event = dict[str, Any]


def read_trace(document: Any) -> Seen:
    """Return the kernels of a trace. Raises UserError for a document that is none."""
    events = document.get("traceEvents") if isinstance(document, dict) else document
    if not isinstance(events, list):
        raise UserError("has no list of trace events")
    events = [event for event in events if isinstance(event, dict) and event.get("ph") == "X"]
    kernels = [event for event in events if str(event.get("cat", "")).lower() == "kernel"]
    devices = document.get("deviceProperties") if isinstance(document, dict) else None
    first = devices[0] if isinstance(devices, list) and devices else None
    seen = Seen(device=str(first.get("name", "")) if isinstance(first, dict) else "")
    if not kernels:
        seconds = sum(_seconds(event) for event in events if "Task Type" in _arguments(event))
        if not seconds:
            raise UserError("has no kernels")
        seen.others = seconds  # torch_npu's trace has no shapes: kernel_details.csv beside it has them
        seen.notes.append("its kernels have no shapes; kernel_details.csv has them")
        return seen
    launches = {
        _key(_arguments(event).get("correlation")): event
        for event in events
        if str(event.get("cat", "")).startswith(("cuda_runtime", "cuda_driver"))
    }
    around = _Operators(events)
    grouped: dict[int, list[Event]] = defaultdict(list)
    operators: dict[int, Event] = {}
    for kernel in kernels:
        said = _arguments(kernel)
        if _is_collective(kernel):
            _collective(seen, kernel)
            continue
        operator = around.of(launches.get(_key(said.get("correlation"))))
        if operator is None:
            seen.others += _seconds(kernel)
        else:
            grouped[id(operator)].append(kernel)
            operators[id(operator)] = operator
    for key, members in grouped.items():
        seconds = sum(map(_seconds, members))
        if not _operator(seen, operators[key], members, seconds):
            seen.others += seconds
    return seen


class _Operators:
    """Operators with shapes by thread, to be found by time."""

    def __init__(self, events: list[Event]) -> None:
        by_thread: dict[Any, list[Event]] = defaultdict(list)
        for event in events:
            name = str(event.get("name"))
            known = name in PRODUCTS or name in VECTORS or any(word in name for word in ATTENTION)
            if event.get("cat") == "cpu_op" and known and _arguments(event).get("Input Dims"):
                by_thread[_key(event.get("tid"))].append(event)
        self.events = {tid: sorted(found, key=_start) for tid, found in by_thread.items()}
        self.starts = {tid: [_start(event) for event in found] for tid, found in self.events.items()}

    def of(self, launch: Event | None) -> Event | None:
        """Return the innermost operator around a launch."""
        tid = _key(launch.get("tid")) if launch else None
        if launch is None or tid not in self.events:
            return None
        moment = _start(launch)
        place = bisect.bisect_right(self.starts[tid], moment) - 1
        for index in range(place, max(-1, place - 4), -1):
            event = self.events[tid][index]
            if moment <= _start(event) + _seconds(event) * 1e6:
                return event
        return None


def _operator(seen: Seen, operator: Event, kernels: list[Event], seconds: float) -> bool:
    """Add the kernels of an operator; return whether its shapes are understood."""
    name, said = str(operator["name"]), _arguments(operator)
    shapes = [shape for shape in _list(said.get("Input Dims")) if _is_shape(shape)]
    dtype = next((DTYPES[one] for one in map(str, _list(said.get("Input type"))) if one in DTYPES), None)
    if dtype is None or not seconds:
        return False
    if name in PRODUCTS:
        first = PRODUCTS[name]
        a, b = [*shapes[first : first + 2], [], []][:2]
        if len(a) < 2 or len(b) < 2 or a[-1] != b[-2] or 0 in (*a, *b):
            return False
        is_tf32 = dtype == "fp32" and any(TF32.search(str(kernel.get("name"))) for kernel in kernels)
        batch = math.prod(a[:-2])
        seen.products.append(SeenProduct(name, "tf32" if is_tf32 else dtype, a[-2], b[-1], a[-1], batch, seconds))
        return True
    if any(word in name for word in ATTENTION):
        query = shapes[0] if shapes else []
        if len(query) != 4 or 0 in query:
            return False
        batch, heads, sequence, width = query  # scaled_dot_product's order
        backward = "backward" in name
        flops = 2.0 * batch * heads * sequence * sequence * width * (2.5 if backward else 1.0)  # causal: half of 4
        seen.attention.append(SeenAttention(name, dtype, batch, heads, sequence, width, backward, flops, seconds))
        return True
    tensors = [shape for shape in shapes if shape]
    if not tensors:
        return False
    largest = max(math.prod(shape) for shape in tensors)
    moved = sum(math.prod(shape) for shape in tensors) + (0 if name.endswith("copy_") else largest)
    seen.vectors.append(Moved(name, float(moved * WIDTHS[dtype]), seconds))
    return True


def _is_collective(kernel: Event) -> bool:
    return "nccl" in str(kernel.get("name", "")).lower() or "Collective name" in _arguments(kernel)


def _collective(seen: Seen, kernel: Event) -> None:
    said = _arguments(kernel)
    plain = str(said.get("Collective name") or kernel.get("name")).lower().replace("_", "")
    op = next((ours for word, ours in COLLECTIVES.items() if word in plain), None)
    if op is None:
        seen.others += _seconds(kernel)
        return
    sides = [said.get(side) for side in ("In msg nelems", "Out msg nelems")]
    elements = max((side for side in sides if isinstance(side, int) and 0 < side < LARGEST), default=0)
    width = WIDTHS.get(DTYPES.get(str(said.get("dtype")), "fp32"), 4)
    members = said.get("Group size")
    members = members if isinstance(members, int) and members > 0 else 0
    seen.collectives.append(Collected(op, members, float(elements * width), _seconds(kernel)))


def _key(value: Any) -> str:
    """Return what two events are matched by, whatever a damaged trace has there."""
    return str(value)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_shape(value: Any) -> bool:
    is_list = isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)
    return is_list and math.prod(value) < LARGEST


def _arguments(event: Event) -> dict[str, Any]:
    said = event.get("args")
    return said if isinstance(said, dict) else {}


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return number if math.isfinite(number) else 0.0


def _start(event: Event) -> float:
    return _number(event.get("ts"))


def _seconds(event: Event) -> float:
    return max(0.0, _number(event.get("dur"))) * 1e-6
