"""Training steps of plain PyTorch GPTs on one GPU, as rows that `validate` reads.

    python -m tests.benchmarks.gpu_steps --out rows.csv            # on a machine with a GPU: needs PyTorch only

bf16 weights, AdamW(fused=True), no dropout; several sizes, batches and sequence lengths; attention through
`scaled_dot_product_attention` (flash) or written out (scores in bf16, softmax in fp32). Seconds are the median of steps
after warm-up; memory is the peak that the allocator handed out.
"""

import argparse
import csv
import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

COLUMNS_TEXT = """
id split quality source hw framework dev_per_node n_dev model layers hidden heads kv_heads ffn vocab seq tp pp
dp cp ep vpp seq_par zero mbs gbs recompute precision iter_time_s tflops_per_dev flops_convention tokens_s_dev
mem_gib mem_kind notes
"""
COLUMNS = COLUMNS_TEXT.split()
VOCABULARY = 50304
DEVICE = "cuda"


@dataclass(frozen=True)
class Case:
    layers: int
    hidden: int
    heads: int
    sequence: int
    batch: int
    flash: bool = True
    recompute: bool = False
    accumulate: int = 1


CASES = [
    *(Case(12, 768, 12, 1024, batch) for batch in (1, 4, 16, 32)),
    *(Case(24, 1024, 16, 1024, batch) for batch in (2, 8, 16)),
    *(Case(24, 1024, 16, 1024, batch, flash=False) for batch in (2, 8)),
    *(Case(24, 1024, 16, 2048, batch, recompute=True) for batch in (4, 16)),
    *(Case(24, 2048, 16, 2048, batch) for batch in (1, 4, 8)),
    *(Case(24, 2048, 16, 2048, batch, flash=False) for batch in (1, 2)),
    *(Case(24, 2048, 16, 2048, batch, recompute=True) for batch in (4, 16)),
    *(Case(24, 2048, 16, 4096, batch) for batch in (1, 2)),
    *(Case(24, 2048, 16, 8192, batch) for batch in (1,)),
    *(Case(32, 2560, 32, 1024, batch) for batch in (1, 4, 8)),
    *(Case(32, 2560, 32, 1024, batch, recompute=True) for batch in (8, 16)),
    *(Case(32, 2560, 32, 2048, 2, flash=flash) for flash in (True, False)),
    *(Case(16, 4096, 32, 2048, batch) for batch in (1, 2, 4)),
    *(Case(16, 4096, 32, 2048, batch, recompute=True) for batch in (4, 8)),
    *(Case(6, 8192, 64, 2048, batch) for batch in (1, 2)),
    Case(12, 768, 12, 1024, 8, accumulate=4),
    Case(24, 2048, 16, 2048, 2, accumulate=8),
    Case(32, 2560, 32, 1024, 4, accumulate=4),
    Case(30, 3072, 32, 2048, 2),
    Case(30, 3072, 24, 2048, 2),
]


class Layer(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case, hidden = case, case.hidden
        self.first, self.second = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.together, self.output = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def attend(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        batch, sequence, hidden = x.shape
        parts = self.together(x).view(batch, sequence, 3, self.case.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        if self.case.flash:
            context = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = (q @ k.transpose(-1, -2)) * (q.shape[-1] ** -0.5) + mask
            context = torch.softmax(scores, -1, dtype=torch.float32).to(v.dtype) @ v
        return self.output(context.transpose(1, 2).reshape(batch, sequence, hidden))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        x = x + self.attend(self.first(x), mask)
        return x + self.down(functional.gelu(self.up(self.second(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        self.word, self.position = nn.Embedding(VOCABULARY, case.hidden), nn.Embedding(case.sequence, case.hidden)
        self.layers = nn.ModuleList(Layer(case) for _ in range(case.layers))
        self.norm = nn.LayerNorm(case.hidden)

    def forward(self, ids: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        mask = None
        if not self.case.flash:
            mask = torch.full((ids.shape[1], ids.shape[1]), -1e4, device=ids.device, dtype=torch.bfloat16).triu(1)
        x = self.word(ids) + self.position(torch.arange(ids.shape[1], device=ids.device))
        for layer in self.layers:
            x = checkpoint(layer, x, mask, use_reentrant=False) if self.case.recompute else layer(x, mask)
        logits = functional.linear(self.norm(x), self.word.weight).float()
        return functional.cross_entropy(logits.flatten(0, 1), target.flatten())


def step_seconds(case: Case, budget: float) -> tuple[float, float]:
    """(median seconds of a step, GiB at the peak)."""
    torch.manual_seed(0)
    torch.cuda.empty_cache()
    with torch.device(DEVICE):
        model = Gpt(case).to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(0, VOCABULARY, (case.batch, case.sequence + 1), device=DEVICE)
    times: list[float] = []
    end = time.perf_counter() + budget
    while len(times) < 6 or (time.perf_counter() < end and len(times) < 40):
        if len(times) == 2:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        for _ in range(case.accumulate):
            loss = model(ids[:, :-1], ids[:, 1:])
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:]), torch.cuda.max_memory_allocated() / 2**30


def row(number: int, case: Case, seconds: float | None, gib: float | None) -> dict[str, object]:
    device = torch.cuda.get_device_name()
    return {
        "id": f"pytorch_gpu_steps_{number:04d}", "split": "dev", "quality": "A",
            "source": "tests/benchmarks/gpu_steps.py",
        "hw": f"{device}, one GPU", "framework": "PyTorch eager", "dev_per_node": 1, "n_dev": 1,
        "model": f"GPT {case.layers}x{case.hidden}", "layers": case.layers, "hidden": case.hidden, "heads": case.heads,
        "ffn": 4 * case.hidden, "vocab": VOCABULARY, "seq": case.sequence, "tp": 1, "pp": 1, "dp": 1, "cp": 1, "ep": 1,
        "vpp": 1, "seq_par": 0, "zero": 0, "mbs": case.batch, "gbs": case.batch * case.accumulate,
        "recompute": "full" if case.recompute else "none", "precision": "bf16",
        "iter_time_s": "" if seconds is None else f"{seconds:.6f}", "mem_gib": "OOM" if gib is None else f"{gib:.3f}",
        "mem_kind": "torch allocated peak GiB", "notes": f"flash={int(case.flash)} dropout=0 torch {torch.__version__}",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seconds", type=float, default=4.0, help="about how long a case is timed")
    arguments = parser.parse_args()
    with open(arguments.out, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for number, case in enumerate(CASES):
            try:
                seconds, gib = step_seconds(case, arguments.seconds)
            except torch.cuda.OutOfMemoryError:
                seconds = gib = None
            writer.writerow(row(number, case, seconds, gib))
            file.flush()
            print(case, "out of memory" if seconds is None else f"{seconds * 1e3:.2f} ms, {gib:.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
