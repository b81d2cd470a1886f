"""What a conversion will do: every tensor of the output, where it comes from, how it changes; checked beforehand."""

import hashlib
from dataclasses import dataclass
from typing import Literal

from pangu import parameters
from pangu.config import ModelConfig
from pangu.formats import names
from pangu.formats.data_types import BY_NAME, TensorInfo, bytes_of
from pangu.formats.model_metadata import TOKENIZER_KEY, metadata_of, model_in
from pangu.formats.model_shape import ModelShape, listed, tell_shape
from pangu.formats.source import Source
from pangu.foundation.errors import UserError

Target = Literal["safetensors", "mindspore", "pytorch"]
SUFFIXES: dict[Target, str] = {"safetensors": ".safetensors", "mindspore": ".ckpt", "pytorch": ".safetensors"}


@dataclass(frozen=True)
class OutputTensor:
    """One tensor of the output. info: as it is written."""

    source: str
    target: str
    info: TensorInfo
    transpose: bool


@dataclass(frozen=True)
class Conversion:
    """A conversion, before anything of it is done."""

    source: Source
    target: Target
    tensors: list[OutputTensor]
    shape: ModelShape
    final_norm: Literal["before_query", "after_query"]
    left_out: list[str]
    model: ModelConfig | None  # the network; None where nothing says it
    is_assumed: bool = False  # whether the network is what a known size has, for the weights do not say it

    @property
    def nbytes(self) -> int:
        """Return bytes of all tensors of the output."""
        return sum(tensor.info.nbytes for tensor in self.tensors)

    @property
    def num_parameters(self) -> int:
        """Return parameters of the model, each counted once."""
        return sum(TensorInfo(None, shape).size for shape in self.shape.shapes().values())

    @property
    def metadata(self) -> dict[str, str]:
        """Return what the output's safetensors header says besides the tensors."""
        tokenizer = self.source.metadata.get(TOKENIZER_KEY)
        said = metadata_of(self.model, tokenizer, "pt" if self.target == "pytorch" else "ms")
        return said if self.model else said | {"final_norm": self.final_norm}


def make_plan(
    source: Source,
    target: Target,
    dtype: str | None = None,
    keep_optimizer: bool = False,
    master_names: bool = False,
    model: ModelConfig | None = None,
) -> Conversion:
    """Decide what goes where. dtype: fp32, fp16, bf16, or None to keep each tensor's.

    keep_optimizer: Adam's two moments too, not for PyTorch. master_names: MindSpore output for later versions of the
    original. model: the network of the weights, where the source does not say it or says it wrongly. Raises UserError
    for weights that are not a whole PanGu-α model.
    """
    if keep_optimizer and target == "pytorch":
        raise UserError("--keep-optimizer: the PyTorch port's names have no place for Adam's moments")
    where = str(source.path)
    found = names.sorted_names_of(source)
    if found.foreign:
        raise UserError(f"{where}: {len(found.foreign)} parameters are not PanGu-α's: {listed(found.foreign)}")
    outputs = dict(found.weights) | (found.optimizer if keep_optimizer else {})
    unusable = [name for name in outputs if not is_float(source.tensors[name])]
    if unusable:
        raise UserError(f"{where}: {len(unusable)} weights are not floating-point numbers: {listed(unusable)}")
    infos = {ours: canonical_info(source, name, found.is_torch) for name, ours in outputs.items()}
    shape = tell_shape({ours: infos[ours].shape for ours in found.weights.values()}, where)
    wrong = [name for name, ours in found.optimizer.items() if keep_optimizer and moment_shape(infos, ours) is None]
    if wrong:
        raise UserError(f"{where}: {len(wrong)} moments of Adam have no weight of their shape: {listed(wrong)}")
    check_head(source, found)
    by_canonical = {ours: name for name, ours in outputs.items()}
    if shape.target_in_trunk and target == "pytorch":
        raise UserError(f"{where}: the PyTorch port has no target_in_trunk: there is no name for that table")
    if shape.expert_shape and target == "pytorch":
        raise UserError(f"{where}: the PyTorch port has no experts; a domain's can be cut out (--cut-domain)")
    target_names = names.torch_names(shape.num_blocks, shape.query_layer)
    order = list(shape.shapes())
    order += [prefix + ours for prefix in names.OPTIMIZER_PREFIXES for ours in order if prefix + ours in by_canonical]
    tensors = []
    for ours in order:
        target_name = target_names[ours] if target == "pytorch" else ours
        if target == "mindspore" and master_names:
            target_name = with_master_name(ours)
        transpose = names.is_transposed(ours) and found.is_torch != (target == "pytorch")
        tensors.append(
            output_tensor(by_canonical[ours], target_name, source.tensors[by_canonical[ours]], dtype, transpose)
        )
    if target == "pytorch":
        # The port does not tie its output matrix; safetensors cannot store one tensor under two names.
        word_table = tensors[0]
        tensors.append(OutputTensor(word_table.source, names.TORCH_TIED_HEAD, word_table.info, transpose=False))
    model = model or model_in(source.metadata, where)
    if model and model.attention.pattern != "full" and target == "pytorch":
        raise UserError(
            f"{where}: the PyTorch port has no attention.pattern {model.attention.pattern}: it sees all places"
        )
    if model:
        shape.check(model, where)
    left_out = found.left_out + found.tied_head + ([] if keep_optimizer else list(found.optimizer))
    after_query = source.metadata.get("final_norm") == "after_query" and shape.query_layer
    after_query = after_query or (found.query_layer_among_blocks and not found.is_torch)
    final_norm = model.final_norm if model else "after_query" if after_query else "before_query"
    return Conversion(source, target, tensors, shape, final_norm, left_out, model)


