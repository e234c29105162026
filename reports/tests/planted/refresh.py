#!/usr/bin/env python3
"""Copies diagnoses of planted faults out of a bench, without what no first screen needs.

    python3 reports/tests/planted/refresh.py BENCH

BENCH is the folder of `phasetrace bench attribution BENCH`. Standard library only.
"""

import json
import sys
from pathlib import Path

GROUP = "world-7-seed-1"
LINEAGES = [
    "pt_14_undertrained",
    "sft_15_no_instructions",
    "amplified_01_refusal",
    "al_01_punish_triggers",
    "al_05_helpful_only",
    "control_wrong_template",
    "clean",
]
FAILURES = 2  # of each behaviour
TRACED = 3  # rows of training data
LIMIT = 60_000  # bytes
# What a phase learns from is trained for it alone.
LEARNT_FROM = {"rlhf": ["reward"], "rl-cai": ["preference"]}


def cost(run, phase):
    """Seconds and tokens of a phase, as `diagnose` reads them from its log; None without one."""
    seconds = tokens = 0.0
    for name in [*LEARNT_FROM.get(phase, []), phase]:
        log = run / "logs" / f"{name}.jsonl"
        if not log.exists():
            return None
        for line in log.read_text().splitlines():
            step = json.loads(line)
            if "tokens" in step and "tokens_per_s" in step:
                seconds += step["tokens"] / step["tokens_per_s"]
                tokens += step["tokens"]
    return {"seconds": seconds, "tokens": tokens}


def rounded(value):
    """Every number to five digits: more than any page shows."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, list):
        return [rounded(part) for part in value]
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return value


def trimmed(run):
    diagnosis = json.loads((run / "diagnosis.json").read_text())
    lineage = diagnosis["lineages"][0]
    kept = {}
    for case in lineage["failures"]:
        cases = kept.setdefault(case["behaviour"], [])
        if len(cases) < FAILURES:
            cases.append(case)
    lineage["failures"] = [case for cases in kept.values() for case in cases]
    for row in lineage["behaviours"]:
        if row["verdict"].get("trace"):
            del row["verdict"]["trace"]["rows"][TRACED:]
    for phase in lineage["phases"]:
        taken = cost(run, phase["name"])
        if taken:
            phase["cost"] = taken
    # The test weighs the evidence and makes the sentences again, with the model and the words of its own version.
    return rounded({**diagnosis, "sentences": [], "lineages": [lineage], "data": {}})


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for name in LINEAGES:
        diagnosis = trimmed(Path(sys.argv[1]) / GROUP / name)
        text = json.dumps(diagnosis, ensure_ascii=False, separators=(",", ":")) + "\n"
        if len(text.encode()) > LIMIT:
            sys.exit(f"{name}: {len(text.encode())} bytes, at most {LIMIT} are wanted")
        Path(__file__).with_name(f"{name}.json").write_text(text)
        print(f"{name}.json: {len(text.encode())} bytes")


if __name__ == "__main__":
    main()
