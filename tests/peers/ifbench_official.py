"""Compares `phasetrace score ifbench` with the official scorer, boolean by boolean.

    git clone https://github.com/allenai/IFBench && git -C IFBench checkout db69a6f
    pip install nltk==3.10.4 emoji==2.16.0 syllapy==0.8.0                   # Python 3.11
    python -m nltk.downloader punkt_tab stopwords
    export PYTHONPATH=IFBench
    phasetrace score ifbench --items IFBench_test.jsonl --responses answers.jsonl -o results.jsonl
    python tests/peers/ifbench_official.py compare IFBench_test.jsonl answers.jsonl results.jsonl

    python tests/peers/ifbench_official.py alter IFBench_test.jsonl answers.jsonl 3000 out      # answers altered, put to items at random
    python tests/peers/ifbench_official.py cases probes/src/ifbench/cases.jsonl                 # writes the verdicts anew

Where the official checker fails with an exception the answer counts as not following. What was not scored (`null`) is left out.
"""

import collections
import json
import pathlib
import random
import re
import string
import sys

from ifbench.instructions_registry import INSTRUCTION_DICT


def read(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def write(path, rows):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    pathlib.Path(path).write_text(text, encoding="utf-8", newline="\n")


def variants(response):
    """As `evaluation_lib.test_instruction_following_loose`."""
    lines = response.split("\n")
    texts = [response] + ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    return texts + [text.replace("*", "") for text in texts]


def verdicts(name, kwargs, response):
    """Strict, loose."""
    instruction = INSTRUCTION_DICT[name](name)
    instruction.build_description(**{key: value for key, value in kwargs.items() if value is not None})

    def follows(text):
        try:
            return bool(text.strip()) and bool(instruction.check_following(text))
        except LookupError as error:
            # Of NLTK, where data is missing; an index out of range is a failure of the checker.
            if not isinstance(error, (IndexError, KeyError)):
                raise
        except Exception as error:
            print(f"{name}: {type(error).__name__}", file=sys.stderr)
        return False

    return follows(response), any(follows(text) for text in variants(response))


def compare(items, answers, results):
    items, answers, results = map(read, (items, answers, results))
    by_key = {answer["key"]: answer for answer in answers if "key" in answer}
    by_prompt = {answer["prompt"].strip(): answer for answer in answers if "key" not in answer}
    equal, compared = collections.Counter(), collections.Counter()
    for item, result in zip(items, results, strict=True):
        answer = by_key.get(item["key"], by_prompt.get(item["prompt"].strip()))
        if answer is None:
            continue
        for index, (name, kwargs) in enumerate(zip(item["instruction_id_list"], item["kwargs"])):
            if result["strict"][index] is None:
                continue
            official = verdicts(name, kwargs, answer["response"] or "")
            for how, verdict in zip(["strict", "loose"], official):
                compared[name] += 1
                equal[name] += verdict == result[how][index]
                if verdict != result[how][index]:
                    print(f"{item['key']} {name} {how}: {result[how][index]}, official {verdict}")
    for name in sorted(compared):
        print(f"{name}: {equal[name]} of {compared[name]}")
    print(f"{equal.total()} of {compared.total()} equal")
    sys.exit(equal != compared)


def altered(text, draw):
    words = text.split()
    cut = draw.randrange(len(words)) if words else 0
    odd = ["“", "”", "'", '"', "…", "—", "?!", "!?", "\r", "\t", "\x1c", "\u00a0", "İ", "ß", "😀", "❤️", "日本", "½", "²", "<i>", "</em>", "*", "-", "Emma"]
    return draw.choice([
        lambda: text,
        lambda: text.upper(),
        lambda: text.title(),
        lambda: text.lower(),
        lambda: " ".join(words[cut : cut + draw.randrange(1, 12)]),
        lambda: ". ".join(" ".join(words[at : at + 5]).capitalize() for at in range(cut, min(cut + 30, len(words)), 5)) + ".",
        lambda: "\n".join(" " * at + word for at, word in enumerate(words[:8])),
        lambda: "\n".join(words[:20]),
        lambda: "".join(words),
        lambda: "Sure!\n" + text,
        lambda: text + "\nI hope that helps!",
        lambda: re.sub(r"[.]", lambda _: draw.choice([".", "?", "!", " 😀.", ". 😀", '."']), text),
        lambda: "".join(draw.choice(odd) if draw.random() < 0.05 else c for c in text[:400]),
        lambda: "".join(draw.choice(string.printable + "".join(odd)) for _ in range(draw.randrange(1, 60))),
        lambda: "* " + text.replace("\n", "\n* ", 3),
        lambda: draw.choice("([{\"'") * draw.randrange(6) + text + draw.choice(")]}\"'") * draw.randrange(6),
    ])()


def alter(items, answers, n, folder):
    """Writes `n` items with an altered answer, some of them to the very prompt, so that both verdicts occur."""
    items, answers = read(items), read(answers)
    draw = random.Random(0)
    folder = pathlib.Path(folder)
    folder.mkdir(exist_ok=True)
    by_prompt = {answer["prompt"].strip(): answer["response"] for answer in answers}
    new_items, new_answers = [], []
    for key in range(int(n)):
        item = draw.choice(items)
        own = by_prompt.get(item["prompt"].strip())
        base = own if own is not None and draw.random() < 0.5 else draw.choice(answers)["response"]
        new_items.append({**item, "key": str(key)})
        new_answers.append({"key": str(key), "response": altered(altered(base, draw), draw)})
    write(folder / "items.jsonl", new_items)
    write(folder / "answers.jsonl", new_answers)


def cases(path):
    rows = read(path)
    for row in rows:
        if row["name"] != "words:start_verb":
            row["strict"], row["loose"] = verdicts(row["name"], row["kwargs"], row["response"])
    write(path, rows)


if __name__ == "__main__":
    {"compare": compare, "alter": alter, "cases": cases}[sys.argv[1]](*sys.argv[2:])
