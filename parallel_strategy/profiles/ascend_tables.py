"""Ascend's tables: `kernel_details.csv` and msprof's `op_summary_*.csv` of several releases, `step_trace_time.csv`.

Releases differ in the names and the number of columns, not in what they mean; columns are found by their names.
"""

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pangu.foundation.errors import UserError
from parallel_strategy.measure.timed_kernels import Collected, Moved
from parallel_strategy.profiles.seen import (
    LARGEST,
    WIDTHS,
    Seen,
    SeenAttention,
    SeenProduct,
    SeenStep,
)

# our name -> theirs, by release
COLUMNS = {
    "name": ("name", "op name"),
    "type": ("type", "op type", "optype"),
    "core": ("accelerator core", "task type"),
    "duration": ("duration(us)", "task duration(us)"),
    "inputs": ("input shapes",),
    "input_types": ("input data types",),
    "input_formats": ("input formats",),
    "outputs": ("output shapes",),
    "output_types": ("output data types",),
    "output_formats": ("output formats",),
}
NEEDED = ("type", "duration", "inputs", "outputs")
DTYPES = {
    "FLOAT16": "fp16", "DT_FLOAT16": "fp16", "DT_BF16": "bf16", "BFLOAT16": "bf16", "FLOAT": "fp32", "DT_FLOAT": "fp32",
    "FLOAT32": "fp32",
}  # fmt: skip
BYTES = {"INT8": 1, "UINT8": 1, "BOOL": 1, "INT64": 8, "DT_INT64": 8, "DOUBLE": 8, "INT32": 4, "DT_INT32": 4}
PRODUCTS = ("MatMul", "BatchMatMul")
COLLECTIVES = {
    "allreduce": "all_reduce", "allgather": "all_gather", "reducescatter": "reduce_scatter", "alltoall": "all_to_all",
    "broadcast": "broadcast",
}  # fmt: skip
SIZE = re.compile(r"[0-9]{1,12}")
VECTOR_CORES = ("AI_VECTOR_CORE", "AI_VECTOR", "MIX_AIV")


@dataclass(frozen=True)
class ProfiledTensor:
    """One input or output: its sizes, whatever order its format has them in."""

    sizes: tuple[int, ...]
    dtype: str
    format: str

    @property
    def elements(self) -> int:
        return math.prod(self.sizes)

    @property
    def bytes(self) -> int:
        plain = self.dtype.removeprefix("DT_")
        return self.elements * BYTES.get(plain, WIDTHS.get(DTYPES.get(self.dtype, ""), 2))

    @property
    def matrix(self) -> tuple[int, int, int] | None:
        """Return (matrices, rows, columns); None for fewer than two sizes."""
        sizes = self.sizes
        if "FRACTAL_NZ" in self.format and len(sizes) >= 4:  # blocks: columns / 16, rows / 16, 16, 16
            columns, rows, high, wide = sizes[-4:]
            sizes = (*sizes[:-4], rows * high, columns * wide)
        if len(sizes) < 2:
            return None
        return math.prod(sizes[:-2]), sizes[-2], sizes[-1]


def read_kernels(text: str) -> Seen:
    """Return the kernels of a table. Raises UserError for one that is no such table, in words without the file."""
    seen, skipped, odd = Seen(), 0, 0
    for row in _rows(text, NEEDED):
        try:
            seconds = float(row["duration"]) * 1e-6
        except ValueError:
            skipped += 1
            continue
        if not math.isfinite(seconds) or seconds <= 0:
            skipped += 1
        elif not _take(seen, row, seconds):
            seen.others += seconds
            odd += row["type"].startswith(PRODUCTS)
    if not len(seen) and not seen.others:
        raise UserError("has no kernel that took time")
    if odd:
        seen.notes.append(f"{odd} products whose shapes contradict each other are left out")
    if skipped:
        seen.notes.append(f"{skipped} rows without a duration")
    return seen


def _take(seen: Seen, row: dict[str, str], seconds: float) -> bool:
    """Add a kernel; return whether it has a known shape."""
    kind = row["type"]
    plain = kind.lower().replace("_", "").removeprefix("hcom")
    for word, op in COLLECTIVES.items():
        if plain.startswith(word):
            seen.collectives.append(Collected(op, 0, 0.0, seconds))
            return True
    inputs, outputs = _tensors(row, "input"), _tensors(row, "output")
    if not inputs or not outputs:
        return False
    if kind.startswith(PRODUCTS):
        product = _product(kind, inputs, outputs[0], seconds)
        if product is not None:
            seen.products.append(product)
        return product is not None
    if kind.startswith("FlashAttentionScore"):
        found = _attention(kind, inputs, outputs, seconds)
        if found is not None:
            seen.attention.append(found)
        return found is not None
    if row.get("core", "") in VECTOR_CORES:
        seen.vectors.append(Moved(kind, float(sum(one.bytes for one in (*inputs, *outputs))), seconds))
        return True
    return False


