"""The training step under a strategy, compiled without weights or data: what MindSpore's dry-run is asked."""

import json
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pangu.config import ModelConfig
from pangu.foundation.atomic_file import write_whole
from pangu.foundation.errors import UserError

if TYPE_CHECKING:
    from pangu.model import PanguAlpha
    from pangu.training.loss import Loss
    from pangu.tuning.tuning_settings import Settings
    from parallel_strategy.spec.strategy import StrategySpec

# What a training run takes from its corpus and from train.yaml; neither decides how anything is split.
END_OF_DOCUMENT, PAD = 9, 6
BETA1, BETA2, CLIP_NORM = 0.9, 0.95, 1.0


def model_config(fields: dict) -> ModelConfig:
    """Return the network that a strategy's model section describes, which knows more kinds of networks than there
    are here."""
    known = {name: fields[name] for name in ModelConfig.model_fields if name in fields}
    experts = fields.get("experts")
    if experts:
        blocks = fields["num_layers"] - int(fields["query_layer"])
        same = ("count", "routing", "shared", "domains", "balance_loss", "z_loss", "unit_gate")
        known["experts"] = {name: experts[name] for name in same} | {
            "choices": experts["top_k"],
            "capacity_factor": None if experts["unlimited"] else experts["capacity_factor"],
            "layers": list(range(experts["first_layer"], blocks)),
        }
    return ModelConfig.model_validate(known)


def compile_step(
    strategy: str,
    out: str,
    save_strategy: str | None = None,
    save_groups: str | None = None,
    load_strategy: str | None = None,
    load_operators: str | None = None,
    save_operators: str | None = None,
    save_skeleton: str | None = None,
    tuning: "Settings | None" = None,
) -> None:
    """Compile for the rank that the environment names; write layouts and seconds to `out` as JSON.

    save_strategy, save_groups, save_operators: files that MindSpore writes of what it did. load_strategy,
    load_operators: strategy files that say how operators are split, in the place of our table: those that own
    parameters, or all. save_skeleton: compile on a small mesh, and write which operator each of MindSpore's names is.
    tuning: compile a step of a fine-tuning, whose rows have a weight behind each id.

    Raises UserError where the strategy is wrong or cannot be applied.
    """
    from pangu.foundation import errors as strategy_errors
    from parallel_strategy.mindspore.operator_splits import load_setup

    try:
        setup = load_setup(strategy)
        import pangu.model.network  # first of all importers of MindSpore, whose messages it quietens
        from parallel_strategy.mindspore.apply import StrategyFiles, apply, operators, start
        from parallel_strategy.mindspore.skeleton import skeleton_json, skeleton_setup

        if save_skeleton:
            setup = skeleton_setup(setup)
            save_operators = str(Path(out).with_name("operators.json"))
        start(setup)
        del pangu.model.network
        config = model_config(setup.model.model_dump())
        step = build_step(config, setup.strategy, tuning.checked(config) if tuning else None)
        kinds = [(path, primitive.name) for path, primitive in operators(step.loss)]
        files = StrategyFiles(*map(absolute, (load_strategy, load_operators, save_operators)))
        parallel = apply(setup, step, files)
    except strategy_errors.UserError as error:
        raise UserError(str(error)) from None
    if save_strategy:
        parallel.whole.save_param_strategy_file(str(Path(save_strategy).resolve()))
    if save_groups:
        parallel.whole.set_group_ckpt_save_file(str(Path(save_groups).resolve()))
    parallel.whole.no_init_parameters_in_compile()  # else this rank's parts take memory: 12 GB of the 200B model
    from mindspore import Tensor

    rows = setup.strategy.batch.global_ // (1 if parallel.whole_batch else setup.strategy.mesh.dp)
    begun, computed = time.perf_counter(), time.process_time()
    width = (2 if tuning else 1) * (setup.model.seq_length + 1)
    layouts = parallel.compile(Tensor(np.zeros((rows, width), np.int32)))
    if save_skeleton and save_operators:
        try:
            skeleton = skeleton_json(Path(save_operators).read_bytes(), kinds, setup)
        except strategy_errors.UserError as error:
            raise UserError(str(error)) from None
        write_whole(Path(save_skeleton), skeleton)
    answer = {
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - computed,
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "whole_batch": parallel.whole_batch,
        "fusion_mb": parallel.fusion_mb(),
        "groups": {name: list(ranks) for name, ranks in parallel.groups.items()},
        "parameters": {
            name: {
                "device_matrix": list(layout[0]),
                "tensor_map": list(layout[1]),
                "local_shape": list(layout[2]),
                "optimizer_sharded": bool(layout[5]),
                "shape": list(layout[6]),
            }
            for name, layout in layouts.items()
        },
    }
    write_whole(Path(out), json.dumps(answer).encode())


def absolute(path: str | None) -> str | None:
    return str(Path(path).resolve()) if path else None


def build_step(config: ModelConfig, strategy: "StrategySpec", tuning: "Settings | None" = None):
    """Return network, loss, optimizer and step as a training run, or a fine-tuning, builds them, with parameters that
    hold no memory."""
    from mindspore.nn.utils import no_init_parameters

    from pangu.model import PanguAlpha
    from pangu.training.loss import training_loss
    from pangu.training.objectives.causal import CausalBatch
    from pangu.training.optimizer import AdamW
    from pangu.training.step import TrainStep

    with no_init_parameters():
        network = PanguAlpha(config)
        if tuning:
            loss = tuning_loss(network, config, tuning)
        else:
            loss = training_loss(network, CausalBatch(END_OF_DOCUMENT, PAD), strategy.mesh.pp)
        optimizer = AdamW(network.trainable_params(), BETA1, BETA2)
        return TrainStep(loss, optimizer, CLIP_NORM, strategy.micro_batches)


def tuning_loss(network: "PanguAlpha", config: ModelConfig, tuning: "Settings") -> "Loss":
    """Put what a fine-tuning trains into a network, and return the loss of answers."""
    from pangu.training.loss import Loss
    from pangu.training.objectives.instruction import Instruction
    from pangu.tuning.methods import METHODS

    method = METHODS[tuning.method](network, config, tuning)
    return Loss(network, method.batch(Instruction(END_OF_DOCUMENT, config.attention).in_graph()))
