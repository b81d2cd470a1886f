"""JSON schemas of the four kinds of file, for editors that check and complete YAML."""

from typing import Any

from parallel_strategy.spec.cluster import ClusterSpec
from parallel_strategy.spec.file import SpecFile
from parallel_strategy.spec.framework import FrameworkSpec
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.spec.strategy import StrategySpec

SCHEMAS: dict[str, type[SpecFile]] = {
    "strategy": StrategySpec,
    "model": ModelSpec,
    "cluster": ClusterSpec,
    "framework": FrameworkSpec,
}


def schema_of(kind: type[SpecFile]) -> dict[str, Any]:
    """Return the schema of a kind of file. Names of presets are listed where a preset may be named."""
    schema = kind.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    for name, presets in (("ModelChoice", ModelSpec), ("ClusterChoice", ClusterSpec)):
        choice = schema.get("$defs", {}).get(name)
        if choice is not None:
            choice["properties"]["preset"]["examples"] = presets.preset_names()
    return schema
