"""Compile every function of a step in a process of its own: `python -m pangu.training.compiled.compile_apart`.

Machine code that was just compiled may add up a row in another order than the same code read from disk: seen with
numba 0.68, in the sum of a softmax. So a run never computes with what it compiles itself; then all runs have the same
bits, the first one on a machine too.
"""

import contextlib
import subprocess
import sys
from pathlib import Path

import numpy as np

import pangu
from pangu import parameters
from pangu.config import ModelConfig
from pangu.foundation.best_effort import warn
from pangu.foundation.errors import WriteError
from pangu.foundation.lock import Lock
from pangu.generation.compiled.vectors import can_keep_code, has_code_on_disk
from pangu.training.compiled import attention_kernels, layer_kernels, loss_kernels, update_kernels
from pangu.training.compiled.forward_backward import ForwardBackward, Rows, Sites
from pangu.training.compiled.update_kernels import adamw, sum_of_squares

MODULES = (attention_kernels, layer_kernels, loss_kernels, update_kernels)


def compile_apart() -> None:
    """Compile with a word to the user, unless the machine code lies on disk already, or nothing can lie there."""
    if not is_wanted():
        return
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(WriteError):  # a file system without locks
            stack.enter_context(Lock(Path(__file__).parent, busy=None))  # two at once may lose each other's code
        if not is_wanted():
            return
        warn("compiling the training step: once on this machine, for about half a minute")
        beside = Path(pangu.__file__).parents[1]  # where Python finds the package, wherever the run is
        words = [sys.executable, "-m", "pangu.training.compiled.compile_apart"]
        result = subprocess.run(words, cwd=beside, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
            warn(f"warning: the training step could not be compiled apart, so this run compiles it by itself: {reason}")


def is_wanted() -> bool:
    """Return whether machine code of a function of a step can lie on disk and does not, as its sources are now."""
    functions = [one for module in MODULES for one in vars(module).values() if can_keep_code(one)]
    return not all(has_code_on_disk(one) for one in functions)


def take_a_step() -> None:
    """Call every function once, with arguments of the types that a run has."""
    config = ModelConfig(
        num_layers=2, hidden_size=16, num_heads=2, ffn_hidden_size=32, seq_length=8, vocab_size=32,
        compute_dtype="fp32", target_in_trunk=True,
    )  # fmt: skip
    weights = {name: np.full(shape, 0.1, np.float32) for name, shape in parameters.shapes(config).items()}
    passes = ForwardBackward(config, weights, 1, Sites(0, ((1, 2, 3), (4, 5, 6))))
    places = np.arange(8, dtype=np.int32)
    rows = Rows(places, places, np.ones(8, np.float32), places, places, np.zeros((1, 8, 8), np.float32))
    passes.loss(rows)
    passes.loss_and_gradients(rows, 1.0, 0, adds=False)
    gradient = passes.gradients[parameters.WORD_TABLE].reshape(-1)
    sum_of_squares(gradient)
    number = np.float32(0.5)
    adamw(*(gradient.copy() for _ in range(3)), gradient, *[number] * 6)


if __name__ == "__main__":
    take_a_step()
