"""Profiles of real steps: what is read of each kind, what of a cluster file it changes, what is one line."""

import csv
import gzip
import json
import random
import re
from pathlib import Path

import pytest
import yaml

from pangu.foundation.errors import UserError
from parallel_strategy.calibrate.columns import COLUMNS, page
from parallel_strategy.cli import main
from parallel_strategy.cost.kernel import matmul_seconds
from parallel_strategy.profiles.ascend_tables import read_kernels
from parallel_strategy.profiles.profile_figures import fit_cluster
from parallel_strategy.profiles.profile_folder import read_profile, read_profiles
from parallel_strategy.profiles.seen import Seen, SeenLink, SeenProduct
from parallel_strategy.spec.cluster import ClusterSpec
from tests.conftest import REPOSITORY

HEAD = (
    "Name,Type,Accelerator Core,Duration(us),Input Shapes,Input Data Types,Input Formats,Output Shapes,Output Formats"
)
MSPROF = HEAD.replace("Name,Type,Accelerator Core,Duration", "Op Name,OP Type,Task Type,Task Duration")
PRODUCT = 'one,MatMul,AI_CORE,{us},"""{a};{b}""",FLOAT16;FLOAT16,{f};{f},"""{c}""",{f}'


@pytest.fixture
def profiles(shared: Path) -> Path:
    return shared / "profiles"


def product(us: float, a: str, b: str, c: str, f: str = "ND", head: str = HEAD) -> Seen:
    return read_kernels(f"{head}\n{PRODUCT.format(us=us, a=a, b=b, c=c, f=f)}\n")


@pytest.mark.parametrize("head", [HEAD, MSPROF, "\ufeff" + HEAD.replace(",", " ,")])
def test_a_product_is_read_whichever_factor_is_transposed_and_in_every_release(head: str) -> None:
    for a, b in (("64,32", "32,48"), ("32,64", "48,32"), ("64,32", "48,32")):
        (one,) = product(5.0, a, b, "64,48", head=head).products
        assert (one.m, one.n, one.k, one.batch, one.dtype) == (64, 48, 32, 1, "fp16")
        assert one.seconds == pytest.approx(5e-6)
    (blocked,) = product(5.0, "2,4,16,16", "3,2,16,16", "3,4,16,16", f="FRACTAL_NZ", head=head).products
    assert (blocked.m, blocked.n, blocked.k) == (64, 48, 32)
    (many,) = product(5.0, "12,64,32", "12,32,48", "12,64,48", head=head).products
    assert (many.batch, many.m, many.n, many.k) == (12, 64, 48, 32)


def test_products_whose_shapes_contradict_each_other_are_left_out_and_said() -> None:
    seen = product(5.0, "81920,4096", "8192,512", "4096,512")
    assert seen.products == [] and seen.others == pytest.approx(5e-6)
    assert seen.notes == ["1 products whose shapes contradict each other are left out"]


