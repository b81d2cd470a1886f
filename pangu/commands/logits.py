"""Logits of a model for given token ids, so that any other implementation can be compared with this one.

    python -m pangu logits model.yaml --weights weights.safetensors --ids ids.npy --out logits.npy --eod 9

IDS is int32 [B, S], the output float32 [B, S, V].

--eod ID   documents end with this id: positions and attention start again after it, as in training
--pad ID   with --eod: padding, which training hides from the loss and not from attention, so it changes no logit;
           without --eod: the network of evaluation, where this id neither sees nor is seen
"""

import argparse
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from pangu.commands.model_arguments import add_device_argument
from pangu.foundation.atomic_file import atomic_file, check_not_read
from pangu.foundation.best_effort import reason_of
from pangu.foundation.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="model.yaml, or the name of a size")
    parser.add_argument("--weights", required=True, help="a run, a checkpoint, or weights of any form")
    parser.add_argument("--ids", required=True, help=".npy file, int [B, S]")
    parser.add_argument("--out", required=True, help=".npy file to write, float32 [B, S, V]")
    parser.add_argument("--eod", type=int, help="id that ends a document")
    parser.add_argument("--pad", type=int, help="id of padding")
    parser.add_argument("--dtype", choices=["fp32", "fp16"], help="compute dtype (default: the model's)")
    add_device_argument(parser)


def read_ids(path: str, vocab_size: int, seq_length: int) -> np.ndarray:
    """Return int32 [B, S], checked."""
    try:
        ids = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UserError(f"{path}: cannot be read as .npy: {reason_of(error)}") from None
    if not isinstance(ids, np.ndarray) or ids.ndim != 2 or ids.dtype.kind not in "iu" or not ids.size:
        raise UserError(f"{path}: must be integers of shape [B, S], not {getattr(ids, 'dtype', type(ids))}")
    if ids.shape[1] > seq_length:
        raise UserError(f"{path}: rows have {ids.shape[1]} ids; the model's seq_length is {seq_length}")
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise UserError(f"{path}: ids must be in 0..{vocab_size - 1}; found {ids.min()}..{ids.max()}")
    return ids.astype(np.int32)


def run(arguments: argparse.Namespace) -> int:
    from pangu.config import load_size

    check_not_read(Path(arguments.out), arguments.ids, arguments.weights)
    config = load_size(arguments.model)
    if arguments.dtype:
        config = config.model_copy(update={"compute_dtype": arguments.dtype})
    if config.experts and config.experts.by_domain:
        raise UserError(f"{arguments.model}: experts are chosen by domain, which ids do not say; cut one out first")
    ids = read_ids(arguments.ids, config.vocab_size, config.seq_length)
    for name in ("eod", "pad"):
        given = getattr(arguments, name)
        if given is not None and not 0 <= given < config.vocab_size:
            raise UserError(f"--{name} {given}: ids are 0 to {config.vocab_size - 1}")

    from pangu.checkpoint.open import meant_checkpoint
    from pangu.checkpoint.weights import open_weights, read_weights
    from pangu.device import use_device
    from pangu.model.network import build

    weights = read_weights(open_weights(meant_checkpoint(Path(arguments.weights))))
    use_device(arguments.device)
    import mindspore as ms

    from pangu.model.attention_mask import CausalMask

    network = build(config, weights)
    network.set_train(False)
    mask = CausalMask(arguments.eod, arguments.pad if arguments.eod is None else None, config.attention)
    rows = []
    for row in ids:  # one at a time: the memory of one row's logits beyond the output
        tokens = ms.Tensor(row[None])
        positions, bias = mask(tokens)
        rows.append(network(tokens, positions, positions, bias, ms.Tensor(0, ms.int32)).asnumpy())
    with atomic_file(Path(arguments.out)) as file:
        np.save(file, np.concatenate(rows).astype(np.float32))
    return 0
