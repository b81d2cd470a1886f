"""The table of model sizes: exact parameters, training FLOPs a token, and the memory of weights and optimizer.

python -m pangu sizes
python -m pangu sizes my-model.yaml --json
"""

import argparse
import json
from typing import Any

from pangu.config import ModelConfig, load_size, size_names

GIB = 1 << 30
# fp32 master weights, and with Adam's two fp32 moments (as the original trains: 4 + 4 + 4 bytes a parameter).
WEIGHT_BYTES, TRAINING_BYTES = 4, 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("size", nargs="*", help="names of sizes, or model.yaml files (default: all that come along)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def row(name: str, config: ModelConfig) -> dict[str, Any]:
    count = config.num_parameters
    return {
        "size": name,
        "layers": config.num_layers,
        "hidden": config.hidden_size,
        "heads": config.num_heads,
        "ffn": config.ffn_hidden_size,
        "seq": config.seq_length,
        "vocab": config.vocab_size,
        "parameters": count,
        "training_flops_per_token": config.training_flops_per_token,
        "weights_fp32_gib": round(count * WEIGHT_BYTES / GIB, 3),
        "weights_and_optimizer_gib": round(count * TRAINING_BYTES / GIB, 3),
    }


def run(arguments: argparse.Namespace) -> int:
    rows = [row(name, load_size(name)) for name in arguments.size or size_names()]
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    from pangu.foundation.terminal import StackedTable, console

    headings = ["size", "layers", "hidden", "heads", "ffn", "seq", "vocab", "parameters", "GFLOP/token", "fp32 GiB"]
    table = StackedTable(*headings, "with Adam GiB")
    for values in rows:
        *shape, parameters, flops, weights, training = values.values()
        cells = [*map(str, shape), f"{parameters:,}", f"{flops / 1e9:,.2f}", f"{weights:,.2f}", f"{training:,.2f}"]
        table.add_row(*cells)
    console().print(table)
    return 0
