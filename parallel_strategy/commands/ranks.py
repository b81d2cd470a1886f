"""The table of ranks: coordinate in the mesh, place in the topology, and the level that each axis crosses.

example:
  python -m parallel_strategy ranks strategy.yaml
  python -m parallel_strategy ranks strategy.yaml --rank 5
"""

import argparse
import json

from pangu.foundation.best_effort import print_translated
from parallel_strategy.arguments import add_strategy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_strategy(parser)
    parser.add_argument("--rank", type=int, help="one rank, with the groups that it belongs to")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, mistakes too")


def run(arguments: argparse.Namespace) -> int:
    from pangu.foundation.errors import UserError
    from parallel_strategy.loading import load_setup
    from parallel_strategy.placement import axis_levels, group_ranks, places

    setup = load_setup(arguments.strategy, changes=arguments.set)
    mesh, cluster = setup.strategy.mesh, setup.cluster
    levels = axis_levels(mesh, cluster)
    rows = places(mesh, cluster)
    if arguments.rank is not None:
        if not 0 <= arguments.rank < len(rows):
            raise UserError(f"--rank {arguments.rank}: the mesh has ranks 0 to {len(rows) - 1}")
        rows = [rows[arguments.rank]]
    names = [level.level for level in reversed(cluster.topology)]
    if arguments.json:
        data = {
            "axes": mesh.axes,
            "levels": levels,
            "ranks": [
                {
                    "rank": p.rank,
                    "coordinate": dict(zip(mesh.axes, p.coordinate, strict=True)),
                    "device": dict(zip(names, p.device, strict=True)),
                }
                for p in rows
            ],
        }
        if arguments.rank is not None:
            data["groups"] = {axis: group_ranks(mesh, axis, arguments.rank) for axis in mesh.axes}
        print(json.dumps(data))
        return 0
    print_translated(
        "rank order, outermost axis first: "
        + ", ".join(f"{axis} ({getattr(mesh, axis)}, over {levels[axis]})" for axis in mesh.axes)
    )
    print(f"{'rank':>6}  ({', '.join(mesh.axes)})  {' / '.join(names)}")
    for place in rows:
        coordinate = ", ".join(str(x) for x in place.coordinate)
        print(f"{place.rank:>6}  ({coordinate})  {' / '.join(str(x) for x in place.device)}")
    if arguments.rank is not None:
        for axis in mesh.axes:
            print_translated(
                f"group along {axis}: {', '.join(str(rank) for rank in group_ranks(mesh, axis, arguments.rank))}"
            )
    return 0
