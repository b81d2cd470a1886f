"""Choose the device that MindSpore computes on."""

import os

os.environ.setdefault("GLOG_v", "3")  # this process only: errors of the framework, not its advice

import mindspore as ms

from pangu.config import ModelConfig
from pangu.foundation.errors import UserError


def use_device(target: str = "CPU") -> None:
    """Compile graphs for this device. Raises UserError where MindSpore cannot use it."""
    try:
        # MindSpore's default on a CPU leaves nearly everything to one thread. (Its advertised replacement,
        # runtime.dispatch_threads_num, does something else: it made the step twice as slow.)
        ms.set_context(mode=ms.GRAPH_MODE, runtime_num_threads=len(os.sched_getaffinity(0)))
        if ms.get_context("device_target") != target:
            ms.set_device(target)
    except (RuntimeError, ValueError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip("- ")), "")
        raise UserError(f"device {target!r} cannot be used here: {reason}") from None


def check_dtype(config: ModelConfig) -> None:
    """Raise UserError where the device in use cannot compute in the model's type."""
    if config.compute_dtype == "bf16" and ms.get_context("device_target") == "CPU":
        raise UserError("compute_dtype bf16: MindSpore has no bf16 kernels for a CPU; use fp32 (or fp16, slow)")
