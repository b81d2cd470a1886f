"""Measuring a machine: figures of a made-up one are found again, and this one is measured."""

import json

import pytest

from parallel_strategy.cli import main
from parallel_strategy.cost.kernel import matmul_seconds
from parallel_strategy.measure.fit import cluster_of
from parallel_strategy.measure.samples import Attended, Collected, Measured, Moved, Product, product_shapes
from parallel_strategy.spec.cluster import ClusterSpec, Device, Gemm, Memory


def made_up(kind: str, peak: float, gemm: Gemm, gbps: float) -> Measured:
    """What `measure` would see on a machine with these figures."""
    import numpy as np

    device = Device(name="made up", peak_tflops={"fp32": peak}, hbm=Memory(gb=80, gbps=gbps), gemm=gemm)
    floor, element = 2e-6, 4 if kind == "cpu" else 2
    measured = Measured("test", "H100 made up" if kind == "gpu" else "test", kind, "fp32", gemm.cores, 80.0, 500.0)
    for m, n, k, batch in product_shapes(kind):
        compute = matmul_seconds(device, "fp32", *(np.array([float(x)]) for x in (m, n, k, batch)))[0]
        memory = element * batch * (m * k + k * n + m * n) / (gbps * 1e9)
        measured.products.append(Product(m, n, k, batch, max(float(compute), memory) + floor))
    for size in (2.0**24, 2.0**28):
        measured.moved += [Moved("copy", size, size / (gbps * 1e9)), Moved("add", size, size / (0.8 * gbps * 1e9))]
    measured.launch_seconds, measured.issue_seconds, measured.host_to_device_gbps = floor, 3e-6, 50.0
    measured.attention.append(Attended(1e12, 1e12 / (0.5 * peak * 1e12)))
    measured.collectives = [
        Collected("all_reduce", n, size, 2e-5 + 2 * (n - 1) / n * size / 4e11)
        for n in (2, 4)
        for size in (2**20, 2**30)
    ]
    return measured


@pytest.mark.parametrize(("kind", "peak", "cores", "gbps"), [("gpu", 989.0, 132, 3000.0), ("cpu", 0.2, 2, 20.0)])
def test_figures_of_a_made_up_machine_are_found_again(kind, peak, cores, gbps):
    cpu = kind == "cpu"
    tiles = [(64, 64), (16, 64)] if cpu else [(256, 128), (128, 128), (64, 128), (64, 64)]
    align = {"align": 1, "good_align": 1} if cpu else {}
    gemm = Gemm(eff_max=0.8, k_half=64, tiles=tiles, small_tile_eff=0.9, cores=cores, launch_us=2, **align)
    cluster = cluster_of(made_up(kind, peak, gemm, gbps), devices=4)
    device = cluster.device
    assert device.peak("fp32" if cpu else "bf16") * device.gemm.eff_max == pytest.approx(0.8 * peak * 1e12, rel=0.1)
    assert device.hbm.gbps == pytest.approx(gbps, rel=0.01) and device.vector.eff == pytest.approx(0.8, rel=0.01)
    assert cpu or device.flash_eff == pytest.approx(0.5, rel=0.05)
    level = cluster.topology[0]
    assert level.device_gbps(4) == pytest.approx(400, rel=0.02) and 10 < level.start_us < 25


def test_this_machine_is_measured(tmp_path, capsys):
    path, samples = tmp_path / "machine.yaml", tmp_path / "samples.json"
    command = ["measure", "--backend", "numpy", "--out", str(path), "--samples", str(samples), "--seconds", "0.5"]
    assert main(command) == 0
    cluster = ClusterSpec.load(path)
    assert cluster.calibration.measured_on and cluster.calibration.date and cluster.device.peak("fp32") > 1e9
    data = json.loads(samples.read_text())
    assert len(data["products"]) == len(product_shapes("cpu")) and data["adam_gbps"] > 0
    assert main([*command[:-1], "-1"]) == 2
