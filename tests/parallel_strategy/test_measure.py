"""Measuring a machine: figures of a made-up one are found again, and this one is measured."""

import contextlib
import json
import queue
import time
from pathlib import Path

import pytest

from pangu.foundation.errors import UserError
from pangu.foundation.processes import free_port
from parallel_strategy.cli import main
from parallel_strategy.cost.kernel import matmul_seconds
from parallel_strategy.measure import timed_kernels as samples_module
from parallel_strategy.measure import workers as workers_module
from parallel_strategy.measure.fit import cluster_of
from parallel_strategy.measure.timed_kernels import (
    Attended,
    Collected,
    Crowded,
    Measured,
    Moved,
    Product,
    product_shapes,
)
from parallel_strategy.predict import Prediction
from parallel_strategy.spec.cluster import ClusterSpec, Device, Gemm, Memory
from parallel_strategy.spec.framework import TENSORS, FrameworkSpec
from parallel_strategy.spec.strategy import Setup, StrategySpec


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


KIND_GBPS = {kind: 60.0 - 3 * index for index, kind in enumerate(TENSORS) if TENSORS[kind]}


def processes() -> Measured:
    """A made-up machine on which kinds of kernels and processes at work together were measured."""
    measured = made_up("cpu", 0.2, Gemm(eff_max=0.8, k_half=32, cores=1, align=1, good_align=1, launch_us=2), 20.0)
    measured.moved = [
        Moved(kind, size, size / (gbps * 1e9) + measured.launch_seconds)
        for kind, gbps in KIND_GBPS.items()
        for size in (1e6, 5e7)
    ]
    measured.collectives = [
        Collected(op, members, size, members * 1e-4 + size * share * members * 1e-9)
        for op, share in (("all_reduce", 2.0), ("all_gather", 1.0), ("broadcast", 1.0))
        for members in (2, 4)
        for size in (2**12, 2**20, 2**26)
    ]
    measured.crowded = [
        Crowded(name, members, slow)
        for members, slows in ((2, (1.1, 1.5)), (4, (2.2, 2.8)))
        for name, slow in zip(("product", "memory"), slows, strict=True)
    ]
    return measured


def test_kinds_of_kernels_keep_their_speeds():
    vector = cluster_of(processes()).device.vector
    hbm = cluster_of(processes()).device.hbm
    for kind, gbps in KIND_GBPS.items():
        for _, speed in vector.kinds[kind]:
            assert speed * vector.eff * hbm.gbps == pytest.approx(gbps, rel=0.02), kind


def test_collectives_of_processes_are_lines_through_their_sizes():
    level = cluster_of(processes()).topology[0]
    assert level.size == 4
    for op, share in (("all_reduce", 2.0), ("all_gather", 1.0)):
        for members in (2, 4):
            line = level.line(op, members)
            assert line is not None
            start, a_byte = line
            assert start == pytest.approx(members * 1e-4, rel=0.05)
            assert a_byte == pytest.approx(share * members * 1e-9, rel=0.01)
    # no reduce_scatter on a CPU: an all-reduce and a slice; three members as two
    assert level.line("reduce_scatter", 4) == level.line("all_reduce", 4)
    assert level.line("all_reduce", 3) == level.line("all_reduce", 2)


def test_processes_that_compute_at_once_slow_each_other_down_once():
    cluster = cluster_of(processes())
    two, three, eight = cluster.crowded(2), cluster.crowded(3), cluster.crowded(8)
    assert cluster.crowded(1) is cluster and two.crowded(2) is two
    peak = cluster.device.peak("fp32")
    assert two.device.peak("fp32") == pytest.approx(peak / 1.1) and two.device.hbm.gbps < cluster.device.hbm.gbps
    assert three.device.peak("fp32") == pytest.approx(peak / 1.65)
    assert eight.device.peak("fp32") == pytest.approx(peak / 2.2)  # the server has four

    def gbps(one: ClusterSpec, kind: str) -> float:
        return one.device.vector.kinds[kind][-1][1] * one.device.vector.eff * one.device.hbm.gbps

    slow, fast = min(KIND_GBPS, key=KIND_GBPS.__getitem__), max(KIND_GBPS, key=KIND_GBPS.__getitem__)
    assert gbps(cluster, slow) / gbps(two, slow) < 1.35 < gbps(cluster, fast) / gbps(two, fast)


