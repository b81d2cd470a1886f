"""Which ranks a collective joins: every axis that a program's collectives name, as lists of ranks.

pp, cp, tp        the mesh's own axes
weights           the ranks that hold the same dense weights: dp x cp
weights_tp        the ranks that hold the same unsplit weights: dp x cp x tp; also `stage`
shard, replica    those ranks cut into groups that share one copy (`zero.weight_shard_size`), and across
ep, expert_dp     those ranks cut into groups that share one set of experts, and across
etp               the ranks that split each expert: tp, or where `mesh.etp` differs a part of dp x cp x tp; ep and
                  expert_dp are then the other ranks of dp x cp x tp, cut in the same way
expert_dp_tp      the ranks that hold the same unsplit weights of experts: across as above, x tp
shard_tp, replica_tp, expert_shard, expert_replica, expert_shard_tp, expert_replica_tp
                  the same cut of `weights_tp`, of `expert_dp` and of `expert_dp_tp`
embedding         the first and the last stage, which both hold a tied word table
model             all parts of one copy of the model: tp x pp
world             everyone
"""

from functools import cache

from parallel_strategy.spec.strategy import Mesh


class Groups:
    """Groups of one mesh. `shard_size`: `zero.weight_shard_size`, not positive for the whole group."""

    def __init__(self, mesh: Mesh, shard_size: int = -1) -> None:
        self.mesh, self.shard_size = mesh, shard_size
        self.sizes = {axis: getattr(mesh, axis) for axis in ("pp", "dp", "cp", "tp")}
        self.strides = {axis: mesh.stride(axis) for axis in self.sizes}
        self.members = cache(self._members)
        self.extent = cache(self._extent)

    def coordinate(self, axis: str, rank: int) -> int:
        return rank // self.strides[axis] % self.sizes[axis]

    def rank(self, **coordinates: int) -> int:
        """Return the rank at these coordinates; an axis that is not named is at 0."""
        return sum(place * self.strides[axis] for axis, place in coordinates.items())

    def ranks_of_stage(self, stage: int) -> tuple[int, ...]:
        return tuple(rank for rank in range(self.mesh.devices) if self.coordinate("pp", rank) == stage)

    def _members(self, axis: str, rank: int) -> tuple[int, ...]:
        """Return `members`: the ranks of this rank's group, in the group's own order."""
        mesh = self.mesh
        if axis in ("pp", "dp", "cp", "tp"):
            return self._varied(rank, axis)
        if axis == "weights":
            return self._varied(rank, "dp", "cp")
        if axis == "etp":
            return _block(self._varied(rank, "dp", "cp", "tp"), rank, mesh.expert_tensor)
        if axis in ("ep", "expert_dp"):
            if mesh.is_folded:
                alike = _across(self._varied(rank, "dp", "cp", "tp"), rank, mesh.expert_tensor)
            else:
                alike = self._varied(rank, "dp", "cp")
            return (_block if axis == "ep" else _across)(alike, rank, mesh.ep)
        if axis == "expert_dp_tp":
            same = self.members("expert_dp", rank)
            return tuple(sorted(other for one in same for other in self._varied(one, "tp")))
        if axis in ("shard", "replica"):
            return self._cut(axis, self.members("weights", rank), rank)
        if axis in ("expert_shard", "expert_replica"):
            return self._cut(axis.removeprefix("expert_"), self.members("expert_dp", rank), rank)
        if axis in ("weights_tp", "stage"):
            return tuple(sorted(self._varied(rank, "dp", "cp", "tp")))
        if axis in ("shard_tp", "replica_tp"):
            return self._cut(axis.removesuffix("_tp"), self.members("weights_tp", rank), rank)
        if axis in ("expert_shard_tp", "expert_replica_tp"):
            kind = axis.removeprefix("expert_").removesuffix("_tp")
            return self._cut(kind, self.members("expert_dp_tp", rank), rank)
        if axis == "embedding":
            stages = self._varied(rank, "pp")
            return (stages[0], stages[-1]) if mesh.pp > 1 else stages
        if axis == "model":
            return self._varied(rank, "pp", "tp")
        if axis == "world":
            return tuple(range(mesh.devices))
        raise ValueError(f"axis {axis!r} is unknown")

    def _extent(self, axis: str) -> tuple[int, int]:
        """Return `extent`: (size, stride in ranks) of a group, which is all that a cost model needs of it."""
        mesh, strides = self.mesh, self.strides
        weights = mesh.dp * mesh.cp
        stride = min(strides["dp"], strides["cp"]) if mesh.cp > 1 else strides["dp"]
        if axis == "weights":
            return weights, stride
        if axis == "etp" and not mesh.is_folded:
            return mesh.tp, strides["tp"]
        if mesh.is_folded:  # neighbours along dp, cp and tp lie one after another
            etp, nearest = mesh.expert_tensor, min(strides["dp"], strides["cp"], strides["tp"])
            experts, expert_stride = weights * mesh.tp // etp // mesh.ep, nearest * etp * mesh.ep
            if axis in ("etp", "ep"):
                return (etp, nearest) if axis == "etp" else (mesh.ep, nearest * etp)
        else:
            experts, expert_stride = weights // mesh.ep, strides["dp"] * max(1, mesh.ep // mesh.cp)
            if axis == "ep":
                return mesh.ep, strides["cp" if mesh.cp > 1 else "dp"]
        if axis == "expert_dp":
            return experts, expert_stride
        if axis in ("shard", "replica"):
            size = self._size(weights)
            return (size, stride) if axis == "shard" else (weights // size, stride * size)
        if axis in ("expert_shard", "expert_replica"):
            size = self._size(experts)
            return (size, expert_stride) if axis == "expert_shard" else (experts // size, expert_stride * size)
        if axis.startswith("expert_"):
            everyone = experts * mesh.tp
            least = min(expert_stride, strides["tp"]) if experts > 1 else strides["tp"]
        else:
            everyone, least = weights * mesh.tp, min(stride, strides["tp"])
        if axis in ("weights_tp", "stage", "expert_dp_tp"):
            return everyone, least
        if axis.endswith(("shard_tp", "replica_tp")):
            size = self._size(everyone)
            return (size, least) if axis.endswith("shard_tp") else (everyone // size, least * size)
        if axis == "embedding":
            return (2, (mesh.pp - 1) * strides["pp"]) if mesh.pp > 1 else (1, 1)
        if axis == "model":
            return mesh.pp * mesh.tp, min(strides["pp"], strides["tp"])
        if axis == "world":
            return mesh.devices, 1
        return self.sizes[axis], strides[axis]

    def _size(self, ranks: int) -> int:
        """Return the ranks that share one copy: the largest divisor of the group that is at most the wanted size."""
        if self.shard_size <= 0 or self.shard_size >= ranks:
            return ranks
        return max(size for size in range(1, self.shard_size + 1) if ranks % size == 0)

    def _cut(self, kind: str, ranks: tuple[int, ...], rank: int) -> tuple[int, ...]:
        size = self._size(len(ranks))
        return _block(ranks, rank, size) if kind == "shard" else _across(ranks, rank, size)

    def _varied(self, rank: int, *axes: str) -> tuple[int, ...]:
        """Return all ranks that differ from this one along `axes` only, the last axis fastest."""
        ranks = [rank - sum(self.coordinate(axis, rank) * self.strides[axis] for axis in axes)]
        for axis in axes:
            ranks = [start + place * self.strides[axis] for start in ranks for place in range(self.sizes[axis])]
        return tuple(ranks)


def _block(ranks: tuple[int, ...], rank: int, size: int) -> tuple[int, ...]:
    first = ranks.index(rank) // size * size
    return ranks[first : first + size]


def _across(ranks: tuple[int, ...], rank: int, size: int) -> tuple[int, ...]:
    return ranks[ranks.index(rank) % size :: size]
