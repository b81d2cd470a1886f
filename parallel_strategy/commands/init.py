"""Write a commented strategy file to start from; with --copy-presets also the model's, the cluster's and the
framework's, to edit. --like starts from a strategy that ships, as the paper's for 200B.

An editor checks and completes these files with the schemas that --schema writes: the first line of a file then is
`# yaml-language-server: $schema=schemas/strategy.schema.json`.

example:
  python -m parallel_strategy init strategy.yaml
  python -m parallel_strategy init --list
  python -m parallel_strategy init schemas --schema
  python -m parallel_strategy init paper.yaml --like pangu-alpha-200b-paper
  python -m parallel_strategy init strategy.yaml --model pangu-alpha-13b --cluster atlas-800t-a2-910b2
"""

import argparse
import json

from parallel_strategy.spec.file import SpecFile

TEMPLATE = """\
# How a model is laid over a cluster. Every value can be edited; `predict` says what it costs.
version: 1
model: {{preset: {model}{dtype}}}  # or {{file: model.yaml}}; seq and dtype override the model's
cluster: {{preset: {cluster}}}  # or {{file: cluster.yaml}}
framework: {framework}  # what the software adds: kernels, overlap, host time; or framework.yaml
batch: {{global: {batch}, micro: 1}}  # sequences per step; per micro-batch on one data-parallel rank
# order: outermost axis first; the last one is innermost, inside a server. Also cp (context) and ep (experts)
mesh: {{pp: 1, dp: {dp}, tp: {tp}, order: [pp, dp, tp]}}
# {schedules};
# stages: [layers of each] for uneven ones; vpp: chunks of layers on each stage
pipeline: {{schedule: 1f1b, vpp: 1}}
# interleave: 2 runs a micro-batch as two halves, one's collectives beside the other's computation
tensor: {{sequence_parallel: false, vocab: split, interleave: 1}}
# level 1: optimizer states, 2: and gradients, 3: and weights are sharded over dp, or over weight_shard_size ranks
# bucket_mb: gradients are fused into collectives of this size
zero: {{optimizer_shard: true, level: 1, weight_shard_size: -1}}
recompute: {{mode: full}}  # none, selective (attention only), full; per_stage: [layers of each stage]
offload: {{optimizer: {offload}, activation: 0}}  # Adam on the host; share of the activations that waits there
overrides: []  # operators sharded otherwise: {{operator: pattern, strategy: [[..], [..]]}}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("strategy", nargs="?", help="file to write")
    parser.add_argument("--like", metavar="STRATEGY", help="a strategy that ships; `--list` shows them")
    parser.add_argument("--model", default="pangu-alpha-2.6b", help="preset; `--list` shows them")
    parser.add_argument("--cluster", default="atlas-800-910a", help="preset")
    parser.add_argument("--framework", default="mindspore", help="preset")
    parser.add_argument(
        "--copy-presets", action="store_true", help="also write model.yaml, cluster.yaml and framework.yaml beside it"
    )
    parser.add_argument("--force", action="store_true", help="overwrite")
    parser.add_argument("--list", action="store_true", help="the presets, and nothing else")
    parser.add_argument(
        "--schema", action="store_true", help="JSON schemas of all four kinds of file, into this directory"
    )


def run(arguments: argparse.Namespace) -> int:
    from pathlib import Path
    from typing import get_args

    from pangu.foundation.errors import UserError
    from parallel_strategy.report.output import write_whole
    from parallel_strategy.spec.cluster import ClusterSpec
    from parallel_strategy.spec.even_parts import uneven_parts
    from parallel_strategy.spec.framework import FrameworkSpec
    from parallel_strategy.spec.model import ModelSpec
    from parallel_strategy.spec.schema import SCHEMAS, schema_of
    from parallel_strategy.spec.strategy import Schedule, StrategySpec

    if arguments.strategy is None and not arguments.list:
        raise UserError("init: give the file to write, or --list")
    if arguments.schema:
        for name, kind in SCHEMAS.items():
            target = Path(arguments.strategy) / f"{name}.schema.json"
            write_whole(target, json.dumps(schema_of(kind), indent=1) + "\n")
            print(f"wrote {target}")
        return 0
    if arguments.list:
        kinds: dict[str, type[SpecFile]] = {
            "models": ModelSpec, "clusters": ClusterSpec, "frameworks": FrameworkSpec, "strategies": StrategySpec,
        }  # fmt: skip
        for title, kind in kinds.items():
            print(f"{title}: {', '.join(kind.preset_names())}")
        return 0
    model, cluster = ModelSpec.preset(arguments.model), ClusterSpec.preset(arguments.cluster)
    FrameworkSpec.preset(arguments.framework)
    tp = min(cluster.topology[0].size, 8)

    def is_even(tp: int) -> bool:
        return model.num_heads % tp == 0 and not any(uneven_parts(model, tp, 1, sequence_parallel=False))

    while not is_even(tp):
        tp //= 2
    devices = max(tp, min(cluster.devices_per_server, cluster.device_count))
    wider = [size for size in (2 * tp, 4 * tp) if is_even(size) and size <= min(devices, 8)]
    # The first that fits; else what one would begin with.
    dtype = cluster.device.nearest_dtype(model.compute_dtype)
    layouts = [(size, "false") for size in (tp, *wider)] + [(size, "true") for size in (tp, *wider)]
    texts = [
        TEMPLATE.format(
            model=arguments.model,
            dtype="" if dtype == model.compute_dtype else f", dtype: {dtype}",
            cluster=arguments.cluster,
            framework=arguments.framework,
            tp=size,
            dp=max(1, devices // size),
            batch=16 * max(1, devices // size),
            offload=offload,
            schedules=", ".join(get_args(Schedule)),
        )
        for size, offload in layouts
    ]
    text = next(filter(_fits, texts), texts[0])
    path = Path(arguments.strategy)
    if arguments.like is not None:
        StrategySpec.preset(arguments.like)
        text = _preset_text(StrategySpec, arguments.like)
    files = {path: text}
    if arguments.copy_presets:
        if arguments.like is not None:
            raise UserError("init: give --like or --copy-presets, not both")
        for name, chosen, kind in (
            ("model", arguments.model, ModelSpec),
            ("cluster", arguments.cluster, ClusterSpec),
            ("framework", arguments.framework, FrameworkSpec),
        ):
            files[path.parent / f"{name}.yaml"] = _preset_text(kind, chosen)
            text = text.replace(f"{name}: {{preset: {chosen}}}", f"{name}: {{file: {name}.yaml}}")
            text = text.replace(f"or {{file: {name}.yaml}}", f"or {{preset: {chosen}}}")
        text = text.replace("time; or framework.yaml", f"time; or {arguments.framework}")
        files[path] = text.replace(f"framework: {arguments.framework} ", "framework: framework.yaml ")
    for target in files:
        if target.exists() and not arguments.force:
            raise UserError(f"{target}: exists; --force overwrites it")
    for target, content in files.items():
        write_whole(target, content)
        print(f"wrote {target}")
    return 0


def _fits(text: str) -> bool:
    """Return whether a strategy is legal and fits into memory."""
    from pathlib import Path

    from pangu.foundation.errors import UserError
    from parallel_strategy.predict import Prediction
    from parallel_strategy.spec.strategy import Question, StrategySpec

    try:
        return not Prediction(Question.resolve(StrategySpec.parse(text, "init"), Path())).out_of_memory
    except UserError:
        return False


def _preset_text(kind: type[SpecFile], name: str) -> str:
    return (kind.presets_directory() / f"{name}.yaml").read_text(encoding="utf-8")
