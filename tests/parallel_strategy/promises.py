"""What every search promises of its winners, checked on one file: a line for each promise that is broken."""

from pangu.foundation.errors import UserError
from pangu.foundation.yaml_document import parse_document
from parallel_strategy.export import megatron, mindformers
from parallel_strategy.export.own_format import unsaid
from parallel_strategy.importing.megatron_arguments import read_arguments
from parallel_strategy.importing.mindformers_yaml import read_yaml
from parallel_strategy.mindspore.limits import COMPILER, check_supported
from parallel_strategy.predict import Prediction
from parallel_strategy.search.candidates import program_of
from parallel_strategy.search.executable import is_executed, keep_to_framework
from parallel_strategy.search.find import search
from parallel_strategy.search.shapes import Space
from parallel_strategy.spec.capability import outside
from parallel_strategy.spec.strategy import Setup, StrategySpec

EQUAL = 1e-9  # of two predictions of one program
WRITTEN = 1e-6  # of one that was written with rounded buckets


def broken_promises(asked: Setup, *, keeps: bool = True) -> list[str]:
    """Search from a file's own degrees of parallelism, and check the best. keeps: to what the framework executes."""
    strategy, mine, mesh = asked.strategy, Prediction(asked), asked.strategy.mesh
    axes = asked.framework.executes.axes
    tp, pp = sorted({1, mesh.tp}), [mesh.pp if axes is None or "pp" in axes else 1]
    space = Space(mesh.devices, strategy.batch.global_, tp=tp, pp=pp, micro=[1, 2])
    if keeps:
        space = keep_to_framework(asked, space)
    found = search(asked, space)
    broken = []
    for prediction in found.best:
        text = prediction.setup.strategy.dump()
        again = Prediction(asked.with_strategy(StrategySpec.parse(text, "best")))
        if abs(again.seconds / prediction.seconds - 1) > EQUAL or again.out_of_memory:
            broken.append(f"predicted {again.seconds} s, searched {prediction.seconds} s")
        if keeps:
            broken += [f"leaves the framework: {line}" for line in outside(prediction.setup)]
            broken += [f"cannot be said: {field}" for field in unsaid(prediction.setup)]
    if len({program_of(p.setup.strategy, asked.model.num_layers) for p in found.best}) != len(found.best):
        broken.append("a program stands there twice")
    if found.best:
        broken += exported_differs(found.best[0])
        if keeps and asked.framework.name == COMPILER:
            try:
                check_supported(found.best[0].setup)
            except UserError as error:
                broken.append(f"MindSpore's compiler refuses: {error}")
    best = found.best[0].seconds if found.best else float("inf")
    is_in_space = not mine.out_of_memory and space.admits(strategy) and is_executed(asked, space)
    if is_in_space and best > mine.seconds * (1 + EQUAL):
        broken.append(f"the file itself takes {mine.seconds} s, the best found {best} s")
    return broken


def exported_differs(prediction: Prediction) -> list[str]:
    """Return what differs in what is read back of the framework's own configuration."""
    setup = prediction.setup
    kind = setup.framework.described_by
    if kind is None or unsaid(setup, with_model=True):
        return []
    if kind == "megatron":
        read = read_arguments(megatron.text(setup), "megatron.txt", setup.model.name)
    else:
        read = read_yaml(parse_document(mindformers.text(setup), "mindformers.yaml"), setup.model.name)
    said = StrategySpec.from_fields({"framework": setup.framework.name, **read.strategy}, "again")
    heads = None if setup.model.kv_heads == setup.model.num_heads else setup.model.kv_heads
    broken = []
    if read.model != setup.model.model_copy(update={"kv_heads": heads}):
        broken.append("another model reads back")
    again = Prediction(setup.with_strategy(said))
    if abs(again.seconds / prediction.seconds - 1) > WRITTEN or abs(again.gib / prediction.gib - 1) > WRITTEN:
        broken.append(f"what is exported takes {again.seconds} s for {prediction.seconds}, {again.gib} GiB")
    return broken
