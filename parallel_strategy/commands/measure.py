"""Measure this machine (matrix products over shapes, attention, vector kernels, copies, collectives) and write it as a
cluster file, with what was measured and when.

A GPU is measured through PyTorch, Ascend and CPUs through MindSpore, a CPU without MindSpore through numpy. With
`--workers` the device is what one of so many training processes has, a share of the cores; msrun starts as many, which
time MindSpore's collectives, and what kernels lose when all of them compute at once.

example:
  python -m parallel_strategy measure --out this-machine.yaml
  python -m parallel_strategy measure --workers 2 4 --out workers.yaml
  python -m parallel_strategy measure --out this-machine.yaml --samples samples.json --seconds 60
"""

import argparse

from pangu.foundation.best_effort import print_translated
from parallel_strategy.measure.choose import BACKENDS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, help="cluster.yaml to write")
    parser.add_argument(
        "--backend", choices=BACKENDS, default="auto", help="what computes (default: a GPU, else an NPU, else this CPU)"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="about how long to measure, starting not counted")
    parser.add_argument("--devices", type=int, default=1, help="devices (processes) of this machine")
    parser.add_argument("--workers", type=int, nargs="+", default=[], help="also measure so many processes at once")
    parser.add_argument("--name", default="this-machine", help="of the cluster")
    parser.add_argument(
        "--processor-time", action="store_true", help="of a CPU, instead of the wall's: where others use it too"
    )
    parser.add_argument("--samples", help="also write every timing, as JSON")


def run(arguments: argparse.Namespace) -> int:
    import json
    import os
    import time
    from dataclasses import asdict
    from pathlib import Path

    import yaml

    from pangu.foundation.errors import UserError
    from pangu.foundation.progress import Progress
    from parallel_strategy.measure.choose import backend_of
    from parallel_strategy.measure.fit import cluster_of
    from parallel_strategy.measure.timed_kernels import measure, steps
    from parallel_strategy.measure.workers import check_workers, keep_to_share, measure_workers
    from parallel_strategy.report.output import write_whole

    if arguments.seconds <= 0 or arguments.devices < 1:
        raise UserError("measure: --seconds must be above 0 and --devices at least 1")
    for path in filter(None, (arguments.out, arguments.samples)):  # known before minutes are spent
        folder = Path(path).absolute().parent
        if Path(path).is_dir() or (folder.exists() and not os.access(folder, os.W_OK)):
            raise UserError(f"{path}: cannot be written; nearest: a file name in a directory of yours")
    workers = sorted(set(arguments.workers))
    check_workers(workers, arguments.backend)
    with Progress("measure", unit="parts", status="starting") as progress:

        def tell(what: str) -> None:
            progress.advance(status=what)

        with keep_to_share(workers):
            backend = backend_of(arguments.backend)
            if arguments.processor_time:
                if backend.kind != "cpu":
                    raise UserError(f"--processor-time: {backend.name} computes elsewhere; leave it out")
                backend.clock = time.process_time
            if workers and not backend.launches:
                raise UserError(f"--workers: MindSpore's msrun starts them, not for {backend.name}; leave it out")
            progress.update(total=steps(backend) + len(workers))
            measured = measure(backend, arguments.seconds, tell)
        target = "CPU" if backend.kind == "cpu" else "Ascend"
        for count in workers:
            tell(f"{count} processes")
            collectives, crowded = measure_workers(
                count, target, arguments.seconds / 2, "processor" if arguments.processor_time else "wall"
            )
            measured.collectives += collectives
            measured.crowded += crowded
    if arguments.samples:
        write_whole(Path(arguments.samples), json.dumps(asdict(measured), indent=1) + "\n")
    cluster = cluster_of(measured, arguments.devices, arguments.name)
    text = yaml.safe_dump(cluster.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
    write_whole(Path(arguments.out), text)
    device, note = cluster.device, cluster.calibration
    print_translated(
        f"{note.measured_on}, {note.date}: {device.peak(measured.dtype) / 1e12:.3g} TFLOP/s {measured.dtype}, copy "
        f"{device.hbm.gbps:.1f} GB/s, element-wise kernels {device.vector.eff:.0%} of it, "
        f"{device.vector.launch_us:.1f} us a launch"
    )
    print_translated(
        f"matrix products: eff_max {device.gemm.eff_max}, k_half {device.gemm.k_half:g}; {cluster.sources}"
    )
    for one in measured.collectives:
        print_translated(f"{one.op} of {one.bytes / 2**20:.3g} MiB among {one.members}: {one.seconds * 1e6:.0f} us")
    for members, (products, memory) in cluster.host.crowding.items():
        print_translated(
            f"{members} at once: products take {products:.2f} times as long, kernels bound by memory {memory:.2f}"
        )
    print_translated(f"wrote {arguments.out}")
    return 0
