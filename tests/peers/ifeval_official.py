"""Compares `phasetrace score ifeval` with the official scorer, boolean by boolean.

    pip install lm-eval==0.4.13 nltk==3.10.4 langdetect==1.0.9 immutabledict
    python -m nltk.downloader punkt_tab
    phasetrace score ifeval --items input_data.jsonl --responses answers.jsonl -o results.jsonl
    python tests/peers/ifeval_official.py input_data.jsonl answers.jsonl results.jsonl

Where an item asks for a letter outside a to z the official scorer draws one at random; those are left out.
"""

import json
import sys

import langdetect
from lm_eval.tasks.ifeval import utils

langdetect.DetectorFactory.seed = 0


def read(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def main():
    items, answers, results = map(read, sys.argv[1:4])
    by_key = {answer["key"]: answer for answer in answers if "key" in answer}
    by_prompt = {answer["prompt"]: answer for answer in answers if "key" not in answer}
    n_equal = n_all = 0
    for item, result in zip(items, results, strict=True):
        answer = by_key.get(item["key"], by_prompt.get(item["prompt"]))
        if answer is None:
            continue
        example = utils.InputExample(item["key"], item["instruction_id_list"], item["prompt"], item["kwargs"])
        text = answer["response"] or ""
        strict = utils.test_instruction_following_strict(example, text).follow_instruction_list
        loose = utils.test_instruction_following_loose(example, text).follow_instruction_list
        for index, (name, given) in enumerate(zip(item["instruction_id_list"], item["kwargs"])):
            if not "a" <= (given.get("letter") or "a").lower() <= "z":
                continue
            for how, official in [("strict", strict[index]), ("loose", loose[index])]:
                n_all += 1
                n_equal += official == result[how][index]
                if official != result[how][index]:
                    print(f"{item['key']} {name} {how}: {result[how][index]}, official {official}")
    print(f"{n_equal} of {n_all} equal")
    sys.exit(n_equal != n_all)


if __name__ == "__main__":
    main()
