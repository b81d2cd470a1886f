"""Weights from one form into another; what the input is, is found out.

  512 released shards   a directory of filerted_0.ckpt … with the three .npy, and --strategy
  MindSpore             a .ckpt file
  safetensors           a file, or a directory or index of several; our names or the PyTorch port's
  PyTorch               pytorch_model.bin, or a directory or index of several (PyTorch itself is not needed)

  a run of ours         its directory (the newest whole checkpoint), or a step-* directory

The output says its whole network: in the safetensors header, in the .ckpt as a string, and with --model-yaml in a file.
The input is only ever read. The output appears when it is whole, and its SHA-256 is printed.

python -m pangu convert checkpoint_file/ --strategy strategy.ckpt --to safetensors --out pangu-2.6B.safetensors
python -m pangu convert pangu-2.6B.safetensors --to mindspore --out pangu-2.6B.ckpt --dtype fp16
python -m pangu convert pytorch_model.bin --to safetensors --out model.safetensors --model-yaml
python -m pangu convert pangu-2.6B.safetensors --to safetensors --out pangu-2.6B-int8.safetensors --quantize int8

python -m pangu convert runs/first --to safetensors --out experts.safetensors --experts 8 --routing hash
python -m pangu convert runs/demix --to safetensors --out laws.safetensors --cut-domain laws
--context 2048 stretches the tables of positions by interpolation; train the result on with rows of that length.

--quantize writes int8 or int4 matrices that `generate` computes with as they are; such a file as INPUT is converted
back to full precision.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from pangu.checkpoint.open import BEST, MODEL_FILE, STATE, meant_checkpoint
from pangu.checkpoint.weights import load_for_inference, model_of, open_weights
from pangu.config import ExpertsConfig, ModelConfig, load_size
from pangu.formats.conversion import SUFFIXES, Conversion, make_plan
from pangu.formats.longer_context import LongerContext
from pangu.formats.open_source import open_source
from pangu.formats.source import Source
from pangu.formats.write_output import OutputFile, check_output, write_output
from pangu.foundation.best_effort import print_translated
from pangu.foundation.errors import UserError
from pangu.foundation.progress import Progress
from pangu.quantization.convert_quantized import calibration_ids, in_full_precision, write_quantized
from pangu.quantization.layers import stored_tensors
from pangu.quantization.quantized_file import METADATA, Quantization

HUGGINGFACE = "huggingface"
ROUTINGS = ExpertsConfig.model_fields["routing"].annotation.__args__  # type: ignore[union-attr]
NETWORK_WORDS = {
    "assumed": "activation, final norm and types are those of the released models: the weights say nothing of them",
    "not known": "heads, activation and types are not known, and the output does not say them: give --model",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("input", type=Path, metavar="INPUT", help="file or directory of weights")
    add("--to", required=True, choices=[*SUFFIXES, HUGGINGFACE], help="form of the output; pytorch: the port's names")
    add("--out", type=Path, metavar="FILE", help="file to write (.safetensors; .ckpt; for huggingface a directory)")
    add("--tokenizer", type=Path, metavar="DIR", help="with huggingface: goes along (default: the run's)")
    add("--strategy", type=Path, nargs="+", metavar="FILE", help="the shards' strategy file, or one of each stage")
    add("--embeddings", type=Path, metavar="DIR", help="where the three .npy are (default: with the shards)")
    add("--dtype", choices=["fp32", "fp16", "bf16"], help="convert all weights (default: keep their types)")
    add("--keep-optimizer", action="store_true", help="also adam_m.* and adam_v.*, where the input has them")
    add("--names", choices=["released", "master"], default="released", help="of the embeddings in a MindSpore file")
    add("--quantize", choices=["int8", "int4-g32"], help="the large matrices as small numbers (--to safetensors)")
    add("--method", choices=["rtn", "gptq", "smooth"], help="of --quantize (default rtn: round to nearest)")
    add("--calibrate", type=Path, metavar="CORPUS", help="packed corpus whose rows gptq and smooth look at")
    add("--calibration-rows", type=int, default=128, metavar="N", help="of the training split (default 128)")
    add("--experts", type=int, metavar="N", help="upcycle a dense model: each block's feed-forward layer N times")
    add("--routing", choices=ROUTINGS, help="of --experts (default switch, with unit_gate)")
    add("--choices", type=int, metavar="K", help="of --routing top_k (default 2)")
    add("--expert-layers", metavar="I,J", help="blocks that get experts (default: all)")
    add("--domains", metavar="A,B", help="sources of the corpus, for --routing domain and random_routed")
    add(
        "--frequencies", type=Path, metavar="CORPUS", help="packed corpus whose tokens --routing hash shares out evenly"
    )
    add("--noise", type=float, default=0.0, metavar="X", help="of the copies, in standard deviations (e.g. 0.01)")
    add("--seed", type=int, default=1, metavar="N", help="of routers, tables and noise (default 1)")
    add("--cut-domain", metavar="NAME", help="of a model with experts by domain: that domain's, as a model of its own")
    add(
        "--context", type=int, metavar="N", help="stretch the tables of positions to N rows, to train on with long rows"
    )
    add("--model-yaml", action="store_true", help=f"also write {MODEL_FILE} beside the output")
    add("--model", metavar="MODEL", help="model.yaml or size of weights that do not say their network themselves")
    add("--best", action="store_true", help="of a run the checkpoint with the lowest validation loss")
    add("--heads", type=int, metavar="N", help="of weights that do not say it; the rest is as in the released models")
    add("--overwrite", action="store_true", help="replace files that exist")
    add("--dry-run", action="store_true", help="check the input, list what would be written, write nothing")
    add("--json", action="store_true", help="print the summary as JSON")


def run(arguments: argparse.Namespace) -> int:
    if arguments.best:
        arguments.input = arguments.input / BEST
    if arguments.to == HUGGINGFACE:
        return to_huggingface(arguments)
    if arguments.tokenizer:
        raise UserError("--tokenizer: goes with --to huggingface")
    out = arguments.out
    if out is None and not arguments.dry_run:
        raise UserError("--out FILE says where to write; --dry-run only looks")
    if out is not None and out.suffix != SUFFIXES[arguments.to]:
        raise UserError(f"{out}: --to {arguments.to} writes a {SUFFIXES[arguments.to]} file")
    if arguments.names == "master" and arguments.to != "mindspore":
        raise UserError("--names master goes with --to mindspore")
    check_quantize(arguments)
    check_experts(arguments)
    if arguments.context is not None and arguments.keep_optimizer:
        raise UserError("--keep-optimizer does not go with --context: Adam's moments are of the shorter tables")
    arguments.input = meant_checkpoint(arguments.input)
    with open_input(arguments) as source:
        return convert(source, arguments)


def to_huggingface(arguments: argparse.Namespace) -> int:
    """Write a directory that transformers loads."""
    from pangu.formats.huggingface.export import write_directory

    for flag in (
        "keep_optimizer",
        "model_yaml",
        "overwrite",
        "strategy",
        "embeddings",
        "quantize",
        "dry_run",
        "experts",
        "cut_domain",
        "context",
    ):
        if getattr(arguments, flag):
            raise UserError(f"--{flag.replace('_', '-')} does not go with --to {HUGGINGFACE}")
    if arguments.out is None:
        raise UserError("--out DIR says where to write")
    path = meant_checkpoint(arguments.input)
    model, weights, place = load_for_inference(path, arguments.model, arguments.tokenizer)
    if arguments.heads is not None:
        model = ModelConfig.from_fields(model.model_dump() | {"num_heads": arguments.heads}, "--heads")
    total = sum(weight.nbytes for weight in weights.values())
    with progress_bar(total, arguments.out.name) as advance:
        size = write_directory(arguments.out, model, weights, place, arguments.dtype, advance)
    architecture = "PanguAlphaForCausalLM" if model.query_layer else "GPT2LMHeadModel"
    if arguments.json:
        summary = {"input": str(path), "output": str(arguments.out), "bytes": size, "architecture": architecture}
        print(json.dumps(summary | {"tokenizer": str(place) if place else None}, indent=1))
    else:
        print_translated(
            f"wrote    {arguments.out}: {architecture}, {model.num_parameters:,} parameters, {size:,} bytes"
        )
        if place is None:
            print_translated("without a tokenizer: none lies with the weights; --tokenizer DIR takes one along")
    return 0


def check_quantize(arguments: argparse.Namespace) -> None:
    """Raise UserError where options of --quantize contradict one another."""
    if not arguments.quantize:
        wrong = "--method" if arguments.method else "--calibrate" if arguments.calibrate else None
        if wrong:
            raise UserError(f"{wrong} goes with --quantize")
        return
    arguments.method = arguments.method or "rtn"
    if arguments.to != "safetensors":
        raise UserError("--quantize writes --to safetensors")
    for flag in ("dtype", "keep_optimizer"):
        if getattr(arguments, flag):
            raise UserError(f"--{flag.replace('_', '-')} does not go with --quantize")
    if (arguments.method == "rtn") != (arguments.calibrate is None):
        raise UserError("--method gptq and smooth need --calibrate CORPUS, and rtn looks at no corpus")
    if arguments.calibration_rows < 1:
        raise UserError("--calibration-rows must be at least 1")


def check_experts(arguments: argparse.Namespace) -> None:
    """Raise UserError where options of --experts contradict one another."""
    for name in ("routing", "choices", "expert_layers", "domains", "frequencies", "noise"):
        if getattr(arguments, name) and arguments.experts is None:
            raise UserError(f"--{name.replace('_', '-')} goes with --experts")
    if arguments.experts is not None and arguments.cut_domain:
        raise UserError("--cut-domain does not go with --experts")
    if (arguments.experts is not None or arguments.cut_domain) and arguments.keep_optimizer:
        raise UserError("--keep-optimizer does not go with --experts and --cut-domain: other weights need new moments")
    if not 0 <= arguments.noise < 1:
        raise UserError(f"--noise {arguments.noise:g}: must be 0 to 1 standard deviations, e.g. 0.01")
    if arguments.frequencies and arguments.routing != "hash":
        raise UserError("--frequencies goes with --routing hash")


def with_experts(source: Source, said: ModelConfig | None, arguments: argparse.Namespace) -> tuple[Source, ModelConfig]:
    """Return a source of the weights as those of another network, and that network."""
    from pangu.formats.upcycle import Upcycled, cut_out
    from pangu.training.expert_table import expert_table  # only here, for it reads with MindSpore

    if said is None:
        raise UserError(f"{source.path}: does not say its network: give --model, a model.yaml or the name of a size")
    if arguments.cut_domain:
        return cut_out(source, said, arguments.cut_domain, source.path)
    if said.experts:
        raise UserError(f"{source.path}: has experts already")
    routing = arguments.routing or "switch"
    layers = arguments.expert_layers
    fields = {"count": arguments.experts, "routing": routing, "unit_gate": routing == "switch"}
    fields |= {"choices": arguments.choices} if arguments.choices else {}
    fields |= {"layers": numbers(layers)} if layers else {}
    fields |= {"domains": arguments.domains.split(",")} if arguments.domains else {}
    model = ModelConfig.from_fields(said.model_dump() | {"experts": fields}, "--experts")
    table = None
    if model.experts and model.experts.table_rows:
        table = expert_table(model, arguments.seed, split_of(arguments.frequencies, model))
    return Upcycled(source, model, table, arguments.noise, arguments.seed), model


def numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--expert-layers {text}: must be numbers of blocks, such as 1,3") from None


def split_of(corpus: Path | None, model: ModelConfig):  # type: ignore[no-untyped-def]
    """Return the training split of a packed corpus whose ids the model knows."""
    if corpus is None:
        return None
    from pangu.training.data import PackedData

    data = PackedData.load(corpus)
    if data.vocab_size > model.vocab_size:
        raise UserError(f"--frequencies {corpus}: has {data.vocab_size} ids, the model {model.vocab_size}")
    return data.split("train")


def open_input(arguments: argparse.Namespace) -> Source:
    """Open what is to be converted: a checkpoint of a run is compared with its checksums."""
    if (arguments.input / STATE).is_file():
        if arguments.strategy or arguments.embeddings:
            raise UserError("--strategy and --embeddings: a checkpoint of a run says itself how it is split")
        return open_weights(arguments.input)
    source = open_source(arguments.input, arguments.strategy, arguments.embeddings)
    if arguments.quantize and METADATA in source.metadata:
        raise UserError(f"{source.path}: is quantised already; convert the weights in full precision")
    return in_full_precision(source)


def convert(source: Source, arguments: argparse.Namespace) -> int:
    out = arguments.out
    said = load_size(arguments.model) if arguments.model else model_of(arguments.input, source)
    if arguments.experts is not None or arguments.cut_domain:
        source, said = with_experts(source, said, arguments)
    if arguments.context is not None:
        source = LongerContext(source, arguments.context)
        said = said and said.model_copy(update={"seq_length": arguments.context})
    master_names = arguments.names == "master"
    plan = make_plan(source, arguments.to, arguments.dtype, arguments.keep_optimizer, master_names, said)
    plan = with_network(plan, arguments)
    config = plan.model if arguments.model_yaml else None
    quantization = Quantization.of(arguments.quantize, arguments.method) if arguments.quantize else None
    summary, total = describe(plan), plan.nbytes
    if quantization:
        stored = [info for _, info in stored_tensors(plan.shape, quantization)]
        total = sum(info.nbytes for info in stored)
        dtypes = sorted({info.data_type.name for info in stored if info.data_type})
        summary |= {"quantization": quantization.dump(), "tensors": len(stored), "dtypes": dtypes}
    if out is not None:
        check_output(out, plan, total, arguments.overwrite)
        if arguments.model_yaml:
            check_model_file(out.parent / MODEL_FILE, arguments.overwrite)
    if arguments.dry_run:
        report_dry_run(plan, summary, total, arguments.json)
        return 0
    started = time.monotonic()
    with progress_bar(total, out.name) as advance:
        if quantization:
            ids = sample_rows(arguments.calibrate, arguments.calibration_rows, plan)
            size, checksum = write_quantized(plan, quantization, out, ids, advance)
        else:
            size, checksum = write_output(plan, out, advance)
    seconds = time.monotonic() - started
    summary |= {"output": str(out), "bytes": size, "sha256": checksum, "seconds": round(seconds, 3)}
    if arguments.model_yaml and config is not None:
        write_model_file(config, out.parent / MODEL_FILE)
        summary["model_yaml"] = str(out.parent / MODEL_FILE)
    if arguments.json:
        print(json.dumps(summary, indent=1, ensure_ascii=False))
    else:
        print_summary(summary)
    return 0


def sample_rows(corpus: Path | None, count: int, plan: Conversion) -> np.ndarray | None:
    """Return the first rows of a packed corpus's training split, int [rows, tokens]."""
    if corpus is None:
        return None
    if plan.model is None:
        raise UserError("--calibrate needs the network: give --model, a model.yaml or the name of a size")
    from pangu.training.data import PackedData  # only here, for it reads with MindSpore

    split = PackedData.load(corpus).split("train")
    batches = list(split.read(np.arange(min(count, split.samples)), 32))
    return calibration_ids(np.concatenate(batches), plan.model, str(corpus))