def test_ascends_own_profiles_fit_a_cluster_file(profiles: Path, tmp_path: Path, capsys) -> None:
    """17 % mean error of 13 products on 910B before, 3 % after: the fit on what it saw."""
    folder = tmp_path / "prof"
    folder.mkdir()
    for path in profiles.glob("ascend_*"):
        (folder / path.name).symlink_to(path)
    (folder / "kernel_details_empty.csv").write_text("")
    (folder / "trace_view.json").write_bytes((profiles / "ascend_cluster_communication.json").read_bytes()[:900])
    (folder / "damaged.json.gz").write_bytes(gzip.compress(b"[" * 400)[:20])
    out = tmp_path / "our.yaml"
    words = ["calibrate", "--profile", str(folder), "--cluster", "atlas-800t-a2-910b1", "--out", str(out)]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "13 products in fp16 of 7 shapes (m 1,024 to 4,096" in told
    after, before = (float(re.search(rf"{word} ([\d.]+)%", told)[1]) for word in ("met within", "before"))
    assert after < 5 < 10 < before
    for name in ("kernel_details_empty.csv: not read: is empty", "damaged.json.gz: not read", "trace_view.json: not"):
        assert name in told
    assert "12 products whose shapes contradict each other" in told and "too few to say a rate" in told
    found, base = ClusterSpec.load(out), ClusterSpec.preset("atlas-800t-a2-910b1")
    assert found.device.gemm.eff_max != base.device.gemm.eff_max and found.topology == base.topology
    assert found.device.flash_eff == pytest.approx(0.455, abs=0.005)  # 169 TFLOP/s of 378.9, the whole square
    assert "gemm.eff_max" in found.sources and out.read_text().startswith("# atlas-800t-a2-910b1 with figures")
    strategy = tmp_path / "s.yaml"
    fields = {"model": {"preset": "pangu-alpha-2.6b"}, "cluster": {"file": "our.yaml"}, "batch": {"global": 8}}
    strategy.write_text(yaml.safe_dump(fields | {"mesh": {"dp": 8}}))
    assert main(["explain", str(strategy), "--profile", str(folder), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    pairs = [one for one in data["kernels"] if one["kind"] == "product fp16"]
    assert len(pairs) == 7 and max(abs(one["difference"]) for one in pairs) < 0.15
    assert len(data["steps"]) == 8
    assert main(["explain", str(strategy), "--profile", str(folder)]) == 0
    assert "predicted ms" in capsys.readouterr().out


def event(**fields: object) -> dict:
    return {"ph": "X", "tid": 1, **fields}


def trace(dtype: str = "c10::BFloat16", kernel: str = "ampere_bf16_s16816gemm") -> dict:
    """Two kernels of one product, one of an addition, an all-reduce, and one that nobody launched."""
    operator = {"Input Dims": [[512], [1024, 256], [256, 512], [], []], "Input type": [dtype, dtype, dtype]}
    adds = {"Input Dims": [[4096, 1024], [4096, 1024], []], "Input type": [dtype, dtype, "Scalar"]}
    reduces = {"Collective name": "allreduce", "In msg nelems": 10**7, "Group size": 4, "dtype": "BFloat16"}
    return {
        "deviceProperties": [{"name": "NVIDIA A100-SXM4-80GB"}],
        "traceEvents": [
            event(cat="cpu_op", name="aten::addmm", ts=100, dur=50, args=operator),
            event(cat="cpu_op", name="aten::add", ts=200, dur=50, args=adds),
            *(
                event(cat="cuda_runtime", name="cudaLaunchKernel", ts=ts, dur=5, args={"correlation": number})
                for number, ts in ((1, 110), (2, 120), (3, 210))
            ),
            event(cat="kernel", name=kernel, ts=130, dur=40, args={"correlation": 1}),
            event(cat="kernel", name="splitKreduce", ts=170, dur=10, args={"correlation": 2}),
            event(cat="kernel", name="vectorized_elementwise", ts=220, dur=30, args={"correlation": 3}),
            event(cat="kernel", name="ncclDevKernel_AllReduce", ts=300, dur=200, args=reduces),
            event(cat="kernel", name="lonely", ts=600, dur=7, args={"correlation": 99}),
            {"ph": "s", "id": 3, "ts": "x"},
            "no event",
        ],
    }


def test_kernels_of_a_torch_trace_are_led_back_to_their_operators(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(trace()))
    seen = read_profile(path)
    (one,) = seen.products
    assert (one.m, one.n, one.k, one.dtype) == (1024, 512, 256, "bf16") and one.seconds == pytest.approx(50e-6)
    (moved,) = seen.vectors
    assert moved.bytes == 3 * 2 * 4096 * 1024 and moved.seconds == pytest.approx(30e-6)
    (reduced,) = seen.collectives
    assert (reduced.op, reduced.members, reduced.bytes) == ("all_reduce", 4, 2e7)
    assert seen.others == pytest.approx(7e-6) and "A100" in seen.device
    fitted = fit_cluster(seen, ClusterSpec.preset("dgx-a100"), "here")
    assert fitted.cluster.topology[0].bus_gbps == {4: 150.0}  # 2 x 3/4 x 20 MB in 200 us
    path.write_text(json.dumps(trace("float", "ampere_sgemm_tf32_s1688")))
    wide = read_profile(path)
    assert wide.products[0].dtype == "tf32"
    assert any("tf32" in line for line in fit_cluster(wide, ClusterSpec.preset("dgx-a100"), "here").lines)


def test_a_damaged_trace_or_table_of_communication_raises_nothing_but_one_line(tmp_path: Path) -> None:
    """Any value of either file in the place of any other, 300 times, and then a fit to what is left."""
    choose, base = random.Random(3), ClusterSpec.preset("atlas-800-910a")
    links = {"(0, 1)": {"step": {"hcom_allReduce__1": {"0": {"Communication Time Info": {"Elapse Time(ms)": 1.0},
        "Communication Bandwidth Info": {"HCCS": {"Transit Size(MB)": 3, "Transit Time(ms)": 1}}}}}}}  # fmt: skip
    for number in range(300):
        document = json.loads(json.dumps(trace() if number % 2 else links))
        place, key = document, choose.choice(list(document))
        while isinstance(place[key], dict | list) and place[key] and choose.random() < 0.85:
            place = place[key]
            key = choose.choice(list(place)) if isinstance(place, dict) else choose.randrange(len(place))
        values = [None, True, -1, 0, float("nan"), 10**30, 10**400, "", "²", [], [[]], [1, [2]], {}, {"a": {}}]
        place[key] = choose.choice(values)
        path = tmp_path / "any.json"
        path.write_text(json.dumps(document))
        try:
            fit_cluster(read_profile(path), base, "here")
        except UserError as error:
            assert "\n" not in str(error)


def test_a_size_in_other_digits_and_a_link_without_a_rate_are_passed_over() -> None:
    row = 'x,MatMul,AI_CORE,9,"{},2;2,1",FLOAT16;FLOAT16,ND;ND,"1,1",ND\n'
    seen = read_kernels(HEAD + "\n" + row.format("1") + row.format("²") + row.format("9" * 5000))
    assert len(seen.products) == 1
    seen.links.append(SeenLink("HCCS", 1e6, 1.0))
    base = ClusterSpec.preset("atlas-800-910a")
    inner = base.topology[0].model_copy(update={"kind": "full_mesh", "gbps_per_link": None, "bus_gbps": {8: 50.0}})
    found = fit_cluster(seen, base.model_copy(update={"topology": [inner, *base.topology[1:]]}), "here")
    assert found.cluster.topology[0] == inner
    assert any("bus_gbps stands in place of eff" in line for line in found.lines)


def test_a_fit_finds_the_figures_that_made_the_times() -> None:
    import numpy as np

    base = ClusterSpec.preset("dgx-a100")
    gemm = base.device.gemm.model_copy(update={"eff_max": 0.7, "k_half": 256.0})
    device = base.device.model_copy(update={"gemm": gemm})
    seen = Seen()
    for m, n, k in ((4096, 4096, 512), (8192, 4096, 1024), (4096, 8192, 4096), (2048, 2048, 2048), (8192, 8192, 8192),
        (4096, 1024, 256), (16384, 4096, 768)):  # fmt: skip
        sizes = [np.array([float(size)]) for size in (m, n, k, 1)]
        memory = 2.0 * (m * k + k * n + m * n) / (base.device.hbm.gbps * 1e9 * base.device.hbm.eff)
        seconds = max(float(matmul_seconds(device, "bf16", *sizes)[0]), memory) + gemm.launch_us * 1e-6
        seen.products.append(SeenProduct("mm", "bf16", m, n, k, 1, seconds))
    found = fit_cluster(seen, base, "made").cluster.device.gemm
    assert found.k_half == 256 and found.eff_max == pytest.approx(0.7, abs=0.005)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "x,y\n1,2\n", "has no column 'type'"),
        ("a.csv", HEAD + "\n", "no kernel that took time"),
        (
            "a.csv",
            HEAD + '\nx,MatMul,AI_CORE,nan,"1,2;2,1",FLOAT16;FLOAT16,ND;ND,"1,1",ND\n',
            "no kernel that took time",
        ),
        ("a.csv", "Step,Computing,Communication(Not Overlapped),Free\n1,a,b,c\n", "no step of a rank"),
        ("a.json", "{", "no JSON"),
        ("a.json", "[" * 5000, "no JSON"),
        ("a.json", "[]", "has no kernels"),
        ("a.json", '{"traceEvents": 3}', "no list of trace events"),
        ("a.json", '{"a": {"b": 3}}', "no collective with a time"),
        ("a.json", "3", "no mapping"),
        ("a.json.gz", "no gzip", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, capsys, name: str, content: str, words: str) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / name).write_text(content)
    out = tmp_path / "our.yaml"
    asked = ["calibrate", "--profile", str(tmp_path / "p"), "--cluster", "dgx-a100", "--out", str(out)]
    assert main(asked) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said and not out.exists()


