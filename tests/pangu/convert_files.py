"""Checkpoints for the tests of converting, written by other means than the project's own.

MindSpore's generated protobuf modules are loaded alone, without importing MindSpore.
"""

import importlib.util
import json
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

TYPE_NAMES = {"float32": "Float32", "float16": "Float16", "int32": "Int32"}
STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "uint8": "ByteStorage", "int64": "LongStorage"}
ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def protobuf_module(name: str) -> ModuleType:
    """mindspore.train.NAME, loaded from its file."""
    package = importlib.util.find_spec("mindspore")
    assert package is not None and package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "train" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"alone_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


checkpoint_pb2 = protobuf_module("checkpoint_pb2")
node_strategy_pb2 = protobuf_module("node_strategy_pb2")


def shapes_of(blocks: int, hidden: int, ffn: int, seq: int, vocab: int) -> dict[str, tuple[int, ...]]:
    """{released name: shape}, written down from the description of the released checkpoints."""
    layer: dict[str, tuple[int, ...]] = {}
    for norm in ("layernorm1", "layernorm2"):
        layer |= {f"{norm}.gamma": (hidden,), f"{norm}.beta": (hidden,)}
    for dense in ("dense1", "dense2", "dense3", "projection"):
        layer |= {f"attention.{dense}.weight": (hidden, hidden), f"attention.{dense}.bias": (hidden,)}
    layer |= {"output.mapping.weight": (hidden, ffn), "output.mapping.bias": (ffn,)}
    layer |= {"output.projection.weight": (ffn, hidden), "output.projection.bias": (hidden,)}
    shapes = {
        "backbone.word_embedding.embedding_table": (vocab, hidden),
        "backbone.position_embedding.embedding_table": (seq, hidden),
        "backbone.top_query_embedding.embedding_table": (seq, hidden),
        "backbone.layernorm.gamma": (hidden,),
        "backbone.layernorm.beta": (hidden,),
    }
    for prefix in [*(f"blocks.{i}" for i in range(blocks)), "top_query_layer"]:
        shapes |= {f"backbone.{prefix}.{name}": shape for name, shape in layer.items()}
    return shapes


def random_weights(
    blocks: int = 2, hidden: int = 16, ffn: int = 48, dtype: str = "float32", seed: int = 0
) -> dict[str, np.ndarray]:
    """A model with 6 positions and 11 words."""
    generator = np.random.default_rng(seed)
    shapes = shapes_of(blocks, hidden, ffn, seq=6, vocab=11)
    return {name: generator.standard_normal(shape, np.float32).astype(dtype) for name, shape in shapes.items()}