def with_network(plan: Conversion, arguments: argparse.Namespace) -> Conversion:
    """Return the plan with the network of weights that do not say it: of a known size, or as --heads completes it.

    Raises UserError where it must be known and is not, and where --heads contradicts what is known.
    """
    if plan.model is not None:
        if arguments.heads not in (None, plan.model.num_heads):
            raise UserError(f"--heads {arguments.heads}: the model has {plan.model.num_heads}; leave it out")
        return plan
    try:
        return replace(plan, model=plan.shape.config(arguments.heads, plan.final_norm), is_assumed=True)
    except UserError:
        if arguments.model_yaml or arguments.heads is not None:
            raise
        return plan


def describe(plan: Conversion) -> dict[str, object]:
    """Return what is known before writing."""
    shape = plan.shape
    return {
        "input": str(plan.source.path),
        "form": plan.source.form,
        "to": plan.target,
        "tensors": len(plan.tensors),
        "parameters": plan.num_parameters,
        "dtypes": sorted({tensor.info.data_type.name for tensor in plan.tensors if tensor.info.data_type}),
        "model": {
            "num_layers": shape.num_layers,
            "hidden_size": shape.hidden_size,
            "ffn_hidden_size": shape.ffn_hidden_size,
            "seq_length": shape.seq_length,
            "vocab_size": shape.vocab_size,
            "query_layer": shape.query_layer,
            "final_norm": plan.final_norm,
        },
        "network": "not known" if plan.model is None else "assumed" if plan.is_assumed else "known",
        "config": plan.model.model_dump(mode="json") if plan.model else None,
        "left_out": plan.left_out,
    }


