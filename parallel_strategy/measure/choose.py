"""Which backend measures this machine."""

from pathlib import Path

from pangu.foundation.errors import UserError
from parallel_strategy.measure.timed_kernels import Backend

# asking MindSpore instead prints a page of warnings where there is none
ASCEND_DRIVER = Path("/dev/davinci_manager")
BACKENDS = ("auto", "torch", "mindspore", "numpy")


def backend_of(name: str) -> Backend:
    """Choose the device for `auto`: a GPU through PyTorch, else Ascend through MindSpore, else this CPU through
    MindSpore, else numpy."""
    if name in ("auto", "torch"):
        try:
            import torch

            if torch.cuda.is_available():
                from parallel_strategy.measure.torch_cuda import TorchBackend

                return TorchBackend()
        except ImportError:
            pass
        if name == "torch":
            raise UserError("--backend torch: PyTorch is not installed or sees no GPU; nearest: mindspore")
    if name in ("auto", "mindspore"):
        try:
            from parallel_strategy.measure.mindspore_device import MindSporeBackend

            return MindSporeBackend("Ascend" if ASCEND_DRIVER.exists() else "CPU")
        except ImportError:
            if name == "mindspore":
                raise UserError("--backend mindspore: MindSpore is not installed; nearest: numpy") from None
    from parallel_strategy.measure.numpy_cpu import NumpyBackend

    return NumpyBackend()
