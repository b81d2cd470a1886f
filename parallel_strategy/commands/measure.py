"""Measure this machine (matrix products, copies, vectors) and write it as a cluster file, with what was measured and
when.

example:
  python -m parallel_strategy measure --out this-machine.yaml
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, help="cluster.yaml to write")
    parser.add_argument("--seconds", type=float, default=20.0, help="about how long to measure")
    parser.add_argument("--devices", type=int, default=1, help="devices (processes) of this machine")


def run(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    import yaml

    from parallel_strategy.errors import UserError
    from parallel_strategy.measure import cluster_of, measure
    from parallel_strategy.report.output import write_whole

    if arguments.seconds <= 0 or arguments.devices < 1:
        raise UserError("measure: --seconds must be above 0 and --devices at least 1")
    measured = measure(arguments.seconds)
    cluster = cluster_of(measured, arguments.devices)
    write_whole(
        Path(arguments.out),
        yaml.safe_dump(cluster.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True),
    )
    device = cluster.device
    print(
        f"{cluster.calibration.measured_on}: {device.peak(measured.dtype) / 1e12:.3g} TFLOP/s "
        f"{measured.dtype}, copy {measured.copy_gbps:.1f} GB/s"
    )
    print(f"matrix products: eff_max {device.gemm.eff_max}, k_half {device.gemm.k_half:g}; {cluster.sources}")
    print(f"wrote {arguments.out}")
    return 0
