"""Reads a model card, a CSV and a Parquet file of a diagnosis with the libraries that their readers use, and compares values.

    python tests/peers/model_card.py DIAGNOSIS.json FILE.card.md FILE.csv FILE.parquet

Ends with status 1 where anything differs.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import huggingface_hub
import pandas
import pyarrow
import pyarrow.parquet
from huggingface_hub import ModelCard

SIX_DECIMALS = 1e-6
# Reading and writing JSON and CSV moves some numbers by their last bit.
LAST_BITS = 1e-12
KEYS = ["lineage", "phase_index", "behaviour", "route"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("diagnosis", type=Path)
    parser.add_argument("card", type=Path)
    parser.add_argument("csv", type=Path)
    parser.add_argument("parquet", type=Path)
    arguments = parser.parse_args()
    diagnosis = json.loads(arguments.diagnosis.read_text(encoding="utf-8"))
    versions = (huggingface_hub, pandas, pyarrow)
    print(", ".join(f"{library.__name__} {library.__version__}" for library in versions))
    wrong = check_card(diagnosis, arguments.card)
    csv = pandas.read_csv(arguments.csv, keep_default_na=False, na_values=[""])
    wrong += check_table("CSV", diagnosis, csv)
    parquet = pyarrow.parquet.read_table(arguments.parquet).to_pandas()
    wrong += check_table("Parquet", diagnosis, parquet)
    for line in wrong:
        print(line)
    print(f"{len(wrong)} differences")
    return 1 if wrong else 0


def check_card(diagnosis: dict, path: Path) -> list[str]:
    """One result for each behaviour of the deployed chain that was measured at its end."""
    card = ModelCard.load(str(path))
    found = {result.metric_args["behaviour"]: result for result in card.data.eval_results or []}
    expected = {
        row["behaviour"]: row["values"][-1]
        for row in diagnosis["lineages"][0]["behaviours"]
        if row["values"] and row["values"][-1] is not None
    }
    wrong = []
    if set(found) != set(expected):
        wrong.append(f"card: has {sorted(found)}, expected {sorted(expected)}")
    for behaviour in sorted(set(found) & set(expected)):
        result, estimate = found[behaviour], expected[behaviour]
        numbers = {"value": result.metric_value, "low": result.metric_args["low"], "high": result.metric_args["high"]}
        for key, number in numbers.items():
            if not isinstance(number, float) or abs(number - estimate[key]) > SIX_DECIMALS:
                wrong.append(f"card: {key} of {behaviour} is {number!r}, expected {estimate[key]}")
        if result.metric_args["n"] != estimate["n"]:
            wrong.append(f"card: n of {behaviour} is {result.metric_args['n']}, expected {estimate['n']}")
        if result.dataset_revision != diagnosis["provenance"]["bank_hash"]:
            wrong.append(f"card: revision is {result.dataset_revision}")
    print(f"card: model {card.data.model_name!r}, {len(found)} results")
    return wrong


def check_table(name: str, diagnosis: dict, table: pandas.DataFrame) -> list[str]:
    """Two rows for each chain, phase and behaviour."""
    wrong = []
    rows = {tuple(row[key] for key in KEYS): row for row in table.to_dict("records")}
    expected = dict(cells(diagnosis))
    if set(rows) != set(expected) or len(rows) != len(table):
        wrong.append(f"{name}: {len(table)} rows with {len(rows)} places, expected {len(expected)}")
    for place in sorted(set(rows) & set(expected)):
        for column, value in expected[place].items():
            found = rows[place][column]
            found = None if pandas.isna(found) else found
            if not is_same(found, value):
                wrong.append(f"{name}: {column} at {place} is {found!r}, expected {value!r}")
    print(f"{name}: {len(table)} rows, {len(table.columns)} columns")
    return wrong


def is_same(found, expected) -> bool:
    if isinstance(found, float) and isinstance(expected, (float, int)):
        return math.isclose(found, expected, rel_tol=LAST_BITS, abs_tol=LAST_BITS)
    return found == expected


def cells(diagnosis: dict):
    """Every place of the table with what stands there."""
    for lineage in diagnosis["lineages"]:
        for at, phase in enumerate(lineage["phases"]):
            for row in lineage["behaviours"]:
                outcome = row["verdict"]["outcome"]
                word = outcome if isinstance(outcome, str) else next(iter(outcome))
                blamed = None if isinstance(outcome, str) else outcome[word].get("phase")
                parts = {part["phase"]: part["shortfall"]["value"] for part in row["verdict"]["contributions"]}
                for route, values in (("chat", row["values"]), ("elicited", row["elicited"])):
                    estimate = values[at] or {}
                    place = (lineage["name"], at + 1, row["behaviour"], route)
                    yield place, {
                        "run": diagnosis["run"],
                        "phase": phase["name"],
                        "checkpoint": phase["checkpoint"],
                        "value": estimate.get("value"),
                        "low": estimate.get("low"),
                        "high": estimate.get("high"),
                        "n": estimate.get("n"),
                        "interval": estimate.get("method"),
                        "reference": row["reference"][at] if route == "chat" else None,
                        "outcome": word,
                        "blamed_phase": blamed,
                        "contribution": parts.get(phase["name"]),
                        "confidence": row["verdict"]["confidence"],
                        "rung": row["verdict"].get("rung"),
                    }


if __name__ == "__main__":
    sys.exit(main())
