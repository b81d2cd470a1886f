"""Our tokenizer against jieba + SentencePiece, as the original's script runs them, on the same lines.

    python -m tests.benchmarks.tokenizer [--megabytes 24] [--file TEXT]

The released model and the corpora are read from ../shared where that is; elsewhere a generator writes the text and the
model is trained on it. The candidates take turns, a block of lines each, so that other load on the machine meets them
alike: only the ratios mean anything. One thread each.
"""

import argparse
import gzip
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import jieba
import sentencepiece

from data_pipeline.stages.tokenizer.training_process import train_tokenizer
from pangu.tokenizer import Tokenizer
from pangu.tokenizer.lazily_compiled import PATIENCE
from pangu.tokenizer.segmentation import segment
from tests.pangu.strange_text import strange_lines

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
WHITE_SPACE = {ord(" "): "▂", ord("\n"): "▃"}
BLOCK_LINES = 2000
FIRST_TOKEN = {
    "jieba + SentencePiece": (
        "import jieba, sentencepiece; jieba.setLogLevel(60); import sys;"
        "p = sentencepiece.SentencePieceProcessor(model_proto=open(sys.argv[1], 'rb').read());"
        "p.encode(' '.join(jieba.cut('今天天气真不错')))"
    ),
    "ours": ("import sys; from pangu.tokenizer import Tokenizer;Tokenizer.load(sys.argv[1]).encode('今天天气真不错')"),
}


def corpus_lines(size: int) -> Iterator[str]:
    """Lines of the corpora beside the checkout, an equal part of `size` bytes from each; else generated ones."""
    files = sorted((SHARED / "corpus").glob("*.jsonl.gz"))
    if not files:
        yield from strange_lines(seed=1, size=size)
    for path in files:
        left = size // len(files)
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for row in file:
                for line in json.loads(row)["text"].split("\n"):
                    left -= len(line.encode()) + 1
                    yield line
                if left <= 0:
                    break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=24)
    parser.add_argument("--file", type=Path, help="text to take instead")
    arguments = parser.parse_args()
    size = int(arguments.megabytes * 1e6)
    lines = arguments.file.read_text(encoding="utf-8").split("\n") if arguments.file else list(corpus_lines(size))

    with tempfile.TemporaryDirectory() as folder:
        released = SHARED / "released" / "vocab.model"
        if released.exists():
            tokenizer = Tokenizer.load(released)
        else:
            tokenizer = train_tokenizer(lines, Path(folder), vocab_size=8000, style="released", sample_lines=20_000)
        tokenizer.save(folder)
        compare(tokenizer, lines)
        first_tokens(str(Path(folder) / "vocab.model"))


def compare(tokenizer: Tokenizer, lines: list[str]) -> None:
    """Print speed, ratio and differing lines of segmentation, encoding and decoding."""
    jieba.setLogLevel(60)
    jieba.initialize()
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    tokenizer.encode("热身" * PATIENCE)
    segment("热身")
    tokenizer.decode([0])

    def peer_encode(line: str) -> list[int]:
        return processor.encode(" ".join([word.translate(WHITE_SPACE) for word in jieba.cut(line)]))

    def peer_decode(ids: list[int]) -> str:
        return processor.decode(ids).replace(" ", "").replace("▂", " ").replace("▃", "\n")

    def each(function: Callable) -> Callable:
        return lambda items: [function(item) for item in items]

    def batch_encode(lines: list[str]) -> list[list[int]]:
        return [ids.tolist() for ids in tokenizer.encode_batch(lines)]

    races: dict[str, tuple[Callable, dict[str, Callable]]] = {
        "segment": (each(lambda line: list(jieba.cut(line))), {"segment": each(segment)}),
        "encode": (each(peer_encode), {"encode, a line a call": each(tokenizer.encode), "encode, batch": batch_encode}),
        "decode": (each(peer_decode), {"decode": each(tokenizer.decode)}),
    }
    rows = [(race, name) for race, (_, candidates) in races.items() for name in candidates]
    seconds = dict.fromkeys([*(race + ", peer" for race in races), *(name for _, name in rows)], 0.0)
    differing: Counter[str] = Counter()
    for first in range(0, len(lines), BLOCK_LINES):
        block = lines[first : first + BLOCK_LINES]
        ids = batch_encode(block)
        for race, (peer, candidates) in races.items():
            results = {}
            for name, candidate in {race + ", peer": peer, **candidates}.items():
                start = time.perf_counter()
                results[name] = candidate(ids if race == "decode" else block)
                seconds[name] += time.perf_counter() - start
            for name in candidates:
                differing[name] += sum(a != b for a, b in zip(results[race + ", peer"], results[name], strict=True))

    megabytes = sum(len(line.encode()) for line in lines) / 1e6
    print(
        f"{megabytes:.1f} MB, {len(lines):,} lines; Python {platform.python_version()}, jieba {jieba.__version__}, "
        f"SentencePiece {sentencepiece.__version__}, one thread"
    )
    print(f"{'':24}{'peer MB/s':>10}{'ours MB/s':>10}{'ratio':>8}{'differing lines':>17}")
    for race, name in rows:
        theirs, ours = seconds[race + ", peer"], seconds[name]
        print(f"{name:24}{megabytes / theirs:10.2f}{megabytes / ours:10.2f}{theirs / ours:8.1f}{differing[name]:17,}")


def first_tokens(model: str) -> None:
    """Print how long a new process takes until it has encoded seven characters: the best of five, taking turns."""
    best = dict.fromkeys(FIRST_TOKEN, float("inf"))
    for _ in range(5):
        for name, program in FIRST_TOKEN.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", program, model], check=True, stderr=subprocess.DEVNULL)
            best[name] = min(best[name], time.perf_counter() - start)
    print("process start to first ids: " + ", ".join(f"{name} {value:.2f} s" for name, value in best.items()))


if __name__ == "__main__":
    main()
