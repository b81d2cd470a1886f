"""Experts: many feed-forward layers in the place of one, of which a token takes a few.

Who goes where (`routing`):

    switch         a learnt router's first choice; y = p·expert(x)   (Fedus et al. 2021)
    top_k          its first k choices, their p made to sum to 1     (Shazeer et al. 2017; GShard, Lepikhin et al. 2020)
    hash           by token, from a table balanced by frequency      (Roller et al. 2021)
    random_routed  domain -> a group of experts; by token inside it  (PanGu-Σ, Ren et al. 2023)
    domain         the expert of the document's domain               (DEMix, Gururangan et al. 2021)

The gate of one choice is not made to sum to 1: it would be 1 whatever the router says, and the router would learn
nothing from the task.

In training an expert has a limited number of places for each row of the batch: ⌈choices·S·capacity_factor/E⌉. All first
choices of a row are placed before any second choice, in the order of tokens; who finds no place is dropped there, and
only the residual stream carries it on. Rows are GShard's groups, so no row depends on its neighbours in the batch, and
loss and gradient are the same sums however a batch is cut into micro-batches or over devices. Outside of training
nobody is dropped.
"""

import math

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Initializer, Normal, initializer

from pangu.config import ModelConfig
from pangu.model import cpu, initializers
from pangu.model.activation import ACTIVATIONS
from pangu.model.feed_forward import FeedForward
from pangu.model.linear import Linear

# Of the forms that no strategy splits: these are no attributes, for a strategy has to name every attribute.
CUMSUM, SCATTER, GATHER = ops.CumSum(exclusive=True), ops.TensorScatterUpdate(), ops.Gather()


