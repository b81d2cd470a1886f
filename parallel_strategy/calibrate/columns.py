"""The columns of a table of measured runs, what each means, and two rows to begin with: `--template` writes them."""

import csv
import io
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One column. is_needed: a row without it is not read. examples: of the two rows of the template."""

    name: str
    meaning: str
    examples: tuple[str, str]
    is_needed: bool = False


COLUMNS = (
    Column(
        "id",
        "a name of the row; rows of one name with _1, _2 ... make one table of scores",
        ("ours_1", "ours_2"),
        True,
    ),
    Column(
        "quality",
        "A measured with its whole layout, B one field inferred; C and D are not scored; absent: A",
        ("A", "A"),
    ),
    Column(
        "source",
        "where it was measured, and the release after an @",
        ("our log @0.8.0", "our log @0.8.0"),
    ),
    Column(
        "hw",
        "a preset of a cluster, or what the validation tables call it",
        ("dgx-a100", "dgx-a100"),
        True,
    ),
    Column(
        "framework",
        "a preset of a framework, or what the tables call it",
        ("megatron-core", "megatron-core"),
        True,
    ),
    Column(
        "n_dev",
        "devices of the run",
        ("8", "16"),
        True,
    ),
    Column(
        "model",
        "its name; Llama, Qwen, DeepSeek and the like bring their activation, norm and positions",
        ("gpt-2.7b", "llama2-7b"),
    ),
    Column(
        "layers",
        "transformer layers",
        ("32", "32"),
        True,
    ),
    Column(
        "hidden",
        "hidden size",
        ("2560", "4096"),
        True,
    ),
    Column(
        "heads",
        "attention heads; absent: hidden / 128",
        ("32", "32"),
    ),
    Column(
        "kv_heads",
        "key-value heads; absent: as many as heads",
        ("", "32"),
    ),
    Column(
        "ffn",
        "inner size of the feed-forward layer; absent: 4 x hidden",
        ("10240", "11008"),
    ),
    Column(
        "vocab",
        "words; absent: what the name of the model says, else 51,200",
        ("51200", "32000"),
    ),
    Column(
        "seq",
        "tokens of a sequence",
        ("2048", "4096"),
        True,
    ),
    Column(
        "tp",
        "tensor-parallel ranks",
        ("2", "4"),
        True,
    ),
    Column(
        "pp",
        "pipeline stages",
        ("1", "2"),
        True,
    ),
    Column(
        "dp",
        "data-parallel ranks; absent: the devices that are left",
        ("4", "2"),
    ),
    Column(
        "cp",
        "context-parallel ranks; absent: 1",
        ("1", "1"),
    ),
    Column(
        "ep",
        "expert-parallel ranks; absent: 1",
        ("", ""),
    ),
    Column(
        "etp",
        "ranks that split each expert; absent: tp, of Megatron-Bridge 1",
        ("", ""),
    ),
    Column(
        "vpp",
        "chunks of layers on each stage; absent: 1",
        ("1", "2"),
    ),
    Column(
        "seq_par",
        "1: sequence parallelism",
        ("0", "1"),
    ),
    Column(
        "zero",
        "optimizer sharding, 0 to 3",
        ("1", "1"),
    ),
    Column(
        "mbs",
        "sequences of a micro-batch; absent: 1",
        ("4", "1"),
    ),
    Column(
        "gbs",
        "sequences of a step",
        ("256", "128"),
        True,
    ),
    Column(
        "recompute",
        "none, selective, full, or full [3, 9]: layers of each stage",
        ("full", "selective"),
    ),
    Column(
        "precision",
        "fp16, bf16, fp8 or fp4; absent: fp16",
        ("bf16", "bf16"),
    ),
    Column(
        "iter_time_s",
        "seconds of a step; absent: not scored",
        ("8.2", "8.3"),
    ),
    Column(
        "mem_gib",
        "GiB of the fullest device, or OOM",
        ("", ""),
    ),
    Column(
        "mem_kind",
        "how it was read: allocated, reserved, nvidia-smi",
        ("", ""),
    ),
    Column(
        "notes",
        "word=value of the rest: flash=1, schedule=zb-h1, offset=[0,1,1,0], interleave=2",
        ("flash=1", "flash=1"),
    ),
)
REQUIRED = tuple(column.name for column in COLUMNS if column.is_needed)


def template() -> str:
    """Return a table with two rows that `validate` reads."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in COLUMNS])
    for row in range(2):
        writer.writerow([column.examples[row] for column in COLUMNS])
    return text.getvalue()


def page() -> str:
    """Return the table of a document: a line a column."""
    lines = ["| column | needed | meaning |", "|---|---|---|"]
    lines += [f"| `{column.name}` | {'yes' if column.is_needed else ''} | {column.meaning} |" for column in COLUMNS]
    return "\n".join(lines) + "\n"