def report_dry_run(plan: Conversion, summary: dict[str, object], total: int, as_json: bool) -> None:
    listing = [
        {
            "from": tensor.source,
            "to": tensor.target,
            "dtype": tensor.info.data_type.name if tensor.info.data_type else "",
            "shape": list(tensor.info.shape),
            "transposed": tensor.transpose,
        }
        for tensor in plan.tensors
    ]
    if as_json:
        print(json.dumps(summary | {"bytes": total, "steps": listing}, indent=1, ensure_ascii=False))
        return
    for row in listing:
        change = "  transposed" if row["transposed"] else ""
        print(f"{row['from']} -> {row['to']}  {row['dtype']} {row['shape']}{change}")
    print_summary(summary)
    print_translated(f"would write {total / 1e9:.3f} GB of tensors; nothing was written")


def print_summary(summary: dict) -> None:
    model = summary["model"]
    layers = f"{model['num_layers']} layers" + (", one of them the query layer" if model["query_layer"] else "")
    print_translated(f"read     {summary['input']}: {summary['form']}")
    print_translated(f"model    {layers}; hidden {model['hidden_size']}, ffn {model['ffn_hidden_size']}, ", end="")
    print_translated(
        f"seq {model['seq_length']}, vocabulary {model['vocab_size']}; {summary['parameters']:,} parameters"
    )
    if summary["left_out"]:
        shown = ", ".join(summary["left_out"][:4])
        more = f" and {len(summary['left_out']) - 4} more" if len(summary["left_out"]) > 4 else ""
        print_translated(f"left out {len(summary['left_out'])} tensors that are no weights: {shown}{more}")
    if "sha256" in summary:
        rate = summary["bytes"] / 1e6 / max(summary["seconds"], 1e-3)
        print_translated(
            f"wrote    {summary['output']}: {summary['tensors']} tensors, {'/'.join(summary['dtypes'])}, ", end=""
        )
        print_translated(f"{summary['bytes']:,} bytes in {summary['seconds']:.1f} s ({rate:,.0f} MB/s)")
        print(f"sha256   {summary['sha256']}")
    if summary["network"] != "known":
        print_translated(f"network  {NETWORK_WORDS[summary['network']]}")
    if "model_yaml" in summary:
        print_translated(f"wrote    {summary['model_yaml']}")


@contextmanager
def progress_bar(total: int, label: str) -> Iterator[Callable[[int], None]]:
    """Show the rate and the time left."""
    with Progress(label, total, unit="bytes") as progress:
        yield progress.advance


def check_model_file(path: Path, overwrite: bool) -> None:
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"{path}: already exists; convert into another directory, or give --overwrite")


def write_model_file(config: ModelConfig, path: Path) -> None:
    with OutputFile(path) as file:
        file.write(config.dump().encode())
        file.commit()
