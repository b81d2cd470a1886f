"""Choices that are not in the priced space, tried one at a time on the strategies that it ranks first.

Each is small beside those of the space, or has no closed form: the size of the buckets that gradients are fused in, how
many ranks share one copy of the optimizer states, how the vocabulary is held, how much of the activations waits on the
host, what recomputation repeats and keeps, two halves, and the schedules that can only be simulated. A step along
one of them is taken where it fits and is faster, until none is.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pangu.foundation.errors import UserError
from parallel_strategy.cost.collective import Network
from parallel_strategy.predict import Prediction
from parallel_strategy.search.executable import is_executed
from parallel_strategy.search.shapes import Space
from parallel_strategy.spec.strategy import Setup, StrategySpec, divisors

HOST_SHARE = "activations on the host"
BUCKETS_MB = (None, 25.0, 100.0, 400.0)
HOST_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
FASTER = 0.999  # a step that gains less is not worth a line in the file
CLOSE = 1.05  # the closed form is nearer to the simulation than that
ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Alternative:
    """A strategy that differs from another in one choice; `value` and `instead_of` in words."""

    choice: str
    value: str
    instead_of: str
    strategy: StrategySpec


def alternatives(setup: Setup, space: Space) -> list[Alternative]:
    """Return all legal single steps from the setup's strategy."""
    found = []
    for choice, value, instead_of, section, fields in _changes(setup, space):
        old = setup.strategy
        changed = old.model_copy(update={section: getattr(old, section).model_copy(update=fields)})
        try:
            strategy = StrategySpec.from_fields(changed.model_dump(by_alias=True), choice)
            strategy.check_model(setup.model)
        except UserError:
            continue
        if is_executed(setup.with_strategy(strategy), space):
            found.append(Alternative(choice, value, instead_of, strategy))
    return found


