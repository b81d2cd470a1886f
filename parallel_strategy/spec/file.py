"""The files of the planner: settings files of which each kind ships presets."""

from pathlib import Path
from typing import Self

from pangu.foundation.errors import UserError
from pangu.foundation.settings import Section, SettingsFile, nearest_name
from pangu.foundation.yaml_document import shown

__all__ = ["PRESETS", "Section", "SpecFile"]

PRESETS = Path(__file__).parent / "presets"


class SpecFile(SettingsFile):
    """A whole file. `folder` is where the presets of this kind lie."""

    @classmethod
    def presets_directory(cls) -> Path:
        raise NotImplementedError

    @classmethod
    def preset_names(cls) -> list[str]:
        return sorted(path.stem for path in cls.presets_directory().glob("*.yaml"))

    @classmethod
    def preset(cls, name: str) -> Self:
        """Return a shipped preset. Raises UserError that names the nearest one."""
        known = cls.preset_names()
        if name not in known:
            hint = nearest_name(name, known, cutoff=0.4)
            raise UserError(f"{shown(name)} is no preset of {cls.presets_directory().name}{hint}")
        return cls.load(cls.presets_directory() / f"{name}.yaml")
