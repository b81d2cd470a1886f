"""A profile of a step: kernels of MindSpore's record, added up by part and operator; never the end of a run."""

from pathlib import Path

from pangu.cli import main
from pangu.training import step_profile
from pangu.training.step_profile import StepProfile, counted_kernel, line_of, read_times, summary_of

RECORD = """Default/loss-Loss/network-PanguAlpha/backbone-Backbone/blocks-CellList/0-Block/attention-Attention/MatMul-op1;HostCpuOps;100,2.5,0 200,1.5,0 
Gradients/Default/loss-Loss/network-PanguAlpha/backbone-Backbone/blocks-CellList/0-Block/output-FeedForward/MatMul-op7;HostCpuOps;300,6,0 
Default/optimizer-AdamW/Adam-op3;HostCpuOps;1,2,0 
a line that was cut;Host
"""  # noqa: E501, W291


def test_kernels_are_added_up_by_part_and_operator(tmp_path: Path) -> None:
    (tmp_path / "x/FRAMEWORK").mkdir(parents=True)
    (tmp_path / "x/FRAMEWORK/cpu_op_execute_timestamp_0.txt").write_text(RECORD)
    summary = summary_of(read_times(tmp_path), [0.010, 0.020])
    assert summary["by_part"] == {"feed-forward": 3, "attention": 2, "optimizer": 1}
    assert summary["by_operator"] == {"MatMul": 5, "Adam": 1}
    assert (summary["in_kernels"], summary["milliseconds"]) == (6, 15)
    assert line_of(summary, Path("p.json")) == (
        "profile: 15.0 ms an update, kernels 6.0 ms: feed-forward 50%, attention 33%, optimizer 17%; "
        "MatMul 83%, Adam 17%: p.json"
    )
    assert line_of(summary_of([], [0.1]), Path("RUN/profile")) == "profile of 1 updates: RUN/profile"


def test_a_step_that_counts_itself_tells_its_passes() -> None:
    names = ("attention/attend", "attention/attend_backward", "matrices/gradients", "embedding/scatter_add")
    kernels = [counted_kernel(name, 2, 0.002) for name in (*names, "optimizer/adamw", "loss/logits")]
    summary = summary_of(kernels, [0.006, 0.006])
    assert summary["by_pass"] == {"backward": 3, "forward": 2, "update": 1}
    assert line_of(summary, Path("p.json")).startswith(
        "profile: 6.0 ms an update, kernels 6.0 ms: backward 50%, forward 33%, update 17%; attention 33%"
    )


def test_a_profiler_that_fails_is_a_line_and_updates_go_on(tmp_path: Path, monkeypatch, capsys) -> None:
    class Broken:
        def stop(self) -> None:
            raise RuntimeError("no such device")

    profile, done = StepProfile(tmp_path, 1, "CPU"), []
    monkeypatch.setattr(StepProfile, "start", lambda self: setattr(self, "profiler", Broken()))
    for number in range(4):
        with profile.around():
            done.append(number)
    assert done == [0, 1, 2, 3] and list(tmp_path.iterdir()) == []
    assert "profile.json: not written: no such device" in capsys.readouterr().err
    assert step_profile.read_times(tmp_path) == []


def test_a_number_below_0_is_refused(tmp_path: Path, capsys) -> None:
    (tmp_path / "train.yaml").write_text("data: x\nout: y\n")
    assert main(["train", str(tmp_path / "train.yaml"), "--profile", "-1"]) == 2
    assert "--profile -1: must be at least 0" in capsys.readouterr().err
