"""The process that MindSpore's dry-run runs in: what it finds in its environment. Ours stays as it is."""

import os
from pathlib import Path

from parallel_strategy.mindspore.dryrun.stand_in import build, installed_cann, mindspore_folder


def environment(rank: int, devices: int, graphs: Path) -> dict[str, str]:
    """Return variables for rank `rank` of `devices`, which writes the graphs it compiles below `graphs`.

    Builds the stand-in for CANN where that is needed. Raises UserError where a dry-run cannot be had.
    """
    variables = dict(os.environ)
    # The package is run from where it stands, also when it is not installed.
    places = [str(Path(__file__).resolve().parents[3])]
    if installed_cann() is None:
        stand_in = build()
        library = mindspore_folder() / "lib"
        ascend = library / "plugin" / "ascend"
        shared_memory = ascend / "ms_kernels_symmetric_memory" / "shmem" / "shmem" / "lib"
        libraries = [stand_in / "cann" / "lib64", library, library / "plugin", ascend, shared_memory]
        variables["LD_LIBRARY_PATH"] = _joined([*map(str, libraries), variables.get("LD_LIBRARY_PATH", "")])
        places.append(str(stand_in / "python"))
    variables["PYTHONPATH"] = _joined([*places, variables.get("PYTHONPATH", "")])
    variables |= {
        "MS_SIMULATION_LEVEL": "0",
        "RANK_ID": str(rank),
        "RANK_SIZE": str(devices),
        "MS_DEV_SAVE_GRAPHS": "2",
        "MS_DEV_SAVE_GRAPHS_PATH": str(graphs),
        "MS_DEV_DUMP_IR_PASSES": "validate",
        "GLOG_v": "3",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": variables.get("PYTHONDONTWRITEBYTECODE", "1"),
    }
    return variables


def _joined(parts: list[str]) -> str:
    return os.pathsep.join(part for part in parts if part)