def _changes(setup: Setup, space: Space) -> Iterator[tuple[str, str, str, str, dict]]:
    """Yield (choice, value, value now, section of the file, its fields)."""
    strategy, mesh = setup.strategy, setup.strategy.mesh
    copies = mesh.dp * mesh.cp
    pipeline = strategy.pipeline
    if mesh.pp > 1:
        plain, chunked = ("zb_v", "dualpipe"), ("interleaved", "mindspore_vpp", "mindspore_vpp_less_memory")
        for schedule in plain if pipeline.vpp == 1 else chunked:
            if schedule in (*space.schedules, *space.simulated) and schedule != pipeline.schedule:
                yield "schedule", schedule, pipeline.schedule, "pipeline", {"schedule": schedule}
        for chunks in (2 * pipeline.vpp, pipeline.vpp // 2) if pipeline.schedule in chunked else ():
            if chunks > 1 and chunks * mesh.pp <= setup.model.num_layers:
                yield "chunks of a stage", str(chunks), str(pipeline.vpp), "pipeline", {"vpp": chunks}
    if mesh.pp > 1 and pipeline.vpp > 1 and setup.framework.executes.chunk_sizes:
        for sizes, said in _end_chunks(setup):
            if sizes != pipeline.chunks:
                now = "of their own" if pipeline.chunks else "even"
                yield "first and last chunk", said, now, "pipeline", {"chunks": sizes, "stages": None}
    if copies > 1 and strategy.zero.stage < 2:
        for size in BUCKETS_MB:
            if size != strategy.zero.bucket_mb:
                now = _bucket(strategy.zero.bucket_mb)
                yield "gradient buckets", _bucket(size), now, "zero", {"bucket_mb": size}
    if strategy.zero.stage:
        shared = strategy.zero.weight_shard_size
        sizes = [size for size in divisors(copies) if 1 < size < copies]
        near = {*sizes[:2], *(n for n in sizes if n * mesh.tp <= setup.cluster.devices_per_server), *sizes[-1:]}
        for size in [-1, *sorted(near)]:
            if size != shared:
                yield "ranks that share the states", _ranks(size), _ranks(shared), "zero", {"weight_shard_size": size}
    if mesh.tp > 1:
        for vocab in ("split", "whole"):
            if vocab != strategy.tensor.vocab:
                yield "vocabulary", vocab, strategy.tensor.vocab, "tensor", {"vocab": vocab}
    for halves in space.interleave:
        if halves != strategy.tensor.interleave:
            yield (
                "halves of a micro-batch",
                str(halves),
                str(strategy.tensor.interleave),
                "tensor",
                {"interleave": halves},
            )
    if mesh.tp > 1 and setup.framework.executes.overlap and space.keeps is not None:
        for parts in (1, 2, 4, 8):
            if parts != strategy.tensor.overlap:
                now = str(strategy.tensor.overlap)
                yield "parts of a product beside its collective", str(parts), now, "tensor", {"overlap": parts}
    if any(space.activation):
        moved = strategy.offload.activation
        for share in HOST_SHARES:
            if share != moved:
                yield HOST_SHARE, f"{share:.0%}", f"{moved:.0%}", "offload", {"activation": share}
    if strategy.recompute.mode == "full" and mesh.tp > 1:
        for name, choice in (
            ("mp_comm", "collectives again in recomputation"),
            ("slice_activation", "kept inputs split over tensor ranks"),
        ):
            does = getattr(strategy.recompute, name)
            if name == "mp_comm" or not strategy.tensor.sequence_parallel:
                yield choice, yes_or_no(not does), yes_or_no(does), "recompute", {name: not does}


def _end_chunks(setup: Setup) -> Iterator[tuple[list[int] | None, str]]:
    """Yield sizes of chunks: even ones, and such that the ends of the model count as a layer each."""
    count, layers = setup.strategy.mesh.pp * setup.strategy.pipeline.vpp, setup.model.num_layers
    if layers % count == 0:
        yield None, "even"
    for first, last in ((1, 1), (0, 1)):
        each, over = divmod(layers + first + last, count)
        if not over and count > 1:
            yield [each - first, *[each] * (count - 2), each - last], "shorter"


class Known:
    """Predictions of strategies for one setup, each made once."""

    def __init__(self, setup: Setup, network: Network) -> None:
        self.setup, self.network = setup, network
        self._predictions: dict[str, Prediction] = {}

    def predict(self, strategy: StrategySpec) -> Prediction:
        key = strategy.model_dump_json()
        if key not in self._predictions:
            self._predictions[key] = Prediction(self.setup.with_strategy(strategy), network=self.network)
        return self._predictions[key]


def refine(prediction: Prediction, usable: float, space: Space, known: Known) -> tuple[Prediction, int]:
    """Return (the best of a prediction and what single steps lead to, how many were tried). `usable`: GiB."""
    best, tried = prediction, 0
    for _ in range(ROUNDS):
        steps = [known.predict(step.strategy) for step in alternatives(best.setup, space)]
        tried += len(steps)
        fitting = [step for step in steps if step.fits(usable)]
        if not fitting and not best.fits(usable):  # towards what fits
            smallest = min(steps, key=lambda step: step.gib, default=best)
            if smallest.gib >= best.gib:
                break
            best = smallest
            continue
        if best.fits(usable):
            fitting = [step for step in fitting if step.closed_form_seconds <= CLOSE * best.seconds]
        fastest = min(fitting, key=lambda step: step.seconds, default=best)
        if fastest.seconds > FASTER * best.seconds and best.fits(usable):
            break
        best = fastest
    return best, tried


def with_offload(
    setup: Setup,
    front: list[tuple[float, float, StrategySpec]],
    count: int,
    shares: list[float],
    network: Network,
) -> list[tuple[float, float, StrategySpec]]:
    """Return a Pareto front to which `count` of its members with activations on the host are added."""
    every = max(1, len(front) // count)
    points = list(front)
    for _, _, strategy in front[::every]:
        for share in shares:
            if share > strategy.offload.activation:
                offload = strategy.offload.model_copy(update={"activation": share})
                moved = strategy.model_copy(update={"offload": offload})
                prediction = Prediction(setup.with_strategy(moved), network=network)
                points.append((prediction.closed_form_seconds, prediction.gib, moved))
    points.sort(key=lambda point: point[:2])
    kept: list[tuple[float, float, StrategySpec]] = []
    for point in points:
        if not kept or point[1] < kept[-1][1] - 1e-9:
            kept.append(point)
    return kept


def _bucket(size: float | None) -> str:
    return "none" if size is None else f"{size:g} MiB"


def _ranks(size: int) -> str:
    return "all" if size < 0 else str(size)


def yes_or_no(value: bool) -> str:
    return "yes" if value else "no"
