"""Compares checkpoints with Hugging Face transformers: token ids, rendered chat templates, logits.

    python tests/peers/transformers_parity.py RUN_OR_CHECKPOINT...

A run stands for all folders below its `checkpoints/`. Ends with status 1 where anything differs.
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import jinja2
import torch
import transformers
from safetensors.torch import load_file
from transformers.utils import chat_template_utils

ROOT = Path(__file__).resolve().parents[2]
N_PROMPTS = 64
TOLERANCE = 1e-4


class FixedDay(datetime.datetime):
    """The day that templates are told by phasetrace, `lm::chat::DATE`."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26, tzinfo=tz)


# What a tokenizer or a template could get wrong, whatever the model knows.
TEXTS = [
    "a",
    "The quick brown fox.",
    "  two spaces, a tab\tand\n\na blank line \n",
    "don't can't it's we'll I'd",
    "1234567 3.14 10,000",
    "naïve café — “quotes” … 😀 日本語",
    "e\u0301 is not \u00e9, and \u200b is not seen",
    "<|user|> written out<|end|> <|unknown|> </s>",
    "trailing space ",
    " leading space",
    "a" * 40,
    "\\n {{ bos_token }} {% if x %} 'single' \"double\"",
]
CONVERSATIONS = [
    ("user",),
    ("system", "user"),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user"),
    ("user", "assistant"),
    ("system", "user", "assistant"),
]
CONTENTS = {"system": "Answer in\n<brackets> & \"quotes\". ", "user": " Where's  Zoë?", "assistant": "Lund.\n"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_OR_CHECKPOINT")
    arguments = parser.parse_args()
    folders = [checkpoint for folder in arguments.folders for checkpoint in find_checkpoints(folder)]
    if not folders:
        parser.error("no checkpoint found")
    build = ["cargo", "build", "--release", "--workspace", "--example", "dump_logits"]
    subprocess.run(build, cwd=ROOT, check=True)
    chat_template_utils.datetime = FixedDay
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, tolerance {TOLERANCE:g}")
    results = [compare(folder) for folder in folders]
    return 0 if all(results) else 1


def find_checkpoints(folder: Path) -> list[Path]:
    if (folder / "config.json").exists():
        return [folder]
    return sorted(path.parent for path in folder.glob("checkpoints/*/config.json"))


def compare(folder: Path) -> bool:
    # As the files say: AutoTokenizer puts the pre-tokenizer of the model's family in the place of theirs.
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    is_reward_model = config.architectures == ["LlamaForSequenceClassification"]
    model_class = transformers.AutoModelForCausalLM
    if is_reward_model:
        model_class = transformers.LlamaForSequenceClassification
    model, loading = model_class.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    model.eval()
    not_loaded = [f"{kind}: {sorted(names)}" for kind, names in loading.items() if names]
    lines, theirs = [], []
    for line in prompts(folder):
        try:
            text, ids = read(tokenizer, line)
        except jinja2.TemplateError:
            continue  # such as Gemma's, which knows no system role
        if 0 < len(ids) <= config.max_position_embeddings:
            lines.append(line)
            theirs.append((text, ids))
    lines, theirs = lines[:N_PROMPTS], theirs[:N_PROMPTS]
    ours, logits = dump(folder, lines)
    wrong_texts = sum(text != line["rendered"] for (text, _), line in zip(theirs, ours))
    wrong_ids = sum(ids != line["ids"] for (_, ids), line in zip(theirs, ours))
    worst, largest = 0.0, 0.0
    with torch.no_grad():
        for idx, (_, ids) in enumerate(theirs):
            expected = model(torch.tensor([ids])).logits[0]
            found = logits[str(idx)]
            if found.shape != expected.shape:
                sys.exit(f"{folder}: logits of shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
            worst = max(worst, (found - expected).abs().max().item())
            largest = max(largest, expected.abs().max().item())
    n, n_chats = len(lines), sum("messages" in line for line in lines)
    is_equal = n == N_PROMPTS and wrong_texts == wrong_ids == 0 and worst <= TOLERANCE and not not_loaded
    verdict = "equal" if is_equal else "DIFFERENT"
    print(
        f"{folder}: {verdict}; {type(model).__name__}, {n} prompts ({n_chats} chats), {wrong_texts} texts and "
        f"{wrong_ids} id lists differ, logits differ by at most {worst:.2e} (largest logit {largest:.3g})",
        *not_loaded,
        sep="\n  ",
    )
    return is_equal


def prompts(folder: Path) -> list[dict]:
    """The fixed prompts, then items from all over the run's bank; without a bank, made-up sentences."""
    lines = [{"text": text} for text in TEXTS]
    for roles in CONVERSATIONS:
        messages = [{"role": role, "content": CONTENTS[role]} for role in roles]
        lines.append({"messages": messages, "opening": roles[-1] == "user"})
    bank = folder.parent.parent / "data" / "bank.jsonl"
    if bank.exists():
        items = [json.loads(line) for line in bank.read_text(encoding="utf-8").splitlines()]
        # Multiples of the golden ratio: however many are taken, they lie all over the bank.
        spread = [items[int(i * 0.6180339887 % 1 * len(items))] for i in range(200)]
        lines += [line for item in spread for line in item_prompts(item["task"])]
        return lines
    for i in range(50):
        sentence = f"Person {i} lives in town {i * 7 % 13}, since {1900 + i}; ask {'why ' * (i % 5)}?"
        lines.append({"text": sentence})
        lines.append({"messages": [{"role": "user", "content": sentence}], "opening": True})
    return lines


def item_prompts(task: dict) -> list[dict]:
    ((kind, asked),) = task.items()
    if kind == "choice":
        question = [{"role": "user", "content": asked["question"]}]
        return [{"text": asked["cloze"]}, {"messages": question, "opening": True}]
    return [{"messages": asked["messages"], "opening": True}]


def read(tokenizer, line: dict) -> tuple[str, list[int]]:
    text = line.get("text")
    if text is None:
        chat = {"conversation": line["messages"], "add_generation_prompt": line["opening"]}
        text = tokenizer.apply_chat_template(**chat, tokenize=False)
        at_once = tokenizer.apply_chat_template(**chat, tokenize=True, return_dict=False)
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert at_once == ids, "apply_chat_template disagrees with itself"
        return text, ids
    return text, tokenizer(text, add_special_tokens=False).input_ids


def dump(folder: Path, lines: list[dict]) -> tuple[list[dict], dict[str, torch.Tensor]]:
    with tempfile.TemporaryDirectory() as temporary:
        texts, out = Path(temporary, "texts.jsonl"), Path(temporary, "out")
        texts.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        program = ROOT / "target" / "release" / "examples" / "dump_logits"
        subprocess.run([program, folder, texts, out], check=True)
        # Not splitlines: texts may hold other line ends.
        ours = [json.loads(line) for line in (out / "texts.jsonl").read_text(encoding="utf-8").split("\n") if line]
        return ours, load_file(out / "logits.safetensors")


if __name__ == "__main__":
    sys.exit(main())
