"""Find out which reader a path needs."""

import json
from pathlib import Path

from pangu.formats.huggingface.gpt2 import Gpt2Source, is_gpt2
from pangu.formats.regular_file import file_size, read_bytes
from pangu.formats.released import ReleasedShards
from pangu.formats.safetensors_file import index_safetensors
from pangu.formats.shards import holds_shards
from pangu.formats.source import CheckpointSource, FileSource, Source
from pangu.formats.torch_file import index_torch_file
from pangu.foundation.errors import UserError

LARGEST_INDEX = 64 << 20
ADAPTER_FILES = ("adapter_config.json", "tuning.json")  # as PEFT and `finetune` write them
# In a directory, what is looked for, the best first.
DIRECTORY_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)


def open_source(path: Path, strategy: list[Path] | None = None, embeddings: Path | None = None) -> Source:
    """Return the reader for a file or a directory. strategy and embeddings belong to released shards.

    Raises UserError that says what is wrong with the input, or that it is none of the known forms.
    """
    if path.is_dir():
        if holds_shards(path):
            return ReleasedShards(path, strategy, embeddings)
        found = next((path / name for name in DIRECTORY_FILES if (path / name).exists()), None)
        if found is None and any((path / name).is_file() for name in ADAPTER_FILES):
            raise UserError(f"{path}: is an adapter: `python -m pangu merge` makes weights of it and its base")
        if found is None:
            raise UserError(
                f"{path}: holds no whole checkpoint of a run, nor filerted_0.ckpt … nor rank_0/ … nor "
                f"{', '.join(DIRECTORY_FILES)}; "
                "for a single file give its path"
            )
        path = found
    if strategy:
        raise UserError(f"{path}: --strategy goes with a directory of shards")
    if path.name.endswith(".index.json"):
        return with_our_names(open_indexed(path))
    if path.suffix == ".ckpt":
        return CheckpointSource(path)
    if path.suffix in (".safetensors", ".bin", ".pt", ".pth"):
        return with_our_names(open_file(path))
    file_size(path)
    raise UserError(f"{path}: must be a directory or end in .ckpt, .safetensors, .bin, .pt, .pth or .index.json")


def with_our_names(source: FileSource) -> Source:
    """Return weights of a GPT-2 under the released names, and others as they are."""
    return Gpt2Source(source) if is_gpt2(source) else source


def open_file(path: Path) -> FileSource:
    """Return one safetensors or PyTorch file."""
    if path.suffix == ".safetensors":
        index = index_safetensors(path)
        tensors = {name: info for name, (info, _, _) in index.tensors.items()}
        places = {name: (path, start) for name, (_, start, _) in index.tensors.items()}
        source = FileSource(path, "safetensors", tensors, places)
        source.metadata = index.metadata
        return source
    found = index_torch_file(path)
    tensors = {name: tensor.info for name, tensor in found.items()}
    return FileSource(path, "PyTorch file", tensors, {name: (path, tensor.start) for name, tensor in found.items()})


def open_indexed(path: Path) -> FileSource:
    """Return several files with an index: {"weight_map": {name: file}}."""
    size = file_size(path)
    if size > LARGEST_INDEX:
        raise UserError(f"{path}: has {size} bytes, more than any index")
    try:
        weight_map = json.loads(read_bytes(path, 0, size))["weight_map"]
        files = sorted(set(weight_map.values()))
        if any(not file or Path(file).name != file for file in files):
            raise ValueError("a file that is not beside the index")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: is not an index of weights: {type(error).__name__} {error}") from None
    parts: dict[str, FileSource] = {}
    problems: list[str] = []
    for file in files:
        try:
            parts[file] = open_file(path.parent / file)
        except UserError as error:
            problems.append(str(error).removeprefix(f"{path.parent}/"))
    if problems:
        raise UserError(f"{path}: {len(problems)} of {len(files)} files cannot be used: {'; '.join(problems[:8])}")
    absent = [f"{name} in {file}" for name, file in weight_map.items() if name not in parts[file].tensors]
    if absent:
        raise UserError(f"{path}: {len(absent)} tensors are not where the index says: {', '.join(absent[:8])}")
    tensors = {name: parts[file].tensors[name] for name, file in weight_map.items()}
    places = {name: parts[file].places[name] for name, file in weight_map.items()}
    kind = parts[files[0]].form if files else "empty index"
    source = FileSource(path, f"{kind} in {len(files)} parts", tensors, places)
    for file in reversed(files):
        source.metadata |= parts[file].metadata
    return source
