"""Measure this machine (matrix products over shapes, attention, vector kernels, copies, collectives) and write it as a
cluster file, with what was measured and when.

A GPU is measured through PyTorch, Ascend and CPUs through MindSpore, a CPU without MindSpore through numpy.

example:
  python -m parallel_strategy measure --out this-machine.yaml
  python -m parallel_strategy measure --out this-machine.yaml --samples samples.json --seconds 60
"""

import argparse

from parallel_strategy.measure.choose import BACKENDS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, help="cluster.yaml to write")
    parser.add_argument("--backend", choices=BACKENDS, default="auto")
    parser.add_argument("--seconds", type=float, default=20.0, help="about how long to measure")
    parser.add_argument("--devices", type=int, default=1, help="devices (processes) of this machine")
    parser.add_argument("--name", default="this-machine", help="of the cluster")
    parser.add_argument("--samples", help="also write every timing, as JSON")


def run(arguments: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict
    from pathlib import Path

    import yaml

    from parallel_strategy.errors import UserError
    from parallel_strategy.measure.choose import backend_of
    from parallel_strategy.measure.fit import cluster_of
    from parallel_strategy.measure.samples import measure
    from parallel_strategy.report.output import write_whole

    if arguments.seconds <= 0 or arguments.devices < 1:
        raise UserError("measure: --seconds must be above 0 and --devices at least 1")
    measured = measure(backend_of(arguments.backend), arguments.seconds)
    if arguments.samples:
        write_whole(Path(arguments.samples), json.dumps(asdict(measured), indent=1) + "\n")
    cluster = cluster_of(measured, arguments.devices, arguments.name)
    text = yaml.safe_dump(cluster.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
    write_whole(Path(arguments.out), text)
    device, note = cluster.device, cluster.calibration
    print(
        f"{note.measured_on}, {note.date}: {device.peak(measured.dtype) / 1e12:.3g} TFLOP/s {measured.dtype}, copy "
        f"{device.hbm.gbps:.1f} GB/s, element-wise kernels {device.vector.eff:.0%} of it, "
        f"{device.vector.launch_us:.1f} us a launch"
    )
    print(f"matrix products: eff_max {device.gemm.eff_max}, k_half {device.gemm.k_half:g}; {cluster.sources}")
    for one in measured.collectives:
        print(f"{one.op} of {one.bytes / 2**20:.3g} MiB among {one.members}: {one.seconds * 1e6:.0f} us")
    print(f"wrote {arguments.out}")
    return 0