def ask(cluster: ClusterSpec, folder, workers: int, sharded: bool = False, composed: bool = True) -> Prediction:
    """A small PanGu-alpha's step on so many processes."""
    fields = {
        "model": {"file": str(folder / "model.yaml"), "dtype": "fp32"},
        "framework": "pangu-cpu",
        "batch": {"global": 8, "micro": 8 // workers},
        "mesh": {"dp": workers},
        "zero": {"optimizer_shard": sharded, "threshold_kb": 0},
        "cluster": {"file": str(folder / "cluster.yaml")},
    }
    (folder / "cluster.yaml").write_text(json.dumps(cluster.model_dump(mode="json", exclude_none=True)))
    model: dict[str, object] = {
        "num_layers": 4,
        "hidden_size": 256,
        "num_heads": 4,
        "ffn_hidden_size": 1024,
        "seq_length": 256,
    }
    model |= {"vocab_size": 2000, "query_layer": True, "dropout_rate": 0.0}
    (folder / "model.yaml").write_text(json.dumps(model))
    setup = Setup.resolve(StrategySpec.model_validate(fields), folder)
    if not composed:
        framework = setup.framework.model_copy(update={"composed": {}})
        setup = setup.model_copy(update={"framework": framework})
    return Prediction(setup)


def test_a_step_on_processes_pays_for_their_company_and_their_collectives(tmp_path):
    cluster = cluster_of(processes())
    two, sharded, four = (ask(cluster, tmp_path, *case) for case in ((2, False), (2, True), (4, False)))
    parameters = two.price.program.total_parameters
    reduced = 2e-4 + 4 * parameters * 4e-9  # one all-reduce of all gradients in fp32
    copied = two.tails[0].gradient_reduce - reduced  # into its buffer and out of it
    assert 0 < copied < 0.3 * reduced
    assert sharded.tails[0].gradient_reduce == pytest.approx(reduced + copied)
    assert sharded.tails[0].weight_gather == pytest.approx(2e-4 + 4 * parameters * 2e-9, rel=0.05)
    # a quarter of the work on half a core
    assert four.chunks[0].backward == pytest.approx(two.chunks[0].backward, rel=0.1)


def test_a_cpu_step_has_the_kernels_that_the_profiler_counted(tmp_path):
    """MindSpore's profiler saw 212 kernels for each layer and its 16 weights, 18 of them products of the layer."""
    framework = FrameworkSpec.preset("pangu-cpu")
    block = ask(cluster_of(processes()), tmp_path, 1).price.program.blocks["layer"]
    launches = sum(kernel.launches for kernel in block.kernels)
    assert launches + framework.launches_per_weight * len(block.parameters) == pytest.approx(212, abs=6)
    assert sum(1 for kernel in block.kernels if kernel.m) == 24
    assert ask(cluster_of(processes()), tmp_path, 1, composed=False).seconds > 0


def test_mistakes_are_told_before_anything_is_measured(tmp_path, capsys, monkeypatch):
    out = str(tmp_path / "machine.yaml")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    for words, told in (
        (["--workers", "1"], "nearest: 2"),
        (["--workers", "2", "4"], "2 have 4, 4 have 2"),
        (["--workers", "2", "--backend", "numpy"], "--backend mindspore"),
        (["--devices", "0"], "--devices"),
    ):
        assert main(["measure", "--out", out, *words]) == 2
        assert told in capsys.readouterr().err
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    assert main(["measure", "--out", out, "--workers", "8"]) == 2 and "msrun" in capsys.readouterr().err
    assert main(["measure", "--out", str(tmp_path)]) == 2 and "cannot be written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_measurement_leaves_nothing(tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(samples_module, "timed", interrupt)
    assert main(["measure", "--backend", "numpy", "--out", str(tmp_path / "machine.yaml")]) == 130
    assert capsys.readouterr().err.strip() == "interrupted" and list(tmp_path.iterdir()) == []


def is_gone(process: int) -> bool:
    """Return whether a process ends within a minute; what was killed needs a turn of the processor to be gone."""
    state = Path(f"/proc/{process}/stat")
    for _ in range(600):
        with contextlib.suppress(OSError):
            if state.read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.1)
                continue
        return True
    return False


def test_processes_that_hang_are_ended_and_told(tmp_path, monkeypatch):
    """msrun, and what it started, are gone when `measure` ends; so is its folder."""
    left, launcher = tmp_path / "left", tmp_path / "msrun"
    launcher.write_text(f"#!/bin/sh\nsleep 300 & echo $! $$ > {left}; wait\n")
    launcher.chmod(0o755)
    monkeypatch.setattr(workers_module, "msrun", lambda: str(launcher))
    monkeypatch.setattr(workers_module, "STARTING", 0.5)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(UserError, match="did not finish"):
        workers_module.measure_workers(2, "CPU", 0.1)
    assert all(is_gone(int(process)) for process in left.read_text().split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["left", "msrun"]


def test_pytorchs_path_runs_without_a_gpu(monkeypatch):
    """Every call of the GPU's backend, on PyTorch's CPU."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from parallel_strategy.measure.torch_cuda import TorchBackend, all_reduce

    monkeypatch.setattr(samples_module, "product_shapes", lambda kind: [(64, 64, 64, 1), (64, 64, 32, 4)])
    monkeypatch.setattr(samples_module, "element_counts", lambda kind: (2**16, 2**18))
    monkeypatch.setattr(samples_module, "ATTENTION", ((1, 2, 128, 32),))
    backend = TorchBackend("cpu")
    backend.count = 1  # several processes would each import PyTorch
    measured = samples_module.measure(backend, 0.5)
    assert {one.name for one in measured.moved} == {"copy", "add", "gelu", "layer_norm", "softmax"}
    assert measured.attention[0].flops == 2 * 2 * 128 * 128 * 32 and measured.host_to_device_gbps > 0.1
    cluster = cluster_of(measured, devices=2)
    assert not cluster.device.vector.kinds and cluster.topology[0].kind == "switch"

    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
    found: queue.SimpleQueue = queue.SimpleQueue()
    all_reduce(0, 1, "cpu", free_port(), found)
    (small, first), (large, second) = found.get()
    assert (small, large) == (2**20, 2**24) and 0 < first < 1 and 0 < second < 1