def is_float(info: TensorInfo) -> bool:
    return info.data_type is not None and info.data_type.is_float


def canonical_info(source: Source, name: str, is_torch: bool) -> TensorInfo:
    """Return a tensor's type and its shape in our orientation."""
    info = source.tensors[name]
    ours = names.recognise(name)[0]
    turned = is_torch and names.is_transposed(ours)
    return TensorInfo(info.data_type, info.shape[::-1] if turned else info.shape)


def moment_shape(infos: dict[str, TensorInfo], name: str) -> tuple[int, ...] | None:
    """Return the shape of one of Adam's moments, None where it is not that of its weight."""
    weight = next(infos.get(name.removeprefix(p)) for p in names.OPTIMIZER_PREFIXES if name.startswith(p))
    return weight.shape if weight and weight.shape == infos[name].shape else None


def output_tensor(source: str, target: str, info: TensorInfo, dtype: str | None, transpose: bool) -> OutputTensor:
    keeps_type = target.endswith(parameters.EXPERT_TABLE)  # whole numbers, that fewer bits would change
    data_type = BY_NAME[dtype] if dtype and not keeps_type else info.data_type
    return OutputTensor(source, target, TensorInfo(data_type, info.shape[::-1] if transpose else info.shape), transpose)


def with_master_name(canonical: str) -> str:
    """Return the name that later versions of the original give a weight or its optimizer state."""
    for ours, master in names.MASTER_NAMES.items():
        if canonical.endswith(ours):
            return canonical.removesuffix(ours) + master
    return canonical


def check_head(source: Source, found: names.SortedNames) -> None:
    """Raise UserError where an output matrix of others is not the word table, which ours is."""
    for head in found.tied_head:
        word_table = next((name for name, ours in found.weights.items() if ours == parameters.WORD_TABLE), None)
        if word_table is not None:  # where it is missing, the shapes say so
            check_tied(source, head, word_table)


def check_tied(source: Source, head: str, word_table: str) -> None:
    """Raise UserError where the port's output matrix is not our word table, bit for bit."""
    infos = source.tensors[head], source.tensors[word_table]
    # One at a time, so that one parameter is in memory.
    if infos[0] == infos[1] and digest(source, head) == digest(source, word_table):
        return
    raise UserError(
        f"{source.path}: {head!r} differs from {word_table!r}: this model's output matrix was trained apart "
        "from its word table, which PanGu-α's network cannot hold"
    )


def digest(source: Source, name: str) -> bytes:
    return hashlib.blake2b(bytes_of(source.read(name))).digest()
