"""The stages of a recipe, one module each: `Settings`, the steps it is made of (`STEPS`), and their pure functions."""

import importlib
from types import ModuleType

# the name in a recipe -> its module; nothing is imported before a recipe asks for it
STAGES = {
    "read": "data_pipeline.stages.read",
    "clean": "data_pipeline.stages.clean",
    "filter": "data_pipeline.stages.filter",
    "quality": "data_pipeline.stages.quality",
    "dedup_exact": "data_pipeline.stages.dedup_exact",
    "dedup_fuzzy": "data_pipeline.stages.near_duplicates",
    "dedup_paragraph": "data_pipeline.stages.dedup_paragraph",
    "dedup_substring": "data_pipeline.stages.dedup_substring",
    "decontaminate": "data_pipeline.stages.decontaminate",
    "mix": "data_pipeline.stages.mix",
    "tokenizer": "data_pipeline.stages.train_tokenizer",
    "pack": "data_pipeline.stages.pack",
}


def load_stage(kind: str) -> ModuleType:
    """The module of a stage."""
    return importlib.import_module(STAGES[kind])
