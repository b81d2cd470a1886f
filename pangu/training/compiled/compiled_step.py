"""One update of the weights without a graph, with the arguments and results of `training.step.TrainStep`.

Weights and moments are MindSpore's parameters, changed where they lie: whoever reads or saves them notices nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from pangu.config import TrainConfig
from pangu.generation.compiled.threads import usable_cores
from pangu.model import PanguAlpha
from pangu.model.network import values_of
from pangu.training.compiled.compile_apart import compile_apart
from pangu.training.compiled.forward_backward import ForwardBackward, LowRank, Rows, Sites
from pangu.training.compiled.update_kernels import adamw, sum_of_squares
from pangu.training.optimizer import AdamW, is_decayed

_f32 = np.float32
NUMBERS = 1 << 18  # of a task that updates weights


def sites_of(network: PanguAlpha) -> Sites:
    """Return the numbers of the network's dropouts."""
    backbone = network.backbone
    layers = [*backbone.blocks, *([backbone.top_query_layer] if backbone.query_layer else [])]
    return Sites(
        backbone.embedding_dropout.site,
        tuple(
            (one.attention.probability_dropout.site, one.attention_dropout.site, one.output_dropout.site)
            for one in layers
        ),
    )


@dataclass(frozen=True)
class StepRules:
    """What a step is told once. largest_norm: of a gradient whose update is made, exclusive; None: any number."""

    accumulate: int
    clip_norm: float
    largest_norm: float | None = None
    recompute: bool = False

    @classmethod
    def of(cls, config: TrainConfig) -> "StepRules":
        return cls(config.accumulate, config.optimizer.clip_norm, config.skip_above_norm, config.recompute)


class CompiledStep:
    """Prepared rows int32 [N, ...] and the numbers of `TrainStep` -> (loss, global norm, whether it was made).

    What the network does not train is read and has no gradient. low_rank: see `ForwardBackward`.
    """

    def __init__(
        self,
        network: PanguAlpha,
        objective: nn.Cell,
        optimizer: AdamW,
        rules: StepRules,
        low_rank: Mapping[str, LowRank] | None = None,
    ) -> None:
        self.parameters, self.objective, self.optimizer, self.rules = (
            [*network.get_parameters()], objective, optimizer, rules,
        )  # fmt: skip
        compile_apart()
        self.trained = [one.name for one in network.trainable_params()]
        self.weights = values_of(self.parameters)
        self.moments: Mapping[str, np.ndarray] = {}
        self.passes = ForwardBackward(
            network.config, self.weights, usable_cores(), sites_of(network), rules.recompute, self.trained, low_rank
        )
        self.look_again()

    def look_again(self) -> None:
        """Find weights and moments where they are now."""
        self.weights = values_of(self.parameters)
        self.moments = self.optimizer.states()
        self.passes.take(self.weights)
        self.passes.merge()

    def rows(self, objective: nn.Cell, prepared: np.ndarray) -> Rows:
        """Return what an objective makes of prepared rows."""
        return Rows.of(tuple(part.asnumpy().copy() for part in objective(Tensor(prepared))))

    def loss(self, objective: nn.Cell, prepared: np.ndarray) -> float:
        """Return the weighted sum of the negative log-likelihoods, as in evaluation."""
        return self.passes.loss(self.rows(objective, prepared))

    def __call__(
        self,
        rows: Tensor,
        predictions: Tensor,
        loss_scale: Tensor,
        dropout_seed: Tensor,
        learning_rate: Tensor,
        epsilon: Tensor,
        decay: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        accumulate, seed, prepared = self.rules.accumulate, int(dropout_seed.asnumpy()), rows.asnumpy()
        factor, size = float(_f32(1) / predictions.asnumpy()), len(prepared) // accumulate
        loss = 0.0
        for part in range(accumulate):
            batch = self.rows(self.objective, prepared[part * size : (part + 1) * size])
            loss += self.passes.loss_and_gradients(batch, factor, seed + part, adds=part > 0)
        norm = self.global_norm()
        limit = self.rules.largest_norm
        updated = bool(np.isfinite(norm) if limit is None else norm < limit)
        if updated:
            clip = _f32(self.rules.clip_norm)
            numbers = (_f32(number.asnumpy()) for number in (learning_rate, epsilon, decay))
            self.update(clip / max(norm, clip), *numbers)
        return Tensor(loss, ms.float32), Tensor(norm, ms.float32), Tensor(updated)

    def parts(self) -> list[tuple]:
        """Return tasks (parameter's name, begin, end) over the flat arrays of what is trained."""
        return [
            (name, begin, min(self.weights[name].size, begin + NUMBERS))
            for name in self.trained
            for begin in range(0, self.weights[name].size, NUMBERS)
        ]

    def global_norm(self) -> np.float32:
        """Return √Σg² over all gradients."""
        tasks, sums = self.parts(), {}

        def work(thread: int, name: str, begin: int, end: int) -> None:
            sums[name, begin] = sum_of_squares(self.passes.gradients[name].reshape(-1)[begin:end])

        self.passes.crew.run("optimizer/sum_of_squares", work, tasks)
        return _f32(np.sqrt(sum(sums[name, begin] for name, begin, _ in tasks)))

    def update(self, factor: np.float32, rate: np.float32, epsilon: np.float32, decay: np.float32) -> None:
        """Change the weights and their moments by the gradients times a factor."""
        betas = _f32(self.optimizer.beta1), _f32(self.optimizer.beta2)

        def work(thread: int, name: str, begin: int, end: int) -> None:
            arrays = (self.weights[name], self.moments[f"adam_m.{name}"], self.moments[f"adam_v.{name}"])
            flat = (array.reshape(-1)[begin:end] for array in (*arrays, self.passes.gradients[name]))
            kept = _f32(1) - rate * decay if is_decayed(name) else _f32(1)
            adamw(*flat, factor, *betas, rate, epsilon, kept)

        self.passes.crew.run("optimizer/adamw", work, self.parts())
        self.passes.merge()
