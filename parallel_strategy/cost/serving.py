"""Seconds and bytes of a network that answers: a prompt is read, then a token a step is written for every row.

A step takes each kernel's longer one of two times (the roofline of Williams et al. 2009): its bytes at the memory's
rate, its FLOPs at the rate of products. Weights are read once a step for all rows, keys and values once for each. A
launch is paid for each kernel. A core of a CPU waits for a part of what it reads, so there the two times add up in
part, and no launch is paid: our engine is one call, which reads a prompt 64 tokens at a time. With tensor parallelism
every device holds 1/tp of each matrix and of the heads, and two all-reduces a layer add up the parts.
"""

from dataclasses import dataclass
from functools import cached_property

from parallel_strategy.cost.collective import Network
from parallel_strategy.spec.cluster import ClusterSpec
from parallel_strategy.spec.model import BYTES, ModelSpec

# Bytes of a weight with its scales: int8 has one fp32 a row (nothing beside it), int4 an fp16 for 32 weights.
WEIGHT_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.0, "int4": 0.5 + 2 / 32}
# Kernels of a layer that a compiled graph launches: five products with attention's, norms, residuals and the like.
PRODUCTS, VECTORS = 5, 6
# Of our engine on a CPU, fitted to a network of 8 x 1024 on one core (docs/serving.md): multiplications that unpacking
# an int4 weight costs; how far a core reads and computes at the same time (1: not at all); what few tokens reach.
UNPACKING = {"int4": 2.66}
OVERLAP, FEW_TOKENS = 1.5, 0.62
# Of a large copy's rate, what an accelerator reaches when it reads weights that it must unpack: fitted to Llama-2's 7B
# and 70B on one A100 (gpt-fast: 155.6, 196.8, 19.1, 25.3 tokens/s), which it meets within 6 %.
NARROW_RATE = {"int8": 0.74, "int4": 0.585}
CHUNK = 64  # tokens of a prompt that our engine reads in a call
PASSES = 12  # times that a layer's hidden states are read or written between its products
LEAST_PARTS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Serving:
    """A network on `tp` devices of a machine. weights: a type of WEIGHT_BYTES."""

    model: ModelSpec
    cluster: ClusterSpec
    weights: str
    tp: int = 1

    @property
    def is_cpu(self) -> bool:
        """Return whether the device computes in fp32 only."""
        return not {"fp16", "bf16"} & set(self.cluster.device.peak_tflops)

    @property
    def dtype(self) -> str:
        """Return the type of activations, keys and values."""
        return "fp32" if self.is_cpu else "fp16"

    @cached_property
    def layer_weights(self) -> float:
        """Return the matrices of all layers that one token goes through."""
        model = self.model
        width, values = model.num_heads * model.head_width, model.num_heads * model.value_head_width
        keys = model.key_value_heads * (model.head_width + model.value_head_width)
        ups = 2 if model.gated_ffn else 1
        attention = model.hidden_size * (width + values + keys)
        return float(model.num_layers * (attention + (ups + 1) * model.hidden_size * model.ffn_hidden_size))

    @property
    def head_weights(self) -> float:
        """Return the output matrix, which every new token reads."""
        return float(self.model.vocab_size * self.model.hidden_size)

    @property
    def table_weights(self) -> float:
        """Return the tables of which a token reads a row: words (where they are not the output matrix), positions."""
        model = self.model
        rows = model.seq_length * (1 + model.query_layer) if model.position == "learned" else 0
        is_copied = not model.tied_embedding or self.weights in ("int8", "int4")
        return float(model.hidden_size * (rows + model.vocab_size * is_copied))

    @property
    def weight_bytes(self) -> float:
        """Return the bytes of weights on one device."""
        each = WEIGHT_BYTES[self.weights]
        head = max(each, 1.0)  # int4 keeps the output matrix in int8
        tables = self.table_weights * (WEIGHT_BYTES[self.dtype] if each < 2 else each)
        return (self.layer_weights * each + self.head_weights * head + tables) / self.tp

    @property
    def cache_bytes(self) -> float:
        """Return the bytes of keys and values of one token on one device."""
        model = self.model
        width = model.key_value_heads * (model.head_width + model.value_head_width)
        return model.num_layers * width * BYTES[self.dtype] / self.tp

    def gib(self, batch: int, context: int) -> float:
        """Return the memory of one device in GiB: weights, caches of full rows, the logits."""
        logits = batch * self.model.vocab_size * 4
        return (self.weight_bytes + batch * context * self.cache_bytes + logits) / 2**30

    def fits(self, batch: int, context: int) -> bool:
        """Return whether that is no more than a device can use."""
        memory = self.cluster.device.hbm
        return self.gib(batch, context) * 2**30 <= (memory.usable_gb or memory.gb) * 1e9

    def largest_batch(self, context: int) -> int:
        """Return how many rows fit; 0: not even one."""
        if not self.fits(1, context):
            return 0
        memory = self.cluster.device.hbm
        room = (memory.usable_gb or memory.gb) * 1e9 - self.weight_bytes
        return int(room // (context * self.cache_bytes + self.model.vocab_size * 4))

    @property
    def bytes_a_second(self) -> float:
        """Return what a large copy reaches."""
        memory = self.cluster.device.hbm
        return memory.gbps * 1e9 * memory.eff

    @property
    def flops_a_second(self) -> float:
        """Return what a large product reaches."""
        device = self.cluster.device
        return device.peak(self.dtype) * device.gemm.eff_max * device.clock

    def step_seconds(self, batch: int, context: int) -> float:
        """Return the time of one token for each of `batch` rows that have `context` tokens behind them."""
        return self._seconds(batch, batch, context * batch, batch)

    def prefill_seconds(self, prompt: int, batch: int = 1) -> float:
        """Return the time to read prompts up to the logits of their next tokens."""
        return self._seconds(prompt * batch, batch, prompt * batch, batch)

    def _seconds(self, tokens: int, wanted: int, cached: int, batch: int) -> float:
        """Return the time of a call. cached: tokens of all rows whose keys and values are read."""
        model, device = self.model, self.cluster.device
        each = WEIGHT_BYTES[self.weights]
        seconds = self._product(self.layer_weights / self.tp, tokens, each)
        seconds += self._product(self.head_weights / self.tp, wanted, max(each, 1.0))
        width = model.num_heads * (model.head_width + model.value_head_width) / self.tp
        seen = cached / 2 if tokens > batch else cached  # a prompt's token sees half of it on average
        attended = 2.0 * model.num_layers * width * seen * tokens / batch
        reading, computing = cached * self.cache_bytes / self.bytes_a_second, attended / self.flops_a_second
        seconds += self._together(reading, computing)
        moved = model.num_layers * PASSES * tokens * model.hidden_size * BYTES[self.dtype]
        seconds += moved / (self.bytes_a_second * device.vector.eff)
        if not self.is_cpu:
            launches = PRODUCTS * device.gemm.launch_us + VECTORS * device.vector.launch_us
            seconds += model.num_layers * launches * 1e-6
        return seconds + self._collectives(tokens)

    def _product(self, weights: float, tokens: int, each: float) -> float:
        """Return the time of all products with some weights."""
        flops = 2.0 * weights * tokens
        if self.is_cpu:
            # Four tokens at a time share what is read into registers, so few tokens reach less than many.
            flops /= 1.0 if tokens == 1 else max(FEW_TOKENS, tokens / (tokens + 5))
            flops += 2.0 * weights * UNPACKING.get(self.weights, 0.0)
            calls = -(-tokens // CHUNK)
            return self._together(calls * weights * each / self.bytes_a_second, flops / self.flops_a_second)
        rate = self.bytes_a_second * NARROW_RATE.get(self.weights, 1.0)
        return self._together(weights * each / rate, flops / self.flops_a_second)

    def _together(self, reading: float, computing: float) -> float:
        """Return the time of a kernel that does both."""
        if self.is_cpu:
            return (reading**OVERLAP + computing**OVERLAP) ** (1 / OVERLAP)
        return max(reading, computing)

    def _collectives(self, tokens: int) -> float:
        """Return the time of the all-reduces behind attention and feed-forward layers."""
        if self.tp == 1:
            return 0.0
        size = tokens * self.model.hidden_size * BYTES[self.dtype]
        return 2 * self.model.num_layers * self.network.seconds("all_reduce", size, self.tp, 1)

    @cached_property
    def network(self) -> Network:
        """Return the collectives of the machine."""
        return Network(self.cluster, self.tp)

    def bound(self, batch: int, context: int) -> str:
        """Return what decides most of a step: memory, compute, launches or collectives."""
        reading = (self.weight_bytes + batch * context * self.cache_bytes) / self.bytes_a_second
        computing = 2.0 * (self.layer_weights + self.head_weights) / self.tp * batch / self.flops_a_second
        between = self._collectives(batch)
        rest = self.step_seconds(batch, context) - max(reading, computing) - between
        parts = {"memory": reading, "compute": computing, "collectives": between, "launches": rest}
        return max(parts, key=lambda name: parts[name])


def least_parts(model: ModelSpec, cluster: ClusterSpec, weights: str, context: int) -> int | None:
    """Return the fewest devices of a server on which a row fits; None: on no number of them. A CPU is one device."""
    for tp in LEAST_PARTS:
        if (
            tp > (1 if Serving(model, cluster, weights).is_cpu else cluster.devices_per_server)
            or model.key_value_heads % tp
        ):
            continue
        if Serving(model, cluster, weights, tp).fits(1, context):
            return tp
    return None
