#!/usr/bin/env python3
"""Speed of pretraining on several ranks beside one, each with one thread: `benches/ranks.py PROGRAM [N_RANKS] [ROUNDS]`.

PROGRAM is phasetrace built with `--features mpi`. In each round one rank and N_RANKS ranks train the same steps in turn; told is the ratio of their
speeds, median and range over the rounds, for the small world's model and a larger one, and by how much the losses differ.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile

# Name, settings: layers, width, heads, key-value heads, inner width; sequences of a batch, batches of a step; steps.
SIZES = [
    ("S", (4, 128, 4, 2, 336), (8, 2), 40),
    ("M", (6, 384, 6, 3, 1024), (8, 2), 12),
]
WARM_UP = 3


def settings(shape, batch, steps):
    layers, hidden, heads, kv_heads, ffn = shape
    sequences, accumulate = batch
    model = dict(layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads, ffn=ffn)
    pretrain = dict(steps=steps, batch_sequences=sequences, accumulate=accumulate, save_every=0)
    named = [(f"model.{k}", v) for k, v in model.items()] + [(f"pretrain.{k}", v) for k, v in pretrain.items()]
    return [part for name, value in named for part in ("--set", f"{name}={value}")]


def train(program, n_ranks, run, arguments):
    """Steps' records of a fresh run."""
    launcher = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", str(n_ranks)] if n_ranks > 1 else []
    command = launcher + [program, "train", run, "--until", "pretrain", "--threads", "1", "--quiet", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with open(os.path.join(run, "logs/pretrain.jsonl")) as log:
        return [json.loads(line) for line in log]


def speed(records):
    """Tokens per second after the first steps."""
    records = records[WARM_UP:]
    return sum(r["tokens"] for r in records) / sum(r["tokens"] / r["tokens_per_s"] for r in records)


def main():
    program = sys.argv[1]
    n_ranks = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    for name, shape, batch, steps in SIZES:
        ratios, alone, shared, worst = [], [], [], 0.0
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                of = [train(program, n, os.path.join(folder, str(n)), settings(shape, batch, steps)) for n in (1, n_ranks)]
            alone.append(speed(of[0]))
            shared.append(speed(of[1]))
            ratios.append(shared[-1] / alone[-1])
            worst = max([worst] + [abs(a["loss_nats"] / b["loss_nats"] - 1) for a, b in zip(*of)])
        print(
            f"{name}: {statistics.median(alone):.0f} tokens/s on 1 rank, {statistics.median(shared):.0f} on {n_ranks}: "
            f"{statistics.median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f}, {rounds} rounds); "
            f"losses within {worst:.1e}"
        )


if __name__ == "__main__":
    main()
