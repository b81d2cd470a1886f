"""Write a directory that transformers loads, whole or not at all.

A plain decoder becomes a GPT-2. With the query layer the architecture is PanGu-α's own: its modelling file, in PyTorch,
goes beside the weights. So does a tokenizer of our own where `tokenizers` has none (`fast_tokenizer`).
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from pangu.config import ModelConfig
from pangu.formats import names
from pangu.formats.data_types import BF16, BY_NAME, TensorInfo, bytes_of, cast
from pangu.formats.huggingface.fast_tokenizer import files_of, settings_of
from pangu.formats.huggingface.gpt2 import CONFIG, config_of, gpt2_weights
from pangu.formats.model_metadata import metadata_of
from pangu.formats.safetensors_file import BY_STORAGE, file_header
from pangu.foundation.atomic_file import write_whole
from pangu.foundation.directory import commit_directory, hidden_directory
from pangu.foundation.errors import UserError

MODELING = Path(__file__).with_name("modeling_pangu_alpha.py")
TOKENIZATION = Path(__file__).with_name("tokenization_pangu_alpha.py")
WEIGHTS = "model.safetensors"


def query_layer_config(model: ModelConfig, end_of_document: int | None) -> dict[str, object]:
    """Return the config.json of a network with the query layer."""
    module = MODELING.stem
    return {
        "architectures": ["PanguAlphaForCausalLM"],
        "model_type": "pangu_alpha",
        "auto_map": {
            "AutoConfig": f"{module}.PanguAlphaConfig",
            "AutoModelForCausalLM": f"{module}.PanguAlphaForCausalLM",
        },
        "vocab_size": model.vocab_size,
        "n_positions": model.seq_length,
        "n_embd": model.hidden_size,
        "n_layer": model.num_layers,
        "n_head": model.num_heads,
        "n_inner": model.ffn_hidden_size,
        "activation": model.activation,
        "final_norm": model.final_norm,
        "tie_word_embeddings": True,
        "bos_token_id": end_of_document,
        "eos_token_id": end_of_document,
    }


def torch_weights(weights: dict, model: ModelConfig) -> dict:
    """Return the weights under the PyTorch port's names, as `torch.nn.Linear` holds them."""
    if model.experts:
        raise UserError(
            "transformers knows no PanGu-α with experts: a domain's can be cut out first (convert --cut-domain)"
        )
    if model.attention.pattern != "full":
        raise UserError(
            f"attention.pattern {model.attention.pattern}: the PyTorch port sees every place before its own"
        )
    if model.target_in_trunk:
        raise UserError("the PyTorch port has no target_in_trunk: there is no name for that table")
    torch = names.torch_names(model.num_blocks, model.query_layer)
    return {torch[ours]: weight.T if names.is_transposed(ours) else weight for ours, weight in weights.items()}


def write_directory(
    out: Path,
    model: ModelConfig,
    weights: dict,
    tokenizer: Path | None,
    dtype: str | None,
    advance: Callable[[int], None] = lambda _: None,
) -> int:
    """Write the directory; returns the bytes of the weights. dtype: None keeps them as they are.

    weights: fp32 or fp16 under the released names. tokenizer: a directory, or a `.model` file.
    """
    if out.exists():
        raise UserError(f"{out}: already exists; give another --out")
    if not out.absolute().parent.is_dir():
        raise UserError(f"{out.parent}: no such directory")
    end, fingerprint, fast = None, None, None
    if tokenizer is not None:
        from pangu.tokenizer import Tokenizer

        loaded = Tokenizer.load(tokenizer)
        end, fingerprint = loaded.special.end_of_document, loaded.fingerprint
        fast = files_of(loaded)
        settings = fast or settings_of(loaded, TOKENIZATION.stem)
    theirs = torch_weights(weights, model) if model.query_layer else gpt2_weights(weights)
    config = query_layer_config(model, end) if model.query_layer else config_of(model, end)
    with hidden_directory(out) as folder:
        size = write_weights(folder / WEIGHTS, theirs, dtype, metadata_of(model, fingerprint, "pt"), advance)
        config |= {"torch_dtype": {"fp16": "float16", "bf16": "bfloat16"}.get(dtype or "", "float32")}
        write_whole(folder / CONFIG, json.dumps(config, indent=2).encode() + b"\n")
        write_whole(folder / "model.yaml", model.dump().encode())
        write_whole(folder / "README.md", card(model, out.name, tokenizer is not None, fast is not None).encode())
        if model.query_layer:
            shutil.copyfile(MODELING, folder / MODELING.name)
        if tokenizer is not None:
            loaded.save(folder / "tokenizer")
            for name, content in settings.items():
                write_whole(folder / name, content.encode())
            if fast is None:
                shutil.copyfile(TOKENIZATION, folder / TOKENIZATION.name)
        commit_directory(folder, out)
    return size


def write_weights(path: Path, weights: dict, dtype: str | None, metadata: dict, advance: Callable[[int], None]) -> int:
    """Write the tensors one after the other, each converted; returns the bytes of the file."""
    infos = []
    for name, weight in sorted(weights.items()):
        data_type = BY_NAME[dtype] if dtype else BY_STORAGE[weight.dtype]
        infos.append((name, TensorInfo(data_type, weight.shape)))
    with path.open("wb") as file:
        file.write(file_header(infos, metadata))
        for name, info in infos:
            assert info.data_type is not None
            array = weights[name].copy(order="C")
            try:
                if info.data_type == BF16:
                    array = array.astype("<f4", copy=False)
                array = cast(array, BY_STORAGE[array.dtype], info.data_type)
            except OverflowError as error:
                raise UserError(f"{name}: {error}; take another --dtype") from None
            file.write(bytes_of(array))
            advance(array.nbytes)
        return file.tell()


def card(model: ModelConfig, name: str, has_tokenizer: bool, has_fast_tokenizer: bool) -> str:
    """Return the README of the directory."""
    trust = ", trust_remote_code=True" if model.query_layer else ""
    network = (
        "PanGu-α: a GPT whose last layer takes its query from a table of positions; `modeling_pangu_alpha.py` is the "
        "network in PyTorch"
        if model.query_layer
        else "A plain decoder, saved as a GPT-2"
    )
    tokenizer = "There is no tokenizer here: the ids are those that the weights were trained with.\n"
    if has_fast_tokenizer:
        # AutoTokenizer reads config.json, and asks whether it may run the code of the network that it names
        kind = "PreTrainedTokenizerFast" if model.query_layer else "AutoTokenizer"
        code = f'from transformers import {kind}\n\ntokenizer = {kind}.from_pretrained(".")'
        tokenizer = f"```python\n{code}\n```\n"
    elif has_tokenizer:
        asked = 'AutoTokenizer.from_pretrained(".", trust_remote_code=True)'
        code = f"from transformers import AutoTokenizer\n\ntokenizer = {asked}"
        tokenizer = (
            "The tokenizer is `tokenization_pangu_alpha.py`; it needs the packages jieba and sentencepiece:\n\n"
            f"```python\n{code}\n```\n"
        )
    return f"""---
library_name: transformers
pipeline_tag: text-generation
language: zh
---

# {name}

{network}. {model.num_parameters:,} parameters: {model.num_layers} layers, hidden size {model.hidden_size},
{model.num_heads} heads, context {model.seq_length:,}, vocabulary {model.vocab_size:,}. `model.yaml` says everything.

```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("."{trust})
```

{tokenizer}"""
