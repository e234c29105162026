"""Runs phasetrace and PyTorch side by side and prints the table of ratios; see README.md.

Every variant is a process of its own that does one unit of work when told. The processes are told in turn, so that whatever
slows the machine slows all of them, and each ratio is between two units of work that stand next to each other in time.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OURS = ROOT / "target/release/examples/peer_steps"
# What glibc needs to keep freed pages: PyTorch gets with it what phasetrace sets for itself.
TUNED = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(64 << 20)}
SIZES = {
    "S": "4 layers, d 128, 4 heads, ffn 384, vocabulary 2,048, 32 x 128 tokens a step",
    "M": "6 layers, d 384, 6 heads, ffn 1,024, vocabulary 8,192, 16 x 256 tokens a step",
}
# Per task: name of a variant, its program, the least ratio to aim at (per size).
TASKS = {
    "train": [
        ("PyTorch eager", "train", {}, {"S": 1.3, "M": 1.15}),
        ("PyTorch eager, tuned allocator", "train", TUNED, {}),
        ("torch.compile", "train-compiled", {}, {"S": 1.05, "M": 1.0}),
        ("torch.compile, tuned allocator", "train-compiled", TUNED, {}),
    ],
    "decode": [
        ("transformers `generate`", "decode-generate", {}, {"S": 2.5, "M": 1.5}),
        ("PyTorch loop over a static cache", "decode", {}, {"S": 1.9, "M": 1.3}),
        ("the same, tuned allocator", "decode", TUNED, {}),
    ],
    "product": [("PyTorch `@`", "product", {}, {})],
}


class Peer:
    """A process that does one unit of work per line."""

    def __init__(self, name, command, extra_env, threads):
        env = dict(os.environ, PEER_THREADS=str(threads), OMP_NUM_THREADS=str(threads), **extra_env)
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.seconds, self.values = [], []
        line = self.process.stdout.readline()
        if line.strip() != "ready":
            raise SystemExit(f"{name}: said {line!r} instead of `ready`")

    def work(self, keep):
        # The threads of the peer before may still spin on the cores in the hope of more work.
        time.sleep(0.05)
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        self.values.append(answer["value"])
        if keep:
            self.seconds.append(answer["seconds"])

    def close(self):
        """Ends the process; its peak resident memory in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        self.process.stdin.close()
        self.process.wait()
        return peak / 1024


def percentile(values, share):
    ordered = sorted(values)
    return ordered[round(share * (len(ordered) - 1))]


def compare(task, size, folder, rounds, warmup, threads):
    peers = [Peer("phasetrace", [OURS, task, size, folder], {}, threads)]
    for name, variant, env, _ in TASKS[task]:
        peers.append(Peer(name, [sys.executable, HERE / "torch_steps.py", variant, size, folder], env, threads))
    for turn in range(warmup + rounds):
        for peer in peers:
            peer.work(turn >= warmup)
    ours, rows = peers[0], []
    for peer, bar in zip(peers, [{}] + [bar for *_, bar in TASKS[task]]):
        ratios = [theirs / own for theirs, own in zip(peer.seconds, ours.seconds)]
        gap = max(abs(a - b) / abs(b) for a, b in zip(peer.values, ours.values))
        rows.append({
            "variant": peer.name,
            "median_ms": 1e3 * statistics.median(peer.seconds),
            "ratio": statistics.median(ratios),
            "ratio_p10": percentile(ratios, 0.1),
            "ratio_p90": percentile(ratios, 0.9),
            "bar": bar.get(size),
            "largest_relative_difference": gap,
            "rate_per_s": ours.values[-1] / statistics.median(peer.seconds) if task == "product" else None,
            "peak_mib": peer.close(),
        })
    return rows


def matrix_flop(config, size):
    """Floating-point operations of the matrix products of one training step: three per weight matrix, seven per attention."""
    batch, length = {"S": (32, 128), "M": (16, 256)}[size]
    d, ffn, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    weights = layers * (4 * d * d + 3 * d * ffn) + d * config["vocab_size"]
    # Keys that a block of 48 queries is compared with: those up to its end.
    pairs = sum(min(48, length - start) * min(start + 48, length) for start in range(0, length, 48))
    return batch * (6 * length * weights + layers * 7 * 2 * pairs * d)


# What a symbol counts as, by the first part that it contains.
GROUPS = [
    ("kernels::product::run", "matrix products"),
    ("kernels::product", "packing and cutting for them"),
    ("kernels::attention", "attention but for its products"),
    ("kernels::rotation", "rotation"),
    ("kernels::cross_entropy", "softmax of the vocabulary"),
    ("kernels::swiglu", "SwiGLU"),
    ("kernels::rms_norm", "RMSNorm"),
    ("kernels::adamw", "AdamW and gradient norm"),
    ("kernels::embedding", "embedding"),
    ("candle", "candle's own operations: residual sums, joins of weights"),
    ("mem", "copying and clearing memory"),
    ("rayon", "waiting for the other thread"),
    ("crossbeam", "waiting for the other thread"),
]


