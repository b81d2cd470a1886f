"""GPTQ: round column by column and let the columns that follow make up for the error (Frantar et al. 2022, 2210.17323).

With H = 2 XᵀX over the inputs X that calibration saw, the error of a column is passed on along the rows of the upper
Cholesky factor of H⁻¹, in blocks of 128 columns (algorithm 1 of the paper).
"""

import numpy as np

from pangu.foundation.errors import UserError
from pangu.quantization.rounding import (
    GROUP,
    Bits,
    Quantized,
    check_finite,
    check_groups,
    codes_of,
    group_scales,
    pack,
    row_scales,
)

BLOCK = 128
DAMPING = 0.01  # of the mean of H's diagonal, added to it


def inverse_factor(hessian: np.ndarray) -> np.ndarray:
    """Return the upper factor U of H⁻¹ = UᵀU, with H damped. Inputs that were never seen get a diagonal of one mean."""
    from scipy.linalg import cholesky, solve_triangular  # late: every start of `generate` would wait for it

    damped = hessian.astype(np.float64)
    diagonal = np.einsum("ii->i", damped)
    mean = diagonal.mean() or 1.0
    diagonal[diagonal == 0] = mean
    diagonal += DAMPING * mean
    try:
        lower = cholesky(damped, lower=True, overwrite_a=True)
        inverse = solve_triangular(lower, np.eye(len(lower)), lower=True)
        return cholesky(inverse.T @ inverse, lower=False).astype(np.float32)
    except (np.linalg.LinAlgError, ValueError) as error:
        raise UserError(f"the calibration rows give no usable statistics: {error}; take more or other rows") from None


def quantize(weight: np.ndarray, hessian: np.ndarray, bits: Bits, name: str) -> Quantized:
    """Quantise a matrix [out, in] by the statistics H [in, in] of its inputs."""
    check_finite(weight, name)
    outputs, inputs = weight.shape
    if bits == 4:
        check_groups(inputs, name)
    factor = inverse_factor(hessian)
    left = weight.astype(np.float32)
    codes = np.zeros((outputs, inputs), np.int8)
    scales = row_scales(left) if bits == 8 else np.zeros((outputs, inputs // GROUP), np.float16)
    for start in range(0, inputs, BLOCK):
        end = min(inputs, start + BLOCK)
        errors = np.zeros((outputs, end - start), np.float32)
        for column in range(start, end):
            if bits == 4 and column % GROUP == 0:
                scales[:, column // GROUP] = group_scales(left[:, column : column + GROUP])
            scale = (scales if bits == 8 else scales[:, column // GROUP]).astype(np.float32)
            codes[:, column] = codes_of(left[:, column], scale, bits)
            error = (left[:, column] - codes[:, column] * scale) / factor[column, column]
            left[:, column:end] -= np.outer(error, factor[column, column:end])
            errors[:, column - start] = error
        left[:, end:] -= errors @ factor[start:end, end:]
    return Quantized(codes if bits == 8 else pack(codes), scales)
