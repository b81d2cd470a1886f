"""AdamW as the original computes it, and the textbook's, over one list of parameters."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from pangu.model.network import values_of


def is_decayed(name: str) -> bool:
    """Return whether weights decay: all but norms and biases do; the embedding tables are decayed, as in the
    original."""
    return "layernorm" not in name and "bias" not in name


@dataclass(frozen=True)
class AdamScalars:
    """The four numbers of one update, as the kernel wants them."""

    learning_rate: float
    epsilon: float
    decay: float


def adam_scalars(
    step: int, learning_rate: float, beta1: float, beta2: float, epsilon: float, decay: float, bias_correction: bool
) -> AdamScalars:
    """Return what to give the uncorrected kernel p -= a·(m/(√v + e) + w·p) at `step` (counted from 0).

    With bias correction (Kingma and Ba 2015, algorithm 1; Loshchilov and Hutter 2019, algorithm 2) the update
    lr·(m̂/(√v̂ + ε) + λp), m̂ = m/c₁, v̂ = v/c₂, cᵢ = 1 - βᵢ^(step+1), is the same with a = lr·√c₂/c₁, e = ε√c₂ and
    w = λ·lr/a.
    """
    if not bias_correction:
        return AdamScalars(learning_rate, epsilon, decay)
    correction1, correction2 = 1 - beta1 ** (step + 1), 1 - beta2 ** (step + 1)
    ratio = math.sqrt(correction2) / correction1
    return AdamScalars(learning_rate * ratio, epsilon * math.sqrt(correction2), decay / ratio)


class AdamW(nn.Cell):
    """In-place update of `parameters` (fp32) with their moments `adam_m.*` and `adam_v.*`.

    m = β₁m + (1-β₁)g,  v = β₂v + (1-β₂)g²,  p -= lr·(m/(√v + ε) + λp), λ only where `is_decayed`. No bias correction:
    the original has none (verified to 6e-8); `adam_scalars` turns the textbook's into this.
    """

    def __init__(self, parameters: list[Parameter], beta1: float, beta2: float) -> None:
        super().__init__(auto_prefix=False)
        self.beta1, self.beta2 = beta1, beta2
        self.map = ops.HyperMap()
        self.update_these(parameters)
        # The kernel AdamWeightDecay computes the very formula, but takes five times as long on a CPU. There it is the
        # kernel of Adam, which with powers 0 of its betas corrects no bias.
        self.on_cpu = ms.get_context("device_target") == "CPU"
        self.adam, self.adam_weight_decay = ops.Adam(), ops.AdamWeightDecay()

    def update_these(self, parameters: list[Parameter]) -> None:
        """Take these parameters, with new moments."""
        self.parameters = ParameterTuple(parameters)
        self.first = self.parameters.clone(prefix="adam_m", init="zeros")
        self.second = self.parameters.clone(prefix="adam_v", init="zeros")
        self.decayed = tuple(is_decayed(parameter.name) for parameter in parameters)

    def load_parts(self) -> None:
        """Do nothing: these are the network's own parameters, and whole."""

    def states(self) -> dict[str, np.ndarray]:
        """Return the moments by name, as `values_of` does."""
        return values_of((*self.first, *self.second))

    def load_states(self, moments: Mapping[str, np.ndarray]) -> None:
        """Take these moments."""
        for state in (*self.first, *self.second):
            state.set_data(Tensor(np.asarray(moments[state.name])))

    def update_one(
        self,
        learning_rate: Tensor,
        epsilon: Tensor,
        decay: Tensor,
        parameter: Parameter,
        first: Parameter,
        second: Parameter,
        gradient: Tensor,
        decayed: bool,
    ) -> bool:
        if self.on_cpu:
            if decayed:
                ops.assign(parameter, parameter * (1 - learning_rate * decay))
            self.adam(parameter, first, second, 0.0, 0.0, learning_rate, self.beta1, self.beta2, epsilon, gradient)
        else:
            rate = decay if decayed else Tensor(0.0, ms.float32)
            self.adam_weight_decay(
                parameter, first, second, learning_rate, self.beta1, self.beta2, epsilon, rate, gradient
            )
        return True

    def construct(
        self, gradients: tuple[Tensor, ...], learning_rate: Tensor, epsilon: Tensor, decay: Tensor
    ) -> tuple[bool, ...]:
        # A map, not a loop: MindSpore unrolls loops into calls within calls, of which it allows a thousand.
        update = ops.partial(self.update_one, learning_rate, epsilon, decay)
        return self.map(update, self.parameters, self.first, self.second, gradients, self.decayed)


# MindSpore's compiler knows the operator with this mark as the end of one gradient's sum of squares: where gradients
# are split over devices it divides by the number of copies there, and adds an AllReduce before the square root.
ONE_SUM = ops.ExpandDims().add_prim_attr("grad_scale", True)


MAP = ops.HyperMap()


def sum_of_squares(gradient: Tensor) -> Tensor:
    """Return σg², fp32 [1]. In two sums: a CPU takes the one over the last axis in all threads, one over everything in
    one."""
    return ONE_SUM(ops.reduce_sum(ops.reduce_sum(ops.square(gradient), -1)), 0)


def shared_sum_of_squares(gradient: Tensor, holders: int) -> Tensor:
    """Return a holder's part of Σg²."""
    return ONE_SUM(ops.reduce_sum(ops.reduce_sum(ops.square(gradient), -1)) * (1 / holders), 0)


def global_norm(gradients: tuple[Tensor, ...], holders: tuple[int, ...] | None = None) -> Tensor:
    """Return √Σg² over all gradients, fp32 scalar; infinite or NaN exactly when some gradient is, or the sum overflows.

    holders: how many of the devices' parameters each one stands for, where a sum over devices counts it so often.
    """
    sums = MAP(sum_of_squares, gradients) if holders is None else MAP(shared_sum_of_squares, gradients, holders)
    return ops.reshape(ops.sqrt(ops.addn(sums)), ())
