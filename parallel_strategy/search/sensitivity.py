"""What the best step time would be with other links, kernels, memory or batches."""

from dataclasses import replace

import numpy as np

from parallel_strategy.predict import Prediction
from parallel_strategy.search.candidates import Candidates
from parallel_strategy.search.pricing import evaluate
from parallel_strategy.search.shapes import Space
from parallel_strategy.spec.cluster import ClusterSpec
from parallel_strategy.spec.strategy import Setup

MEMORY = {1.0: "all", 0.75: "three quarters of", 0.5: "half", 2.0: "twice"}  # device memory to look at, in words


def sensitivity(predictions: list[Prediction]) -> list[tuple[str, float]]:
    """Return the relative change of the best step time among the given strategies when one figure of the cluster
    moves."""
    if not predictions:
        return []
    base = predictions[0].seconds
    cluster = predictions[0].setup.cluster
    device = cluster.device
    changes = [
        ("network cards twice as fast", _network(cluster, 2.0)),
        ("network cards half as fast", _network(cluster, 0.5)),
        ("links inside a server twice as fast", _links(cluster, 2.0)),
        (
            "device memory bandwidth +25 %",
            cluster.model_copy(
                update={
                    "device": device.model_copy(
                        update={"hbm": device.hbm.model_copy(update={"gbps": device.hbm.gbps * 1.25})}
                    )
                }
            ),
        ),
        (
            "matrix products +10 %",
            cluster.model_copy(
                update={
                    "device": device.model_copy(
                        update={"gemm": device.gemm.model_copy(update={"eff_max": min(1.0, device.gemm.eff_max * 1.1)})}
                    )
                }
            ),
        ),
    ]
    result = []
    for name, changed in changes:
        best = min(_elsewhere(p, changed).closed_form_seconds / p.closed_form_seconds * p.seconds for p in predictions)
        result.append((name, best / base - 1.0))
    return result


def elsewhere_in_the_space(
    setup: Setup, groups: list[Candidates], winner: Prediction, usable: float, space: Space
) -> list[tuple[str, float]]:
    """Return the relative change of the best step time with other device memory, and of the time per sequence
    with other
    global batches. In closed form on both sides; other batches keep the winner's sizes of tensor, pipeline and
    context."""
    seconds = np.concatenate([group.seconds for group in groups])
    gib = np.concatenate([group.gib for group in groups])
    base = float(seconds[gib <= usable].min())
    result = []
    for factor, words in MEMORY.items():
        if factor == 1.0:
            continue
        fits = gib <= usable * factor
        result.append((f"{words} the device memory", float(seconds[fits].min()) / base - 1.0 if fits.any() else np.inf))
    mesh = winner.setup.strategy.mesh
    for factor, words in ((0.5, "half"), (2.0, "twice")):
        batch = int(space.batch * factor)
        if batch < 1 or batch % mesh.dp:
            continue
        near = replace(space, batch=batch, tp=[mesh.tp], pp=[mesh.pp], cp=[mesh.cp])
        found = evaluate(setup, near)
        times = [float(group.seconds[group.gib <= usable].min(initial=np.inf)) for group in found]
        if times and min(times) < np.inf:
            result.append((f"{words} the global batch, per sequence", min(times) / factor / base - 1.0))
    return result


def _elsewhere(prediction: Prediction, cluster: ClusterSpec) -> Prediction:
    """Return the same strategy on a changed cluster; the program is shared, since no shape depends on the cluster."""
    setup = Setup.model_construct(**{**prediction.setup.__dict__, "cluster": cluster})
    return Prediction(setup, program=prediction.program.moved_to(setup))


def _network(cluster, factor: float):
    levels = [
        level.model_copy(update={"nic_gbit": level.nic_gbit * factor}) if level.nic_gbit else level
        for level in cluster.topology
    ]
    return cluster.model_copy(update={"topology": levels})


def _links(cluster, factor: float):
    levels = []
    for level in cluster.topology:
        updates: dict[str, object] = {}
        if level.nic_gbit is None:
            if level.gbps_per_link:
                updates["gbps_per_link"] = level.gbps_per_link * factor
            if level.gbps:
                updates["gbps"] = level.gbps * factor
            if level.bus_gbps:
                updates["bus_gbps"] = {n: value * factor for n, value in level.bus_gbps.items()}
        levels.append(level.model_copy(update=updates))
    return cluster.model_copy(update={"topology": levels})