def write_ckpt(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    message = checkpoint_pb2.Checkpoint()
    for name, array in tensors.items():
        value = message.value.add()
        value.tag = name
        value.tensor.dims.extend(array.shape or (0,))
        value.tensor.tensor_type = TYPE_NAMES[array.dtype.name]
        value.tensor.tensor_content = array.tobytes()
    path.write_bytes(message.SerializeToString())


def write_strategy(path: Path, layouts: Mapping[str, tuple[list[int], list[int], int, int]], stage: int = 0) -> None:
    """layouts: {parameter: (device matrix, tensor map, optimizer shard step, optimizer shard size)}."""
    message = node_strategy_pb2.ParallelStrategyMap(current_stage=1)
    operator = message.parallel_strategy_item.add()
    operator.node_name = "MatMul_any"
    operator.parallel_strategys.stage = stage
    for name, (device_matrix, tensor_map, step, size) in layouts.items():
        item = message.parallel_layout_item.add()
        item.param_name = name
        layout = item.parallel_layouts
        layout.dev_matrix.add().dim.extend(device_matrix)
        layout.tensor_map.add().dim.extend(tensor_map)
        layout.param_split_shape.add()
        layout.indices_offset.add()
        layout.field, layout.opt_weight_shard_step, layout.opt_weight_shard_size = 0, step, size
    path.write_bytes(message.SerializeToString())


def released_parts(name: str, array: np.ndarray, data: int = 64, model: int = 8) -> list[np.ndarray]:
    """What each rank of the released training runs holds of a parameter, by the table of their strategy files."""
    if name.endswith(("projection.bias", "gamma", "beta", "embedding_table")):
        return [array] * (data * model)
    axis = 1 if name.endswith("output.mapping.weight") else 0
    by_model = [np.split(part, data, 0) for part in np.split(array, model, axis)]
    return [by_model[rank % model][rank // model] for rank in range(data * model)]


def released_layouts(names: Iterable[str], data: int, model: int) -> dict[str, tuple[list[int], list[int], int, int]]:
    """The layouts of the released strategy files for another device matrix."""
    layouts = {}
    for name in names:
        matrix = [data, model]
        if name.endswith("embedding_table"):
            layouts[name] = (matrix, [-1, -1], 0, 0)
        elif name.endswith(("projection.bias", "gamma", "beta")):
            layouts[name] = (matrix, [-1], 0, 0)
        elif name.endswith("output.mapping.weight"):
            layouts[name] = (matrix, [-1, 0], model, -1)
        else:
            layouts[name] = (matrix, [0, -1] if name.endswith("weight") else [0], model, -1)
    return layouts


def write_released(
    folder: Path, weights: Mapping[str, np.ndarray], data: int = 64, model: int = 8, prefix: str = "filerted"
) -> None:
    """The shards and the three `.npy` of a model."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in weights.items():
        if name.endswith("embedding_table"):
            np.save(folder / f"{name.split('.')[1]}.npy", array)
    names = [name for name in weights if not name.endswith("embedding_table")]
    parts = [released_parts(name, weights[name], data, model) for name in names]
    for rank, held in enumerate(zip(*parts, strict=True)):
        write_ckpt(folder / f"{prefix}_{rank}.ckpt", dict(zip(names, held, strict=True)))


def torch_weights(weights: Mapping[str, np.ndarray], prefix: str = "transformer.") -> dict[str, np.ndarray]:
    """The PyTorch port's state of a model with a query layer, its constant buffers and its untied head included."""
    single = {
        "backbone.word_embedding.embedding_table": "wte.weight",
        "backbone.position_embedding.embedding_table": "wpe.weight",
        "backbone.top_query_embedding.embedding_table": "wqe.weight",
        "backbone.layernorm.gamma": "ln_f.weight",
        "backbone.layernorm.beta": "ln_f.bias",
    }
    modules = {
        "layernorm1": "ln_1",
        "layernorm2": "ln_2",
        "attention.dense1": "attn.q_proj",
        "attention.dense2": "attn.k_proj",
        "attention.dense3": "attn.v_proj",
        "attention.projection": "attn.c_proj",
        "output.mapping": "mlp.c_fc",
        "output.projection": "mlp.c_proj",
    }
    last = max(int(name.split(".")[2]) for name in weights if ".blocks." in name) + 1
    state: dict[str, np.ndarray] = {}
    for name, array in weights.items():
        if name in single:
            state[prefix + single[name]] = array
            continue
        parts = name.removeprefix("backbone.").replace("top_query_layer", f"blocks.{last}").split(".")
        layer, module, kind = parts[1], ".".join(parts[2:-1]), parts[-1]
        kind = {"gamma": "weight", "beta": "bias"}.get(kind, kind)
        turned = module in ("attention.projection", "output.mapping", "output.projection") and kind == "weight"
        state[f"{prefix}h.{layer}.{modules[module]}.{kind}"] = np.ascontiguousarray(array.T) if turned else array
    for number in range(last + 1):
        state[f"{prefix}h.{number}.attn.bias"] = np.tril(np.ones((1, 1, 6, 6), np.uint8))
        state[f"{prefix}h.{number}.attn.masked_bias"] = np.array(-1e4, np.float32)
    state["lm_head.weight"] = weights["backbone.word_embedding.embedding_table"]
    return state


def pickled_text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def pickled_numbers(numbers: Iterable[int]) -> bytes:
    return b"(" + b"".join(b"J" + struct.pack("<i", number) for number in numbers) + b"t"


def pickled_tensor(key: str, array: np.ndarray) -> bytes:
    """The opcodes by which torch.save describes a row-major tensor."""
    storage = f"ctorch\n{STORAGES[array.dtype.name]}\n".encode()
    strides = [int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim)]
    identifier = b"(" + pickled_text("storage") + storage + pickled_text(key) + pickled_text("cpu")
    identifier += b"J" + struct.pack("<i", array.size) + b"tQ"
    view = b"K\x00" + pickled_numbers(array.shape) + pickled_numbers(strides) + b"\x89" + ORDERED_DICT
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + identifier + view + b"tR"


def pickled_state(tensors: Mapping[str, np.ndarray]) -> bytes:
    items = [pickled_text(name) + pickled_tensor(str(key), array) for key, (name, array) in enumerate(tensors.items())]
    return b"\x80\x02" + ORDERED_DICT + b"(" + b"".join(items) + b"u."


def write_torch(path: Path, tensors: Mapping[str, np.ndarray], pickled: bytes | None = None) -> None:
    """A file as torch.save writes it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickled_state(tensors) if pickled is None else pickled)
        archive.writestr("archive/byteorder", "little")
        for key, array in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")


def write_index(path: Path, parts: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    weight_map = {name: file for file, tensors in parts.items() for name in tensors}
    path.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
