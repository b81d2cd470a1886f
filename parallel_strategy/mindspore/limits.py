"""What MindSpore 2.10 cannot carry out of a strategy for this network, said before anything is compiled."""

from pangu.foundation.errors import UserError
from parallel_strategy.spec.capability import check_executed
from parallel_strategy.spec.framework import FrameworkSpec
from parallel_strategy.spec.strategy import Setup

COMPILER = "mindspore-2.10"  # the framework preset that says what this compiler does


def as_compiled(setup: Setup) -> Setup:
    """Return the setup with the compiler's habits and limits, whatever its file names as its framework."""
    return setup.model_copy(update={"framework": FrameworkSpec.preset(COMPILER)})


def check_supported(setup: Setup) -> None:
    """Raise UserError that names the field which MindSpore 2.10 cannot carry out for this network."""
    check_executed(as_compiled(setup))


def check_read(setup: Setup) -> None:
    """Raise UserError where a parameter strategy file does not do: it names no order of devices, and MindSpore's own
    puts experts before rows."""
    mesh = setup.strategy.mesh
    if 1 < mesh.ep < mesh.dp:
        raise UserError(
            f"mesh.ep {mesh.ep}: MindSpore's parameter strategy files cannot say on which devices experts lie "
            f"where ep is less than dp; right: 1 or {mesh.dp}"
        )


def check_propagated(setup: Setup) -> None:
    """Raise UserError where an operator strategy file does not do. Only MindSpore's sharding propagation reads and
    writes it, which in 2.10 ends with "The pointer[node_prim] is null" on a pipeline."""
    if setup.strategy.tensor.sequence_parallel and setup.strategy.mesh.tp > 1:
        raise UserError(
            "tensor.sequence_parallel: MindSpore's operator strategy file says how operators take their inputs, and "
            "this needs to say what they give"
        )
    if setup.strategy.mesh.pp > 1:
        raise UserError(
            f"mesh.pp {setup.strategy.mesh.pp}: MindSpore 2.10 reads operator strategy files in sharding "
            "propagation only, which compiles no pipeline; parameter strategy files are read there"
        )
