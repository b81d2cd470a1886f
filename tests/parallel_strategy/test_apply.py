"""Which operator of the serial network is split how, and what MindSpore cannot do, said before it starts."""

from pathlib import Path

import pytest

from pangu.foundation.errors import UserError
from parallel_strategy.graph.program import Program
from parallel_strategy.graph.weight_collectives import cut_of
from parallel_strategy.mindspore.layouts import parameter_layouts
from parallel_strategy.mindspore.limits import as_compiled, check_read, check_supported
from parallel_strategy.mindspore.pangu_network import WORD_TABLES
from parallel_strategy.mindspore.pipeline_stages import places_of_layers, recomputed_layers, stage_of_cell
from parallel_strategy.spec.strategy import Setup, StrategySpec

MODEL = "num_layers: 4\nhidden_size: 64\nnum_heads: 8\nffn_hidden_size: 256\nseq_length: 32\nvocab_size: 512\n"
MODEL += "query_layer: true\ndropout_rate: 0.1\n"


def setup_of(folder: Path, text: str, more: str = "") -> Setup:
    (folder / "model.yaml").write_text(MODEL + more)
    (folder / "strategy.yaml").write_text("model: {file: model.yaml}\n" + text)
    return Setup.load(folder / "strategy.yaml")


@pytest.fixture
def split(tmp_path: Path) -> Setup:
    return setup_of(tmp_path, "batch: {global: 16, micro: 2}\nmesh: {pp: 2, dp: 2, tp: 4}\n")


def test_stages_of_cells_are_the_emulator_s(split: Setup) -> None:
    places = places_of_layers(split)
    assert [place.stage for place in places] == [0, 0, 1, 1]
    stages = {
        path: place.stage
        for path in ("backbone.word_embedding", "backbone.blocks.1", "backbone.blocks.2", "backbone.top_query_layer")
        if (place := stage_of_cell(split, path, places)) is not None
    }
    assert list(stages.values()) == [0, 0, 1, 1]
    assert stage_of_cell(split, "backbone.blocks.1.attention", places) is None


def test_layouts_follow_the_operators(split: Setup) -> None:
    layouts = parameter_layouts(split)
    assert layouts["backbone.word_embedding.embedding_table"].tensor_map == (0, -1)
    assert layouts["backbone.word_embedding.embedding_table"].stages == (0, 1)
    assert layouts["backbone.blocks.0.output.mapping.weight"].slice_shape == (64, 64)
    assert layouts["backbone.blocks.0.attention.projection.bias"].copies == 8
    assert all(layout.optimizer_shard_size == 0 for layout in layouts.values())


@pytest.mark.parametrize(
    ("zero", "sharded", "step"),
    [("threshold_kb: 0", True, 4), ("threshold_kb: 5", False, 0), ('threshold_kb: 0, whole: ["*dense1*"]', False, 0)],
)
def test_optimizer_shards(tmp_path: Path, zero: str, sharded: bool, step: int) -> None:
    text = f"batch: {{global: 4, micro: 2}}\nmesh: {{dp: 2, tp: 4}}\nzero: {{optimizer_shard: true, {zero}}}\n"
    layout = parameter_layouts(setup_of(tmp_path, text))["backbone.blocks.0.attention.dense1.weight"]
    assert (layout.optimizer_shard_size == -1, layout.optimizer_shard_step) == (sharded, step)