class ExpertsAffine(nn.Cell):
    """Rows [G, C, in], weights [G, in, out], biases [G, 1, out] -> [G, C, out]."""

    def __init__(self) -> None:
        super().__init__()
        self.matmul, self.bias_add = ops.BatchMatMul(), ops.Add()

    def construct(self, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.bias_add(self.matmul(rows, weight), bias)


class ExpertsLinear(nn.Cell):
    """One `Linear` an expert: weight [E, in, out] and bias [E, 1, out], fp32; computes in `dtype`."""

    def __init__(self, count: int, inputs: int, outputs: int, start: Initializer | str, dtype: ms.Type) -> None:
        super().__init__()
        self.weight = Parameter(initializer(start, (count, inputs, outputs), ms.float32))
        self.bias = Parameter(initializer("zeros", (count, 1, outputs), ms.float32))
        self.dtype = dtype
        self.affine = (cpu.ExpertsAffine if cpu.is_used() else ExpertsAffine)()
        self.cast = ops.Cast()

    def construct(self, rows: Tensor, which: Tensor | None = None) -> Tensor:
        """Rows [E, C, in], an expert's each; with `which`, int32 [G], rows [G, C, in] of those experts."""
        weight, bias = self.cast(self.weight, self.dtype), self.cast(self.bias, self.dtype)
        if which is not None:
            weight, bias = GATHER(weight, which, 0), GATHER(bias, which, 0)
        return self.affine(rows, weight, bias)


class Experts(nn.Cell):
    """The experts of a layer, each a `FeedForward` of its own: rows as in `ExpertsLinear`, [.., d] -> [.., d]."""

    def __init__(self, mapping: nn.Cell, projection: nn.Cell, activation: str) -> None:
        super().__init__()
        self.mapping, self.projection = mapping, projection
        self.activation = ACTIVATIONS[activation]()

    def construct(self, rows: Tensor, which: Tensor | None = None) -> Tensor:
        return self.projection(self.activation(self.mapping(rows, which)), which)


class Router(nn.Cell):
    """x [B, S, d] -> what `choose` returns of fp32 logits x·W, W [d, E]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts = config.experts
        assert experts is not None
        self.weight = Parameter(initializer(Normal(0.02), (config.hidden_size, experts.count), ms.float32))
        self.count, self.choices, self.unit_gate = experts.count, experts.choices, experts.unit_gate
        self.balance_loss, self.z_loss = experts.balance_loss, experts.z_loss
        self.cast, self.reshape, self.matmul = ops.Cast(), ops.Reshape(), ops.MatMul()
        self.largest, self.double, self.hide = ops.ArgMaxWithValue(axis=-1), ops.Mul(), ops.Sub()
        self.add_gates, self.share_gate = ops.Add(), ops.Div()
        self.one_hot, self.pick, self.gate = ops.OneHot(), ops.Mul(), ops.ReduceSum()
        self.maximum, self.shift, self.exp = ops.ReduceMax(keep_dims=True), ops.Sub(), ops.Exp()
        self.sum, self.divide, self.log = ops.ReduceSum(keep_dims=True), ops.Div(), ops.Log()
        self.log_sum, self.square, self.z = ops.Add(), ops.Square(), ops.ReduceMean()
        self.share, self.mean, self.agree, self.balance = ops.ReduceMean(), ops.ReduceMean(), ops.Mul(), ops.ReduceSum()
        self.scale_balance, self.weigh_balance, self.weigh_z, self.add_losses = (
            ops.Mul(),
            ops.Mul(),
            ops.Mul(),
            ops.Add(),
        )

    def probabilities(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return for x [B, S, d] softmax [B, S, E] and log Σ exp [B, S, 1] of the logits, fp32."""
        rows = self.reshape(self.cast(x, ms.float32), (-1, x.shape[-1]))
        logits = self.reshape(self.matmul(rows, self.weight), (*x.shape[:2], self.count))
        largest = self.maximum(ops.stop_gradient(logits), -1)
        exponents = self.exp(self.shift(logits, largest))
        total = self.sum(exponents, -1)
        return self.divide(exponents, total), self.log_sum(self.log(total), largest)

    def construct(self, x: Tensor, choice: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor, Tensor]:
        """Return choices as ones in zeros, k of [B, S, E], their gates, k of [B, S], the penalty [B], and the
        first three of `ROUTING_FIGURES` [3, B].

        choice: what a fixed router takes; not used.
        """
        p, log_sum = self.probabilities(x)
        left = ops.stop_gradient(p)
        chosen: tuple[Tensor, ...] = ()
        gates: tuple[Tensor, ...] = ()
        one, zero = Tensor(1.0, ms.float32), Tensor(0.0, ms.float32)
        for _ in range(self.choices):
            index, _ = self.largest(left)
            ones = self.one_hot(index, self.count, one, zero)
            gate = self.gate(self.pick(p, ones), -1)
            left = self.hide(left, self.double(ones, 2.0))
            chosen, gates = (*chosen, ones), (*gates, gate)
        if self.choices > 1:
            total = gates[0]
            shares: tuple[Tensor, ...] = ()
            for i in range(1, self.choices):
                total = self.add_gates(total, gates[i])
            for gate in gates:
                shares = (*shares, self.share_gate(gate, total))
            gates = shares
        elif self.unit_gate:
            gates = (self.share_gate(gates[0], ops.stop_gradient(gates[0])),)
        agreement = self.balance(self.agree(self.share(chosen[0], 1), self.mean(p, 1)), -1)
        balance = self.scale_balance(agreement, float(self.count))
        z = self.z(self.square(log_sum), (1, 2))
        entropy = ops.stop_gradient(-(p * ops.log(ops.maximum(p, Tensor(1e-30, ms.float32)))).sum(-1).mean(-1))
        told = ops.stack((ops.stop_gradient(balance), ops.stop_gradient(z), entropy))
        penalty = self.add_losses(self.weigh_balance(balance, self.balance_loss), self.weigh_z(z, self.z_loss))
        return chosen, gates, penalty, told


class FixedRouter(nn.Cell):
    """Each token goes where `choice` says, int32 [B, S]; returns what `Router` does."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.experts is not None
        self.count = config.experts.count
        self.one_hot = ops.OneHot()

    def construct(self, x: Tensor, choice: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor, Tensor]:
        one, zero = Tensor(1.0, ms.float32), Tensor(0.0, ms.float32)
        ones = self.one_hot(choice, self.count, one, zero)
        batch = x.shape[0]
        nothing = ops.zeros((batch,), ms.float32)
        return (ones,), (ops.ones(choice.shape, ms.float32),), nothing, ops.zeros((3, batch), ms.float32)


class Take(nn.Cell):
    """Rows [N, d], index int32 [M] -> rows[index]; index N is a row of zeros.

    inverse: int32 [K, N], where in the result a row is, M where it is not. The gradient is a lookup by it: no sums
    whose order could change.
    """

    def padded(self, rows: Tensor) -> Tensor:
        return ops.concat((rows, ops.zeros((1, rows.shape[1]), rows.dtype)), 0)

    def construct(self, rows: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        return GATHER(self.padded(rows), index, 0)

    def bprop(self, rows: Tensor, index: Tensor, inverse: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        padded = self.padded(dout)
        gradient = GATHER(padded, inverse[0], 0)
        for i in range(1, inverse.shape[0]):
            gradient = gradient + GATHER(padded, inverse[i], 0)
        return gradient, ops.zeros_like(index), ops.zeros_like(inverse)


class MaskedDispatch(nn.Cell):
    """x [B, S, d] to limited places of experts and back, by products with masks (GShard, section 3.2) -> y [B, S, d].

    Every operator of it can be split over devices: rows over data parallelism, experts over expert parallelism. The
    tokens then change between the two splits in the transposes, by all-to-all.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.cumsum, self.total, self.add_total = ops.CumSum(exclusive=True), ops.ReduceSum(keep_dims=True), ops.Add()
        self.add_before, self.mine, self.place = ops.Add(), ops.Mul(), ops.ReduceSum()
        self.one_hot, self.outer, self.gated = ops.OneHot(), ops.Mul(), ops.Mul()
        self.add_mask, self.add_gated = ops.Add(), ops.Add()
        self.dispatch, self.combine = ops.BatchMatMul(transpose_a=True), ops.BatchMatMul()
        self.to_experts, self.from_experts = ops.Transpose(), ops.Transpose()
        self.cast, self.reshape = ops.Cast(), ops.Reshape()

    def masks(self, chosen: tuple[Tensor, ...], gates: tuple[Tensor, ...], capacity: int) -> tuple[Tensor, Tensor]:
        """Return which token has which place, fp32 [B, S, E·C], and the same times the gates."""
        batch, length, count = chosen[0].shape
        one, zero = Tensor(1.0, ms.float32), Tensor(0.0, ms.float32)
        masks: tuple[Tensor, ...] = ()
        weighted: tuple[Tensor, ...] = ()
        before = None
        for ones, gate in zip(chosen, gates):
            queue = self.cumsum(ones, 1)
            if before is not None:
                queue = self.add_before(queue, before)
            total = self.total(ones, 1)
            before = total if before is None else self.add_total(before, total)
            place = self.cast(self.place(self.mine(queue, ones), -1), ms.int32)
            places = self.one_hot(place, capacity, one, zero)  # nothing where the place is beyond
            mask = self.outer(
                self.reshape(ones, (batch, length, count, 1)), self.reshape(places, (batch, length, 1, capacity))
            )
            masks = (*masks, mask)
            weighted = (*weighted, self.gated(mask, self.reshape(gate, (batch, length, 1, 1))))
        mask, gated = masks[0], weighted[0]
        for i in range(1, len(masks)):
            mask, gated = self.add_mask(mask, masks[i]), self.add_gated(gated, weighted[i])
        flat = (batch, length, count * capacity)
        return self.reshape(mask, flat), self.reshape(gated, flat)

    def construct(
        self, x: Tensor, chosen: tuple[Tensor, ...], gates: tuple[Tensor, ...], capacity: int, experts: nn.Cell
    ) -> Tensor:
        batch, _, hidden = x.shape
        mask, gated = self.masks(chosen, gates, capacity)
        sent = self.dispatch(self.cast(ops.stop_gradient(mask), x.dtype), x)
        by_expert = self.to_experts(self.reshape(sent, (batch, self.count, capacity, hidden)), (1, 0, 2, 3))
        done = experts(self.reshape(by_expert, (self.count, batch * capacity, hidden)))
        by_row = self.from_experts(self.reshape(done, (self.count, batch, capacity, hidden)), (1, 0, 2, 3))
        return self.combine(self.cast(gated, x.dtype), self.reshape(by_row, (batch, self.count * capacity, hidden)))


class AttachedPenalty(nn.Cell):
    """hidden [..], penalty fp32 [B], weights fp32 [B] -> hidden; backward, the penalty's gradient is the weights.

    So it is learnt from as if Σ weights·penalty were added to the loss, and only hidden states go from one pipeline
    stage to the next (Megatron-LM's MoEAuxLossAutoScaler).
    """

    def construct(self, hidden: Tensor, penalty: Tensor, weights: Tensor) -> Tensor:
        return hidden

    def bprop(self, hidden: Tensor, penalty: Tensor, weights: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return dout, weights, ops.zeros_like(weights)


def blocks_without_limit(tokens: int, count: int, choices: int) -> tuple[int, int]:
    """Return how many blocks of how many places hold every choice, however uneven: each block is one expert's.

    With ⌈n/b⌉ blocks for an expert that n choose, they are at most (kN + (b - 1)·min(E, kN))/b.
    """
    entries = tokens * choices
    places = -(-entries // count)
    return (entries + (places - 1) * min(count, entries)) // places, places


class ExpertFeedForward(nn.Cell):
    """x [B, S, d], choice int32 [B, S] (for a fixed routing) -> y [B, S, d], penalty fp32 [B], what is told
    fp32 [B, 4 + E]."""

    def __init__(self, config: ModelConfig, router: nn.Cell, experts: nn.Cell, shared: nn.Cell | None = None) -> None:
        super().__init__()
        asked = config.experts
        assert asked is not None
        self.router, self.experts = router, experts
        self.has_shared = shared is not None
        if shared is not None:
            self.shared, self.add_shared = shared, ops.Add()
        self.count, self.choices, self.capacity_factor = asked.count, asked.choices, asked.capacity_factor
        self.has_gate = asked.has_router
        self.dispatch, self.combine = Take(), Take()
        # Lookups are faster, and a CPU is never split.
        self.by_masks = not cpu.is_used()
        if self.by_masks:
            self.masked = MaskedDispatch(asked.count)
        self.cast, self.reshape = ops.Cast(), ops.Reshape()

    def places(self, chosen: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return for choices, k of [G, N, E], the place of each in its expert's queue in its group, k of [G, N], fp32;
        and how many chose each expert [G, 1, E]."""
        before = ops.zeros((chosen[0].shape[0], 1, self.count), ms.float32)
        found: tuple[Tensor, ...] = ()
        for ones in chosen:
            found = (*found, ((CUMSUM(ones, 1) + before) * ones).sum(-1))
            before = before + ones.sum(1, keepdims=True)
        return found, before

    def limited(self, chosen: tuple[Tensor, ...], capacity: int) -> tuple[Tensor, Tensor]:
        """Return the slot of each choice [k, B·S], E·B·C where it is dropped, and the share of dropped ones [B]."""
        batch = chosen[0].shape[0]
        places, _ = self.places(chosen)
        rows = Tensor(np.arange(batch, dtype=np.int32).reshape((batch, 1)))
        slots: tuple[Tensor, ...] = ()
        dropped = 0.0
        for ones, place in zip(chosen, places):
            kept = place < capacity
            expert = self.number(ones)
            slot = (expert * batch + rows) * capacity + self.cast(place, ms.int32)
            slot = ops.select(kept, slot, ops.full_like(slot, self.count * batch * capacity))
            slots = (*slots, self.reshape(slot, (-1,)))
            dropped = dropped + (1 - self.cast(kept, ms.float32)).mean(1)
        return ops.stack(slots), dropped / self.choices

    def number(self, ones: Tensor) -> Tensor:
        """Return for ones in zeros [..., E] the place of the one, int32 [...]."""
        numbers = Tensor(np.arange(self.count, dtype=np.float32))
        return self.cast((ones * numbers).sum(-1), ms.int32)

    def unlimited(self, chosen: tuple[Tensor, ...], blocks: int, size: int) -> tuple[Tensor, Tensor]:
        """Return the slot of each choice [k, B·S], and the expert of each block, int32 [blocks]."""
        flat: tuple[Tensor, ...] = ()
        for ones in chosen:
            flat = (*flat, self.reshape(ones, (1, -1, self.count)))
        places, counts = self.places(flat)
        needed = ops.floor((counts.reshape((self.count,)) + (size - 1)) / size)
        ends = CUMSUM(needed, 0) + needed
        slots: tuple[Tensor, ...] = ()
        for ones, place in zip(flat, places):
            begin = (ones[0] * (ends - needed)).sum(-1)
            slots = (*slots, self.cast(begin, ms.int32) * size + self.cast(place[0], ms.int32))
        numbers = Tensor(np.arange(blocks, dtype=np.float32).reshape((-1, 1)))
        which = self.cast(self.cast(ends <= numbers, ms.float32).sum(-1), ms.int32)
        return ops.stack(slots), ops.minimum(which, Tensor(self.count - 1, ms.int32))

    def through(self, x: Tensor, slots: Tensor, groups: int, size: int, which: Tensor | None) -> Tensor:
        """Send rows [N, d] to their slots, through the experts and back: [k, N, d], zeros for who is dropped."""
        tokens, hidden = x.shape
        entries, total = self.choices * tokens, groups * size
        flat = self.reshape(slots, (-1, 1))
        held = SCATTER(
            ops.full((total + 1,), entries, dtype=ms.int32), flat, Tensor(np.arange(entries, dtype=np.int32))
        )[:total]
        token = ops.select(held < entries, held % tokens, ops.full_like(held, tokens))
        rows = self.reshape(self.dispatch(x, token, slots), (groups, size, hidden))
        done = self.reshape(self.experts(rows, which), (total, hidden))
        back = self.combine(done, self.reshape(slots, (-1,)), self.reshape(held, (1, -1)))
        return self.reshape(back, (self.choices, tokens, hidden))

    def weighted(self, parts: Tensor, gates: tuple[Tensor, ...]) -> Tensor:
        """Return the sum [N, d] of parts [k, N, d] times their gates."""
        if not self.has_gate:
            return self.reshape(parts, parts.shape[1:])
        y = parts[0] * self.cast(self.reshape(gates[0], (-1, 1)), parts.dtype)
        for i in range(1, self.choices):
            y = y + parts[i] * self.cast(self.reshape(gates[i], (-1, 1)), parts.dtype)
        return y

    def construct(self, x: Tensor, choice: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, hidden = x.shape
        chosen, gates, penalty, told = self.router(x, choice)
        rows = self.reshape(x, (-1, hidden))
        if self.training and self.capacity_factor is not None:
            capacity = min(length, math.ceil(self.choices * length * self.capacity_factor / self.count))
            if self.by_masks:
                y = self.masked(x, chosen, gates, capacity, self.experts)
                return self.told(x, y, chosen, penalty, told, self.limited(chosen, capacity)[1])
            slots, dropped = self.limited(chosen, capacity)
            parts = self.through(rows, slots, self.count, batch * capacity, None)
        else:
            blocks, size = blocks_without_limit(batch * length, self.count, self.choices)
            slots, which = self.unlimited(chosen, blocks, size)
            dropped = ops.zeros((batch,), ms.float32)
            parts = self.through(rows, slots, blocks, size, which)
        y = self.reshape(self.weighted(parts, gates), x.shape)
        return self.told(x, y, chosen, penalty, told, dropped)

    def told(
        self, x: Tensor, y: Tensor, chosen: tuple[Tensor, ...], penalty: Tensor, told: Tensor, dropped: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the result with the shared experts', the penalty, and all that is told."""
        if self.has_shared:
            y = self.add_shared(y, self.shared(x))
        loads = chosen[0].mean(1)
        for i in range(1, self.choices):
            loads = loads + chosen[i].mean(1)
        told = ops.concat((told, dropped.reshape((1, -1))), 0).T
        return y, penalty, ops.concat((told, loads / self.choices), 1)


def new_expert_feed_forward(config: ModelConfig, dtype: ms.Type) -> ExpertFeedForward:
    """Return one to be trained."""
    asked = config.experts
    assert asked is not None
    hidden, ffn = config.hidden_size, config.ffn_hidden_size
    up, down = initializers.ffn_up(config), initializers.into_residual(config)
    experts = Experts(
        ExpertsLinear(asked.count, hidden, ffn, up, dtype),
        ExpertsLinear(asked.count, ffn, hidden, down, dtype),
        config.activation,
    )
    shared = None
    if asked.shared:
        mapping = Linear(hidden, asked.shared * ffn, transposed=False, start=up, dtype=dtype)
        projection = Linear(asked.shared * ffn, hidden, transposed=False, start=down, dtype=dtype)
        shared = FeedForward(mapping, projection, config.activation)
    return ExpertFeedForward(config, (Router if asked.has_router else FixedRouter)(config), experts, shared)
