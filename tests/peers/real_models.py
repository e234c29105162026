"""Log-likelihoods and greedy answers of a published model beside transformers, on questions of public benchmarks.

    python tests/peers/real_models.py MODEL [--data ../shared/data] [-o FILE.json]

MODEL is a folder in Hugging Face's layout, or a GGUF file, which is unpacked first, so that both sides read the same weights.
Likelihoods: 200 contexts with a continuation each (TruthfulQA's questions with an option, IFEval's and XSTest's prompts with a
published answer), in nats per token, and the largest difference. Greedy: 32 tokens for each of 100 prompts (as chats where the model
has a template), token by token, ends ignored; where two differ, how far apart the two likeliest tokens are for transformers.
Ends with status 1 where a likelihood differs by more than 1e-3 nats per token, or fewer than 98 of 100 answers are equal.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers

from speed import EXAMPLES, ROOT, read_lines, write_lines

N_CONTEXTS, N_PROMPTS, N_TOKENS = 200, 100, 32
MOST_NATS, LEAST_EQUAL = 1e-3, 98
# Continuations are cut to so many characters, so that everything fits the shortest context window.
MOST_CHARACTERS = 1_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    subprocess.run(["cargo", "build", "--release", "--workspace", "--examples"], cwd=ROOT, check=True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        folder = arguments.model
        if folder.is_file():
            folder = scratch / "unpacked"
            subprocess.run([EXAMPLES / "unpack_gguf", arguments.model, folder], check=True)
        peer = Peer(folder)
        found = {
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "likelihoods": likelihoods(peer, folder, arguments.data, scratch),
            "greedy": greedy(peer, folder, arguments.data, scratch),
        }
    print(json.dumps(found, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    is_equal = (
        found["likelihoods"]["other token counts"] == 0
        and found["likelihoods"]["largest difference, nats per token"] <= MOST_NATS
        and found["greedy"]["equal"] >= LEAST_EQUAL
    )
    return 0 if is_equal else 1


class Peer:
    def __init__(self, folder: Path):
        # As the files say: AutoTokenizer puts the pre-tokenizer of the model's family in the place of theirs.
        self.tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def start(self, text: str) -> list[int]:
        """The ids of a text that begins a sequence."""
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        bos = self.tokenizer.bos_token_id
        begins = self.tokenizer(text).input_ids[:1] == [bos] and ids[:1] != [bos]
        return [bos] + ids if begins else ids

    def logits(self, ids: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            return self.model(torch.tensor([ids])).logits[0]


def pairs(data: Path) -> list[tuple[str, str]]:
    """Contexts and continuations, the kinds in turn."""
    questions = json.loads((data / "truthfulqa/mc_task.json").read_text(encoding="utf-8"))
    answered = read_lines(data / "ifeval/responses" / first_file(data / "ifeval/responses"))
    with (data / "xstest/xstest_prompts.csv").open(encoding="utf-8") as file:
        requests = [row["prompt"] for row in csv.DictReader(file)]
    kinds = [
        [(f"Q: {it['question']}\nA:", f" {list(it['mc1_targets'])[-1]}") for it in questions],
        [(f"{it['prompt'][:MOST_CHARACTERS]}\n\n", it["response"][:MOST_CHARACTERS]) for it in answered if it["response"]],
        [(f"Question: {a}\nAnother question:", f" {b}") for a, b in zip(requests, requests[1:])],
    ]
    return [pair for group in zip(*kinds) for pair in group][:N_CONTEXTS]


def first_file(folder: Path) -> str:
    return sorted(path.name for path in folder.glob("*.jsonl"))[0]


def likelihoods(peer: Peer, folder: Path, data: Path, scratch: Path) -> dict:
    asked = pairs(data)
    assert len(asked) == N_CONTEXTS
    items, out = scratch / "items.jsonl", scratch / "scores.jsonl"
    write_lines(items, [{"context": context, "choices": [continuation]} for context, continuation in asked])
    subprocess.run([EXAMPLES / "score_choices", folder, items, out], check=True, stdout=subprocess.DEVNULL)
    differences, miscounted, n_tokens = [], 0, 0
    for (context, continuation), line in zip(asked, read_lines(out), strict=True):
        before = peer.start(context)
        ids = peer.tokenizer(continuation, add_special_tokens=False).input_ids
        log_probs = peer.logits(before + ids).double().log_softmax(-1)
        expected = sum(log_probs[len(before) + i - 1, id].item() for i, id in enumerate(ids))
        miscounted += line["n_tokens"] != [len(ids)]
        differences.append(abs(line["log_probs_nats"][0] - expected) / len(ids))
        n_tokens += len(ids)
    return {
        "contexts": len(asked),
        "tokens": n_tokens,
        "other token counts": miscounted,
        "largest difference, nats per token": max(differences),
        "mean difference, nats per token": sum(differences) / len(differences),
    }


def greedy(peer: Peer, folder: Path, data: Path, scratch: Path) -> dict:
    questions = json.loads((data / "truthfulqa/mc_task.json").read_text(encoding="utf-8"))
    texts = []
    # Every seventh, so that all categories are among them.
    for question in questions[::7][:N_PROMPTS]:
        if peer.tokenizer.chat_template:
            chat = [{"role": "user", "content": question["question"]}]
            texts.append(peer.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
        else:
            texts.append(f"{peer.tokenizer.bos_token or ''}Q: {question['question']}\nA:")
    assert len(texts) == N_PROMPTS
    prompts, out = scratch / "prompts.jsonl", scratch / "answers.jsonl"
    write_lines(prompts, [{"text": text} for text in texts])
    subprocess.run([EXAMPLES / "generate", folder, prompts, out, str(N_TOKENS)], check=True, stdout=subprocess.DEVNULL)
    peer.model.generation_config.eos_token_id = None
    equal, apart = 0, []
    for text, line in zip(texts, read_lines(out), strict=True):
        # With its mask: without one, transformers takes the ends of turns for padding.
        asked = peer.tokenizer(text, add_special_tokens=False, return_token_type_ids=False, return_tensors="pt")
        with torch.inference_mode():
            answer = peer.model.generate(**asked, max_new_tokens=N_TOKENS, do_sample=False)[0].tolist()
        ids = asked.input_ids
        theirs = answer[ids.shape[1] :]
        assert len(theirs) == len(line["ids"]) == N_TOKENS
        if theirs == line["ids"]:
            equal += 1
            continue
        first = next(i for i in range(N_TOKENS) if theirs[i] != line["ids"][i])
        top = peer.logits(answer[: ids.shape[1] + first])[-1].topk(2).values
        apart.append({"after token": first, "nats between the two likeliest": (top[0] - top[1]).item()})
    return {"prompts": len(texts), "tokens each": N_TOKENS, "equal": equal, "where they part": apart}


if __name__ == "__main__":
    sys.exit(main())