def _product(kind: str, inputs: Sequence[ProfiledTensor], output: ProfiledTensor, seconds: float) -> SeenProduct | None:
    """Return a product, whichever of its inputs are transposed; None where the shapes contradict each other."""
    shape = output.matrix
    if shape is None or len(inputs) < 2:
        return None
    batch, m, n = shape
    k, rest = divmod(inputs[0].elements, batch * m)
    dtype = DTYPES.get(inputs[0].dtype)
    wanted = (k * n, batch * k * n)
    if rest or not k or inputs[1].elements not in wanted or dtype is None:
        return None
    return SeenProduct(kind, dtype, m, n, k, batch, seconds)


def _attention(
    kind: str, inputs: Sequence[ProfiledTensor], outputs: Sequence[ProfiledTensor], seconds: float
) -> SeenAttention | None:
    """Return an attention kernel: batch, heads and sequence stand in the statistics that softmax leaves, [B, N, S, 8].

    A mask of S x S is computed over in full; a small one (2,048 x 2,048) stands for the causal triangle.
    """
    backward = kind.startswith("FlashAttentionScoreGrad")
    statistics = next((one.sizes for one in (inputs if backward else outputs) if _is_statistics(one)), None)
    if statistics is None:
        return None
    batch, heads, sequence, _ = statistics
    width, rest = divmod(inputs[0].elements, batch * heads * sequence)
    dtype = DTYPES.get(inputs[0].dtype)
    keys = inputs[1].elements // (batch * heads * width) if width else 0
    if rest or not width or not keys or dtype is None:
        return None
    whole = any(one.sizes[-2:] == (sequence, keys) and sequence != 2048 for one in inputs if len(one.sizes) >= 2)
    flops = 4.0 * batch * heads * sequence * keys * width * (1.0 if whole else 0.5)
    return SeenAttention(
        kind, dtype, batch, heads, sequence, width, backward, flops * (2.5 if backward else 1.0), seconds
    )


def _is_statistics(tensor: ProfiledTensor) -> bool:
    return len(tensor.sizes) == 4 and tensor.sizes[-1] == 8


def read_steps(text: str) -> Seen:
    """Return the shares of each rank's step. Raises UserError for a table without them."""
    seen = Seen()
    wanted = {
        "computing": ("computing",), "exposed": ("communication(not overlapped)",), "free": ("free",),
        "kind": ("type",), "rank": ("index", "device_id", "deviceid"),
    }  # fmt: skip
    for row in _rows(text, ("computing", "exposed", "free"), wanted):
        if row.get("kind", "rank") != "stage":
            values = [_number(row[name]) for name in ("computing", "exposed", "free")]
            if None not in values:
                computing, exposed, free = (value * 1e-6 for value in values if value is not None)
                seen.steps.append(SeenStep(row.get("rank", ""), computing, exposed, free))
    if not seen.steps:
        raise UserError("has no step of a rank")
    return seen


def _rows(text: str, needed: Sequence[str], columns: dict[str, tuple[str, ...]] = COLUMNS) -> Iterator[dict[str, str]]:
    """Yield {our name: cell} of every row. Raises UserError where a column is missing."""
    reader = csv.reader(io.StringIO(text))
    try:
        head = [cell.strip().strip("\ufeff").lower() for cell in next(reader)]
    except (StopIteration, csv.Error):
        raise UserError("has no head line") from None
    places = {}
    for ours, theirs in columns.items():
        place = next((head.index(name) for name in theirs if name in head), None)
        if place is not None:
            places[ours] = place
    missing = [columns[name][0] for name in needed if name not in places]
    if missing:
        raise UserError(f"has no column {missing[0]!r}: no table of kernels, or of a release that is not known")
    try:
        for cells in reader:
            if len(cells) > max(places.values()):
                yield {name: cells[place].strip() for name, place in places.items()}
    except csv.Error as error:
        raise UserError(f"line {reader.line_num}: {error}") from None


def _tensors(row: dict[str, str], side: str) -> list[ProfiledTensor]:
    """Return the tensors of one side; those without sizes are left out."""
    shapes = row[f"{side}s"].strip('"').split(";")
    dtypes = row.get(f"{side}_types", "").split(";")
    formats = row.get(f"{side}_formats", "").split(";")
    found = []
    for index, shape in enumerate(shapes):
        words = [word.strip() for word in shape.strip().strip('"').split(",") if word.strip()]
        sizes = tuple(int(word) for word in words if SIZE.fullmatch(word))
        if sizes and len(sizes) == len(words) and 0 < math.prod(sizes) < LARGEST:
            dtype = dtypes[index].strip() if index < len(dtypes) else ""
            found.append(ProfiledTensor(sizes, dtype, formats[index].strip() if index < len(formats) else ""))
    return found


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
