"""Write a commented strategy file to start from; with --copy-presets also the model's and the cluster's, to edit.

An editor checks and completes these files with the schemas that --schema writes: the first line of a file then is
`# yaml-language-server: $schema=schemas/strategy.schema.json`.

example:
  python -m parallel_strategy init strategy.yaml
  python -m parallel_strategy init schemas --schema
  python -m parallel_strategy init strategy.yaml --model pangu-alpha-13b --cluster atlas-800t-a2-910b2
"""

import argparse
import json

TEMPLATE = """\
# How a model is laid over a cluster. Every value can be edited; `predict` says what it costs.
version: 1
model: {{preset: {model}}}                # or {{file: model.yaml}}; seq and dtype override the model's
cluster: {{preset: {cluster}}}            # or {{file: cluster.yaml}}
framework: {framework}                   # what the software adds: kernels, overlap, host time
batch: {{global: {batch}, micro: 1}}          # sequences per step; per micro-batch on one data-parallel rank
mesh: {{pp: 1, dp: {dp}, tp: {tp}, order: [pp, dp, tp]}}   # order: the last axis is innermost, inside a server
pipeline: {{schedule: 1f1b, vpp: 1}}       # {schedules}; stages: [..] for uneven ones
tensor: {{sequence_parallel: false, vocab: split}}
zero: {{optimizer_shard: true, level: 1}}  # 1: optimizer states, 2: and gradients, 3: and weights are sharded over dp
recompute: {{mode: full}}                 # none, selective (attention only), full; per_stage: [layers of each stage]
offload: {{optimizer: false, activation: 0}}
overrides: []                            # operators sharded otherwise: {{operator: pattern, strategy: [[..], [..]]}}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("strategy", help="file to write")
    parser.add_argument("--model", default="pangu-alpha-2.6b", help="preset; `--list` shows them")
    parser.add_argument("--cluster", default="atlas-800-910a", help="preset")
    parser.add_argument("--framework", default="mindspore", help="preset")
    parser.add_argument("--copy-presets", action="store_true", help="also write model.yaml and cluster.yaml beside it")
    parser.add_argument("--force", action="store_true", help="overwrite")
    parser.add_argument("--list", action="store_true", help="the presets, and nothing else")
    parser.add_argument(
        "--schema", action="store_true", help="JSON schemas of all four kinds of file, into this directory"
    )


def run(arguments: argparse.Namespace) -> int:
    from pathlib import Path
    from typing import get_args

    from parallel_strategy.errors import UserError
    from parallel_strategy.report.output import write_whole
    from parallel_strategy.spec.cluster import ClusterSpec
    from parallel_strategy.spec.framework import FrameworkSpec
    from parallel_strategy.spec.model import ModelSpec
    from parallel_strategy.spec.schema import SCHEMAS, schema_of
    from parallel_strategy.spec.strategy import Schedule

    if arguments.schema:
        for name, kind in SCHEMAS.items():
            target = Path(arguments.strategy) / f"{name}.schema.json"
            write_whole(target, json.dumps(schema_of(kind), indent=1) + "\n")
            print(f"wrote {target}")
        return 0
    if arguments.list:
        for title, kind in (("models", ModelSpec), ("clusters", ClusterSpec), ("frameworks", FrameworkSpec)):
            print(f"{title}: {', '.join(kind.preset_names())}")
        return 0
    model, cluster = ModelSpec.preset(arguments.model), ClusterSpec.preset(arguments.cluster)
    FrameworkSpec.preset(arguments.framework)
    tp = min(cluster.topology[0].size, 8)
    while model.num_heads % tp:
        tp //= 2
    dp = max(1, min(cluster.devices_per_server, cluster.device_count) // tp)
    text = TEMPLATE.format(
        model=arguments.model,
        cluster=arguments.cluster,
        framework=arguments.framework,
        tp=tp,
        dp=dp,
        batch=16 * dp,
        schedules=", ".join(get_args(Schedule)),
    )
    path = Path(arguments.strategy)
    files = {path: text}
    if arguments.copy_presets:
        files[path.parent / "model.yaml"] = (ModelSpec.presets_directory() / f"{arguments.model}.yaml").read_text(
            encoding="utf-8"
        )
        files[path.parent / "cluster.yaml"] = (ClusterSpec.presets_directory() / f"{arguments.cluster}.yaml").read_text(
            encoding="utf-8"
        )
        files[path] = text.replace(f"{{preset: {arguments.model}}}", "{file: model.yaml}").replace(
            f"{{preset: {arguments.cluster}}}", "{file: cluster.yaml}"
        )
    for target in files:
        if target.exists() and not arguments.force:
            raise UserError(f"{target}: exists; --force overwrites it")
    for target, content in files.items():
        write_whole(target, content)
        print(f"wrote {target}")
    return 0
