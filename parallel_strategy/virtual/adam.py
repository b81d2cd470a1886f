"""AdamW without bias correction, as the original computes it, with the clip by the global norm before it."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Adam:
    """m = β₁m + (1-β₁)g, v = β₂v + (1-β₂)g², p -= lr (m / (√v + ε) + λ p), λ for all but norms and biases."""

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    decay: float = 0.1
    clip_norm: float = 1.0

    def update(
        self, name: str, weight: np.ndarray, gradient: np.ndarray, first: np.ndarray, second: np.ndarray
    ) -> None:
        """Update in place, element by element, so that a shard is updated as the whole would be."""
        first *= self.beta1
        first += (1 - self.beta1) * gradient
        second *= self.beta2
        second += (1 - self.beta2) * gradient * gradient
        decay = self.decay if is_decayed(name) else 0.0
        weight -= self.learning_rate * (first / (np.sqrt(second) + self.epsilon) + decay * weight)

    def clip_factor(self, norm: float) -> float:
        return self.clip_norm / max(norm, self.clip_norm)


def is_decayed(name: str) -> bool:
    return "norm" not in name and not name.endswith(".bias")