def test_a_tied_table_with_two_readers_stays_whole_at_level_3(tmp_path: Path) -> None:
    text = "batch: {{global: 16, micro: {micro}}}\nmesh: {mesh}\n"
    text += "zero: {{optimizer_shard: true, level: 3, threshold_kb: 0}}\n"
    sharded = {}
    for micro, mesh in ((4, "{dp: 4, tp: 2}"), (2, "{dp: 4, tp: 2}"), (2, "{pp: 2, dp: 2, tp: 2}")):
        split = setup_of(tmp_path, text.format(micro=micro, mesh=mesh))
        table = parameter_layouts(split)["backbone.word_embedding.embedding_table"]
        # the program that is priced and executed has the same
        program = Program(as_compiled(split))
        (cut,) = (cut_of(program, p, layer) for layer, p in program.stage_parameters(0) if p.name in WORD_TABLES)
        assert (cut.shards > 1) == (table.optimizer_shard_size != 0)
        sharded[micro, mesh] = cut.shards > 1
    assert list(sharded.values()) == [True, False, True]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "batch: {global: 4, micro: 2}\nmesh: {cp: 2, dp: 2}\n",
            "batch.micro: mindspore-2.10 does not execute 2 sequences with mesh.cp 2; nearest: 1$",
        ),
        (
            "batch: {global: 4}\nmesh: {cp: 2, dp: 2, tp: 2}\n",
            "mesh.cp: mindspore-2.10 does not execute context parallelism with mesh.tp 2; nearest: 1$",
        ),
        (
            "batch: {global: 4}\nmesh: {cp: 2, dp: 2}\noverrides: [{operator: head, strategy: [[4, 1], [1, 1]]}]\n",
            "overrides: .* other splits of single operators with mesh.cp 2",
        ),
        (
            "batch: {global: 8}\nmesh: {dp: 2, tp: 2, order: [tp, dp]}\n",
            "mesh.order: .* ranks in the order tp, dp; nearest: pp, dp, cp, tp",
        ),
        (
            "batch: {global: 8}\nmesh: {pp: 2, dp: 2}\npipeline: {schedule: zb_h1}\n",
            r"pipeline.schedule: .* 'zb_h1'; nearest: 'zb_v' \(legal: 1f1b, gpipe, mindspore_vpp, zb_v\)",
        ),
        ("batch: {global: 12}\nmesh: {dp: 6}\n", "mesh: .* 6 devices on servers of 8; nearest: 4"),
        (
            "batch: {global: 8, micro: 2}\nmesh: {dp: 4}\ntensor: {interleave: 2}\n",
            "tensor.interleave: .* 2 halves of a micro-batch; nearest: 1",
        ),
        (
            "batch: {global: 8}\nmesh: {dp: 4}\noffload: {activation: 0.5}\n",
            "offload.activation: .* 0.5 of the activations on the host; nearest: 0",
        ),
        (
            "batch: {global: 8, micro: 2}\nmesh: {tp: 4}\ntensor: {sequence_parallel: true}\n",
            "batch.micro: .* 2 sequences with tensor.sequence_parallel; nearest: 1",
        ),
    ],
)
def test_what_mindspore_cannot_do_is_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        check_supported(setup_of(tmp_path, text))


def test_presets_can_be_applied() -> None:
    for name in StrategySpec.preset_names():
        if name.startswith("pangu-alpha"):
            check_supported(Setup.resolve(StrategySpec.preset(name), Path()))


def setup_with_experts(folder: Path, mesh: str) -> Setup:
    text = f"batch: {{global: 8, micro: 1}}\nmesh: {{{mesh}}}\nrecompute: {{mode: full}}\n"
    return setup_of(folder, text, "experts: {count: 4, routing: switch, layers: [1, 2]}\n")


def test_experts_on_a_split_sequence_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mesh\.cp: "):
        check_supported(setup_with_experts(tmp_path, "cp: 2"))


def test_files_that_do_not_say_where_experts_lie_are_one_line(tmp_path: Path) -> None:
    check_read(setup_with_experts(tmp_path, "dp: 2, ep: 2"))
    setup = setup_with_experts(tmp_path, "dp: 4, ep: 2")
    with pytest.raises(UserError, match=r"mesh\.ep 2: .* right: 1 or 4"):
        check_read(setup)


def test_layers_with_experts_have_their_stages_and_are_recomputed_as_the_others(tmp_path: Path) -> None:
    setup = setup_with_experts(tmp_path, "pp: 2, dp: 2, ep: 2")
    check_supported(setup)
    assert [place.stage for place in places_of_layers(setup)] == [0, 0, 1, 1]
    assert recomputed_layers(setup) == {0, 1, 2, 3}
