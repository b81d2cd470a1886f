"""One door to every kind of file: which kind it is, is seen from what is in it."""

from pathlib import Path

from pangu.foundation.errors import PlacedError, UserError
from pangu.foundation.yaml_document import MOST_BYTES, parse_document, shown
from parallel_strategy.importing.huggingface_config import read_config
from parallel_strategy.importing.imported import Imported, json_document
from parallel_strategy.importing.megatron_arguments import read_arguments
from parallel_strategy.importing.mindformers_yaml import read_yaml

KINDS = "a Hugging Face config.json, a MindFormers YAML, or a script or line of Megatron-LM's arguments"


def read_import(path: Path) -> Imported:
    """Return what a file says. Raises UserError in one line for one that cannot be read, or is of no kind that is read.

    A folder is taken for a Hugging Face one, with its config.json.
    """
    if path.is_dir():
        path = path / "config.json"
    short = shown(str(path))[1:-1]
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise PlacedError(f"{short}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MOST_BYTES:
        raise PlacedError(f"{short}: is larger than {MOST_BYTES >> 20} MiB; it is no configuration")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise PlacedError(f"{short}:{line}: byte {error.start} is not UTF-8 text; save the file as UTF-8") from None
    if not text.strip():
        raise PlacedError(f"{short}: is empty; it must be {KINDS}")
    name = path.stem if path.name != "config.json" else path.resolve().parent.name
    try:
        return _read(text, str(path), name, path.suffix.lower())
    except PlacedError:
        raise
    except UserError as error:
        raise PlacedError(f"{short}: {error}") from None


def _read(text: str, where: str, name: str, ending: str) -> Imported:
    if ending == ".json" or text.lstrip().startswith("{"):
        return read_config(json_document(text, where))
    if ending in (".yaml", ".yml"):
        document = parse_document(text, where)
        if "model_type" in document.data:
            return read_config(document)
        if "model" not in document.data and "parallel_config" not in document.data:
            raise document.mistake(
                f"is no MindFormers configuration: it has no model and no parallel_config; give {KINDS}"
            )
        return read_yaml(document, name)
    if "--" not in text:
        raise PlacedError(f"{where}: has no arguments that begin with --; give {KINDS}")
    return read_arguments(text, where, name)
