"""What MindSpore 2.10 cannot carry out of a strategy for this network, said before anything is compiled."""

from pangu.foundation.errors import UserError
from parallel_strategy.spec.strategy import Question


def check_supported(question: Question) -> None:
    """Raises UserError that names the field which MindSpore 2.10 cannot carry out for this network."""
    strategy, model = question.strategy, question.model
    mesh = strategy.mesh
    wanted = ["pp", "dp", "tp"]
    order = [axis for axis in mesh.axes if getattr(mesh, axis) > 1]
    if mesh.devices not in (1, 2, 4) and mesh.devices % 8:
        raise UserError(f"mesh: {mesh.devices} devices; MindSpore 2.10 takes 1, 2, 4 or a multiple of 8")
    if mesh.cp > 1 or mesh.ep > 1:
        raise UserError("mesh.cp and mesh.ep must be 1: PanGu-alpha under MindSpore splits batch, heads and layers")
    if order != [axis for axis in wanted if axis in order]:
        raise UserError(f"mesh.order {mesh.order}: MindSpore's ranks are ordered pp, dp, tp from the outermost")
    for field, needed in (("position", "learned"), ("norm", "layer_norm"), ("experts", None), ("kv_heads", None)):
        if getattr(model, field) not in (needed, model.num_heads if field == "kv_heads" else needed):
            raise UserError(f"model field {field}: {getattr(model, field)!r} is no PanGu-alpha, which alone is applied")
    if model.vocab_size % (mesh.tp if strategy.tensor.vocab == "split" else 1):
        raise UserError(f"tensor.vocab split: vocab_size {model.vocab_size} must be a multiple of mesh.tp {mesh.tp}")
    if strategy.tensor.sequence_parallel and strategy.batch.micro > 1 and mesh.tp > 1:
        raise UserError("tensor.sequence_parallel under MindSpore needs batch.micro 1: rows of a rank are one sequence")
    if strategy.tensor.interleave > 1:
        raise UserError(f"tensor.interleave {strategy.tensor.interleave} is priced, not applied; nearest: 1")
    if strategy.offload.activation:
        raise UserError(f"offload.activation {strategy.offload.activation} is priced, not applied; nearest: 0")
    if strategy.pipeline.schedule not in ("1f1b", "gpipe", "mindspore_vpp", "zb_v") and mesh.pp > 1:
        raise UserError(
            f"pipeline.schedule {strategy.pipeline.schedule!r}: MindSpore 2.10 has 1f1b, gpipe, mindspore_vpp and zb_v"
        )


def check_propagated(question: Question) -> None:
    """Raises UserError where an operator strategy file does not do. Only MindSpore's sharding propagation reads and
    writes it, which in 2.10 ends with "The pointer[node_prim] is null" on a pipeline."""
    if question.strategy.tensor.sequence_parallel and question.strategy.mesh.tp > 1:
        raise UserError(
            "tensor.sequence_parallel: MindSpore's operator strategy file says how operators take their inputs, and "
            "this needs to say what they give"
        )
    if question.strategy.mesh.pp > 1:
        raise UserError(
            f"mesh.pp {question.strategy.mesh.pp}: MindSpore 2.10 reads operator strategy files in sharding "
            "propagation only, which compiles no pipeline; parameter strategy files are read there"
        )
