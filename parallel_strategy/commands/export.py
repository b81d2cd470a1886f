"""Write a strategy for those who launch it: MindSpore's strategy files, group files, rank table, msrun's command,
MindFormers' YAML, and Megatron's arguments.

example:
  python -m parallel_strategy export strategy.yaml --out exported
  python -m parallel_strategy export strategy.yaml --out exported --hosts hosts.txt
  python -m parallel_strategy export strategy.yaml --show megatron.txt

parameters/strategy_N.ckpt          the layout of every parameter of stage N, for MindSpore's checkpoint functions
operators/by_parameter_N.json       operator strategies that name an operator after its parameter
operator_strategy.json              the same under MindSpore's names of operators (needs --skeleton)
groups/rank_R.pb                    the communication groups of rank R
rank_table.json                     HCCL, version 1.0; --hosts: a line a server, ADDRESS DEVICE_ADDRESS...
msrun.sh                            starts the processes of one node, with their environment
mindformers.yaml, megatron.txt      the same strategy for others
"""

import argparse
import json
import sys
from pathlib import Path

from pangu.foundation.best_effort import print_translated
from parallel_strategy.arguments import add_strategy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_strategy(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="directory to write into")
    what.add_argument("--show", metavar="FILE", help="print one file instead")
    parser.add_argument("--hosts", type=Path, help="addresses of the servers and of their devices' network cards")
    parser.add_argument("--skeleton", type=Path, help="operator strategy file that MindSpore wrote for the network")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def run(arguments: argparse.Namespace) -> int:
    from pangu.foundation.errors import UserError
    from parallel_strategy.export.files import export, write
    from parallel_strategy.loading import load_setup
    from parallel_strategy.spec.capability import check_executed

    setup = load_setup(arguments.strategy, check_executed, changes=arguments.set)
    exported = export(setup, str(Path(arguments.strategy).absolute()), arguments.hosts, arguments.skeleton)
    if arguments.show:
        if arguments.show not in exported.files:
            raise UserError(f"--show {arguments.show}: is none of {', '.join(sorted(exported.files)[:12])} …")
        sys.stdout.buffer.write(exported.files[arguments.show])
        return 0
    write(exported, arguments.out)
    if arguments.json:
        print(json.dumps({"files": sorted(exported.files), "notes": exported.notes}))
        return 0
    folders: dict[str, int] = {}
    for name in exported.files:
        place = name.split("/")[0]
        folders[place] = folders.get(place, 0) + 1
    for place, count in folders.items():
        print_translated(f"wrote {arguments.out / place}" + (f" ({count} files)" if count > 1 else ""))
    for note in exported.notes:
        print_translated(f"note: {note}")
    return 0
