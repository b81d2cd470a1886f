"""Say where to search: the space of a file's model, cluster and framework, within limits of the user's."""

from collections.abc import Sequence

from pangu.foundation.errors import UserError
from parallel_strategy.search.executable import keep_to_framework
from parallel_strategy.search.shapes import Space
from parallel_strategy.spec.strategy import Setup

LONG_SEQUENCE = 8192  # from here on context parallelism is tried unasked


def space_of(
    setup: Setup,
    *,
    devices: int | None = None,
    tp: Sequence[int] = (),
    pp: Sequence[int] = (),
    cp: Sequence[int] | None = None,
    ep: Sequence[int] = (),
    micro: Sequence[int] = (),
    zero: Sequence[int] | None = None,
    schedules: Sequence[str] | None = None,
    on_device: bool = False,
    beyond: bool = False,
) -> Space:
    """Return the space to search. Raises UserError for a limit that means nothing.

    devices: None: as many as the file's mesh has. Empty lists and None do not limit. on_device: nothing on the host.
    beyond: also what the framework cannot execute.
    """
    if devices is not None and devices < 1:
        raise UserError(f"--devices {devices}: must be at least 1")
    devices = devices or setup.strategy.mesh.devices
    if devices > setup.cluster.device_count:
        raise UserError(f"--devices {devices}: the cluster {setup.cluster.name!r} has {setup.cluster.device_count}")
    space = Space(
        devices,
        setup.strategy.batch.global_,
        tp=list(tp),
        pp=list(pp),
        cp=list(cp or ([1, 2, 4, 8] if setup.model.seq_length >= LONG_SEQUENCE else [1])),
        ep=list(ep),
        micro=list(micro),
    )
    if zero is not None:
        space.zero = sorted(set(zero))
    if on_device:
        space.offload, space.activation = [False], [0.0]
    if schedules:
        keep_schedules(space, schedules)
    return space if beyond else keep_to_framework(setup, space)


def keep_schedules(space: Space, names: Sequence[str]) -> None:
    """Leave only these schedules. Raises UserError for an unknown one, and where none has a closed form."""
    known = [*space.schedules, *space.simulated]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"--schedules {unknown[0]}: is not one of {', '.join(known)}")
    space.simulated = [name for name in space.simulated if name in names]
    space.schedules = [name for name in space.schedules if name in names]
    if not space.schedules:
        raise UserError(
            f"--schedules {' '.join(names)}: these can only be simulated, on strategies that another one ranks first; "
            f"add one of {', '.join(Space(1, 1).schedules)}"
        )
