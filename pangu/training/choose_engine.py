"""What computes the steps of a run: compiled functions on a CPU, or MindSpore's graph, which can do everything.

Their results differ in rounding, so a run goes on with what it began with.
"""

from pathlib import Path

from pangu.checkpoint.open import Checkpoint
from pangu.config import ModelConfig, TrainConfig
from pangu.foundation.best_effort import warn
from pangu.foundation.errors import UserError
from pangu.foundation.yaml_document import shown


def reason_against(model: ModelConfig, device: str, processes: int) -> str | None:
    """Return why steps cannot be computed by compiled functions; None: they can."""
    from pangu.training.compiled.matrix_product import sgemm_address

    if device != "CPU":
        return f"device {device} computes with MindSpore"
    if processes > 1:
        return "several processes compute with MindSpore"
    if model.compute_dtype != "fp32":
        return f"{model.compute_dtype} computes with MindSpore; precision: fp32 is faster on a CPU"
    if model.softmax_dtype != "fp32":
        return "softmax_dtype fp16 computes with MindSpore"
    if model.experts is not None:
        return "experts compute with MindSpore"
    if sgemm_address() is None:
        return "this MindSpore brings no library of matrix products (libdnnl)"
    return None


def engine_of(run: Path, saved: Checkpoint | None, model: ModelConfig, config: TrainConfig, processes: int) -> str:
    """Return what computes the steps of this start. Raises UserError where that was asked for and cannot be."""
    began = None if saved is None else saved.train.get("engine", "mindspore")  # earlier versions had nothing else
    return settle_engine(run, began, config.engine, reason_against(model, config.device, processes))


def settle_engine(run: Path, began: str | None, engine: str | None, reason: str | None) -> str:
    """Return what computes the steps. began: the run's engine so far; None: it begins. engine: what is asked for.

    reason: against compiled steps. Raises UserError where compiled steps were asked for and cannot be, or where the run
    began otherwise.
    """
    if engine == "compiled" and reason:
        raise UserError(f"engine compiled: {reason}; leave `engine` out")
    if began is None:
        return engine or ("mindspore" if reason else "compiled")
    if engine not in (None, began):
        raise UserError(
            f"{run}: this run began with engine = {shown(began)}, now it is {shown(engine)}: "
            "give another `out` (and start_from, to begin with this run's weights)"
        )
    if began == "compiled" and reason:
        warn(f"{run}: began with compiled steps and goes on with MindSpore's, which round otherwise: {reason}")
        return "mindspore"
    return began