def profile(size, folder, threads, step_s, gemm_rate):
    """Shares of a training step by what it is spent on, from samples of `perf`."""
    record, n_steps = folder / "perf.data", 12 if size == "S" else 5
    env = dict(os.environ, PEER_THREADS=str(threads))
    command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "499", "-o", record, OURS, "train", size, folder]
    subprocess.run(command, input="go\n" * n_steps, text=True, env=env, capture_output=True, check=True)
    command = ["perf", "report", "-i", record, "--no-children", "--stdio", "-q", "-F", "overhead,dso,symbol"]
    shares = {}
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        if "%" not in line:
            continue
        share, dso, symbol = line.split("%", 1)[0], line.split()[1], line.split("%", 1)[1]
        known = (group for part, group in GROUPS if part in symbol)
        group = "the operating system" if dso.startswith("[kernel") else next(known, "the rest")
        shares[group] = shares.get(group, 0) + float(share) / 100
    config = json.loads((folder / "config.json").read_text())
    rate = matrix_flop(config, size) / (shares["matrix products"] * step_s)
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    lines = [f"### where a training step's time goes, size {size}", "", "| | share of samples |", "|---|---|"]
    lines += [f"| {group} | {100 * share:.1f} % |" for group, share in ordered]
    lines += ["", (
        f"{matrix_flop(config, size) / 1e9:.1f} GFLOP of products a step in {100 * shares['matrix products']:.0f} % of it: "
        f"{rate / 1e9:.0f} GFLOP/s. The `gemm` crate reaches {gemm_rate / 1e9:.0f} GFLOP/s on one large square product."
    )]
    return "\n".join(lines) + "\n", {"size": size, "shares": shares, "product_flop_per_s": rate}


def describe(task, size, rows, rounds):
    unit = {"train": "training step", "decode": "32 rows x 64 tokens, greedy", "product": "product 1,536 x 1,536 x 1,536"}[task]
    title = f"### {unit}" + ("" if task == "product" else f", size {size} ({SIZES[size]})")
    lines = [title, "", f"n = {rounds} rounds; times in ms, memory in MiB.", ""]
    lines += ["| variant | median | phasetrace is faster by (10th to 90th percentile) | at least | peak memory |", "|---|---|---|---|---|"]
    for row in rows:
        ratio = "1" if row["variant"] == "phasetrace" else f"{row['ratio']:.2f} ({row['ratio_p10']:.2f} to {row['ratio_p90']:.2f})"
        median = f"{row['median_ms']:.1f}" + (f" ({row['rate_per_s'] / 1e9:.0f} GFLOP/s)" if row["rate_per_s"] else "")
        bar = f"{row['bar']:.2f}" if row["bar"] else "-"
        lines.append(f"| {row['variant']} | {median} | {ratio} | {bar} | {row['peak_mib']:.0f} |")
    short = [f"{row['variant']} ({row['ratio']:.2f} instead of {row['bar']:.2f})" for row in rows if row["bar"] and row["ratio"] < row["bar"]]
    if short:
        lines += ["", "Short of what is aimed at: " + ", ".join(short) + "."]
    gap = max(row["largest_relative_difference"] for row in rows)
    if task == "train":
        lines += ["", f"Both sides start from the same weights and see the same tokens: losses agree within {gap:.1e} (relative)."]
    if task == "decode":
        lines += ["", f"Sums of the chosen tokens differ by {gap:.1e} at most (relative)."]
    return "\n".join(lines) + "\n"


def cpu_name():
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    flags = Path("/proc/cpuinfo").read_text()
    return f"{names[0]}, {'AVX-512' if 'avx512f' in flags else 'AVX2' if 'avx2' in flags else 'no AVX2'}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="rounds that count, per task and size")
    parser.add_argument("--warmup", type=int, default=3, help="rounds before them")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tasks", default="product,train,decode")
    parser.add_argument("--sizes", default="S,M")
    parser.add_argument("-o", "--output", type=Path, help="write the table (.md) here, and the numbers beside it (.json)")
    args = parser.parse_args()
    import torch
    import transformers

    subprocess.run(["cargo", "build", "--release", "--workspace", "--examples"], cwd=ROOT, check=True)
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    head = (
        f"{datetime.date.today()}, {cpu_name()}, {args.threads} threads, f32; rustc {rustc}, PyTorch {torch.__version__}, "
        f"transformers {transformers.__version__}, Python {platform.python_version()}.\n"
    )
    parts, numbers = [head], {"head": head.strip(), "rounds": args.rounds, "results": [], "profiles": []}
    gemm_rate = None
    scratch = Path(tempfile.mkdtemp())
    try:
        for task in args.tasks.split(","):
            for size in ["S"] if task == "product" else args.sizes.split(","):
                folder = scratch / size
                if not folder.exists():
                    subprocess.run([OURS, "write", size, folder], check=True)
                rows = compare(task, size, folder, args.rounds, args.warmup, args.threads)
                parts.append(describe(task, size, rows, args.rounds))
                numbers["results"].append({"task": task, "size": size, "rows": rows})
                print(parts[-1], flush=True)
                if task == "product":
                    gemm_rate = rows[0]["rate_per_s"]
                if task == "train" and gemm_rate and shutil.which("perf"):
                    text, shares = profile(size, folder, args.threads, rows[0]["median_ms"] / 1e3, gemm_rate)
                    parts.append(text)
                    numbers["profiles"].append(shares)
                    print(text, flush=True)
    finally:
        shutil.rmtree(scratch)
    if args.output:
        args.output.write_text("\n".join(parts))
        args.output.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
