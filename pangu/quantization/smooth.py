"""SmoothQuant: divide large inputs by a factor and multiply their weights by it (Xiao et al. 2022, 2211.10438).

s = √(max|x| / max|W|) for each input of a layer that follows a layer norm; x / s is written into the norm's gamma and
beta, W · s into the matrices. The network computes the same. With inputs in fp32 it changes only which weights share
a scale with which; it is there for engines that quantise inputs too.
"""

from collections.abc import Sequence

import numpy as np


def factors(largest_inputs: np.ndarray, matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Return fp32 [in]; 1 where an input was never seen or has no weights. matrices [out, in] read the same inputs."""
    largest_weights = np.max([np.abs(matrix).max(axis=0) for matrix in matrices], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.sqrt(largest_inputs / largest_weights)
    usable = np.isfinite(scale) & (scale > 1e-5)
    return np.where(usable, scale, 1).astype(np.float32)
