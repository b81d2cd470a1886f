"""Write records as text: what the model is given, and what it is to answer.

A template is data, and is stored with the adapter. `qa` is the paper's own form of questions and answers (arXiv
2104.12369, Table 7), which the base model has seen; `plain` joins question and answer with a line break, as the GPT-3
trainer of ModelScope does.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pangu.foundation.errors import UserError
from pangu.foundation.settings import nearest_name
from pangu.foundation.yaml_document import YamlDocument, read_document, shown
from pangu.tuning.records import Record, Turn


@dataclass(frozen=True)
class Template:
    """system, user: with {text}. answer: what stands before an answer. between: turns of a conversation."""

    name: str
    system: str = "{text}\n"
    user: str = "问：{text}\n"
    answer: str = "答："
    between: str = "\n"

    def prompt(self, turns: Sequence[Turn]) -> str:
        """Return the text that an answer follows."""
        parts = []
        for turn in turns:
            if turn.role == "system":
                parts.append(self.system.replace("{text}", turn.text))
            elif turn.role == "user":
                parts.append(self.user.replace("{text}", turn.text) + self.answer)
            else:
                parts.append(turn.text + self.between)
        return "".join(parts)

    def pieces(self, record: Record) -> list[tuple[str, bool]]:
        """Return (text, whether it is an answer), in order; a plain text is all answer."""
        if record.text:
            return [(record.text, True)]
        pieces: list[tuple[str, bool]] = []
        start = 0
        for number, turn in enumerate(record.turns):
            if turn.role == "assistant":
                before = self.between if start else ""
                pieces += [(before + self.prompt(record.turns[start:number]), False), (turn.text, True)]
                start = number + 1
        return pieces

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, as an adapter stores them."""
        return asdict(self)


TEMPLATES = {
    "qa": Template("qa"),
    "plain": Template("plain", user="{text}\n", answer=""),
}


def load_template(name: str) -> Template:
    """Return a template by name, or from a YAML file with its fields. Raises UserError."""
    if name in TEMPLATES:
        return TEMPLATES[name]
    if not name.endswith((".yaml", ".yml")):
        raise UserError(f"template {name!r} is unknown{nearest_name(name, list(TEMPLATES))}; or give a YAML file")
    return _checked(read_document(name))


def template_of(fields: Any, where: str) -> Template:
    """Return a template from its fields. Raises UserError that names a wrong one."""
    return _checked(YamlDocument(where, fields))


def _checked(document: YamlDocument) -> Template:
    known, fields = list(Template.__dataclass_fields__), document.data
    if not isinstance(fields, dict):
        raise document.mistake(f"must be a mapping of {', '.join(known)}")
    for name, value in fields.items():
        if name not in known:
            raise document.mistake(f"is unknown{nearest_name(str(name), known)}", (name,))
        if not isinstance(value, str):
            raise document.mistake(f"{shown(value)} is not text", (name,))
    template = Template(**{"name": Path(document.where).stem, **fields})
    if "{text}" not in template.user:
        raise document.mistake("must hold {text}", ("user",))
    return template