def test_a_folder_without_profiles_and_arguments_that_contradict_are_one_line(tmp_path: Path, capsys) -> None:
    with pytest.raises(UserError, match="has no profile"):
        read_profiles(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        read_profiles(tmp_path / "none")
    for words in (["--out", "x.json"], ["rows.csv", "--profile", ".", "--out", "x.yaml"], ["rows.csv"],
        ["--profile", str(tmp_path), "--out", "x.yaml"], ["--profile", str(tmp_path), "--out", "x.json"]):  # fmt: skip
        assert main(["calibrate", *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_template_of_measured_runs_is_read_as_it_is(tmp_path: Path, capsys) -> None:
    rows = tmp_path / "rows.csv"
    assert main(["validate", "--template", str(rows)]) == 0
    assert main(["calibrate", "--template", str(rows)]) == 2  # it is there already
    capsys.readouterr()
    assert main(["validate", str(rows), "--json"]) == 0
    read = capsys.readouterr()
    assert json.loads(read.out)["tables"][0]["rows"] == 2 and "skipped" not in read.err
    text = rows.read_text().replace("dgx-a100", "our own room")
    rows.write_text(text)
    assert main(["validate", str(rows)]) == 0 and "skipped 2 rows" in capsys.readouterr().err
    assert main(["validate", str(rows), "--cluster", "dgx-h100", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tables"][0]["rows"] == 2
    assert main(["validate"]) == 2 and "--template" in capsys.readouterr().err
    head = next(csv.reader(text.splitlines()))
    rows.write_text(text.replace("layers", "layerz"))
    assert main(["validate", str(rows)]) == 2 and "'layers' is missing" in capsys.readouterr().err
    assert head == [column.name for column in COLUMNS]


def test_the_page_of_columns_is_the_table_that_is_read() -> None:
    assert page() in (REPOSITORY / "docs/measured_runs.md").read_text(encoding="utf-8")
