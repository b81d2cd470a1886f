"""The stages of a recipe, one module each: `Settings`, the steps it is made of (`STEPS`), and their pure functions."""

import importlib
from types import ModuleType

# the name in a recipe -> its module; nothing is imported before a recipe asks for it
STAGES = {
    "read": "data_pipeline.stages.read.stage",
    "clean": "data_pipeline.stages.clean.stage",
    "filter": "data_pipeline.stages.filter.stage",
    "label": "data_pipeline.stages.label.stage",
    "quality": "data_pipeline.stages.quality.stage",
    "dedup_exact": "data_pipeline.stages.dedup.exact",
    "dedup_fuzzy": "data_pipeline.stages.dedup.near_duplicates",
    "dedup_paragraph": "data_pipeline.stages.dedup.paragraph",
    "dedup_substring": "data_pipeline.stages.dedup.substring",
    "decontaminate": "data_pipeline.stages.decontaminate.stage",
    "mix": "data_pipeline.stages.mix.stage",
    "tokenizer": "data_pipeline.stages.tokenizer.stage",
    "pack": "data_pipeline.stages.pack.stage",
    "megatron": "data_pipeline.stages.pack.megatron",
    "export": "data_pipeline.stages.export.stage",
}


def load_stage(kind: str) -> ModuleType:
    """Return the module of a stage."""
    return importlib.import_module(STAGES[kind])
