"""Put an adapter into its base: weights that everything takes, without the adapter.

    python -m pangu merge work/poet --out work/poet.safetensors

The base stays as it is: to take the adapter out again, use the base.
"""

import argparse
from pathlib import Path

from pangu.foundation.best_effort import print_translated
from pangu.foundation.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", help="what `finetune` left, or a directory of PEFT's")
    parser.add_argument("--out", required=True, metavar="FILE", help=".safetensors file to write")
    parser.add_argument("--base", metavar="PATH", help="the base (default: where the adapter says)")


def run(arguments: argparse.Namespace) -> int:
    from pangu.formats.model_metadata import metadata_of
    from pangu.foundation.atomic_file import check_not_read
    from pangu.tokenizer import Tokenizer
    from pangu.tuning.adapted import load_adapted
    from pangu.tuning.adapter_file import MATRICES, base_of, is_adapter, save_tensors

    folder, out = Path(arguments.adapter), Path(arguments.out)
    if not is_adapter(folder):
        raise UserError(f"{folder}: is no adapter: it has neither tuning.json nor adapter_config.json")
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: must end with .safetensors")
    base = base_of(folder, arguments.base)
    check_not_read(out, base, *(base.rglob("*.safetensors") if base.is_dir() else ()), folder / MATRICES)
    adapted = load_adapted(folder, base)
    if not adapted.is_merged:
        raise UserError(
            f"{folder}: {adapted.method} adds to the network what its weights cannot hold; use the directory as it is"
        )
    config, weights = adapted.config, adapted.weights
    fingerprint = Tokenizer.load(adapted.tokenizer).fingerprint if adapted.tokenizer else None
    out.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(out, weights, metadata_of(config, fingerprint))
    print_translated(f"{out}: {len(weights)} weights, and the network in its header")
    return 0
