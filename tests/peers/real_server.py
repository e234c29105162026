"""Compares what a real server answers, asked by `lm/examples/ask_server.rs`, with transformers on the same weights: log-likelihoods and greedy texts.

    python tests/peers/real_server.py llama-cpp-python MODEL.gguf HF_FOLDER [--server-python PYTHON]
    python tests/peers/real_server.py transformers HF_FOLDER [--server-python PYTHON]

The first runs `llama_cpp.server` (pip install 'llama-cpp-python[server]'), the second `transformers serve` (pip install 'transformers[serving]'); both may live in an
environment of their own (`--server-python`). HF_FOLDER holds the same weights as MODEL.gguf, in f32; the GGUF file is written anew in f32, so that both compute with
the same numbers, and once more with the beginning-of-sequence token put before each text. Ends with status 1 where anything differs.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).resolve().parents[2]
# Nats per token, and the share of greedy texts that are equal to the last character.
TOLERANCE = 1e-3
LEAST_EQUAL = 0.95
N_NEW = 24

TEXTS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is", " Lyon, of course"),
    ("Water boils at 100 degrees", " Celsius."),
    ("One, two, three, four,", " five, six"),
    ("She said “hello” and — naïvely — left the café…", " Then she came back."),
    ("Sehenswürdigkeiten in Malmö:", " Turning Torso, Ribersborg"),
    ("I see a 🌊 and a 🛶!", " You see both."),
    ("I see a wave:", " 🌊! And a boat."),
    ("日本の首都は", "東京です。"),
    ("def add(a, b):\n    return", " a + b\n"),
    ("  two spaces,\ta tab\n\na blank line", " and then text"),
    ("1234567 3.14 10,000", " 42"),
    ("Mat", "hematics"),
    ("A longer context. " * 12, "It ends here."),
]
QUESTIONS = [
    "What is the capital of France?",
    "Who wrote Hamlet?",
    "Count from one to five.",
    "Is water wet? Answer yes or no.",
    "Translate to German: good morning",
    "What is 2 + 2?",
    "Name a fruit that is red.",
    "Say something about 🌊.",
    "What colour is the sky?",
    "Write one short sentence about cats.",
    "How many days has a week?",
    "What is the opposite of hot?",
    "Give me a word that rhymes with house.",
    "Who painted the Mona Lisa?",
    "What do bees make?",
    "Where is Mount Fuji?",
    "What is H2O?",
    "Name the largest planet.",
    "What is the past tense of go?",
    "How do you say “thank you” in French?",
]
ANSWERS = ["Paris", "I don't know.", "Yes, it is.<|im_end|>"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", choices=["llama-cpp-python", "transformers"])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--server-python", default=sys.executable)
    parser.add_argument("--ask-server", type=Path, help="the example, where it is built already")
    arguments = parser.parse_args()
    global ask_server
    ask_server = arguments.ask_server or ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release/examples/ask_server"
    if arguments.ask_server is None:
        subprocess.run(["cargo", "build", "--release", "--package", "lm", "--example", "ask_server"], cwd=ROOT, check=True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = arguments.paths[-1].resolve()
    reference = Reference(folder)
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        template = tmp / "template.json"
        tokenizer = reference.tokenizer
        template.write_text(json.dumps({"source": tokenizer.chat_template, "bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}))
        if arguments.server == "transformers":
            main_of = "from transformers.cli.transformers import main; main()"
            command = [arguments.server_python, "-c", main_of, "serve", str(folder), "--port", "{port}", "--dtype", "float32", "--device", "cpu"]
            with Server(command) as url:
                return check_transformers(url, str(folder), template, reference)
        n_bad = 0
        for puts_start in [False, True]:
            path = tmp / f"start_{puts_start}.gguf"
            write_f32(arguments.paths[0], path, puts_start)
            # 0 is GGML's number for f32.
            options = {"logits_all": "true", "n_ctx": "512", "n_threads": "2", "type_k": "0", "type_v": "0", "interrupt_requests": "false", "flash_attn": "false"}
            command = [arguments.server_python, "-m", "llama_cpp.server", "--model", str(path), "--model_alias", "smollm2", "--port", "{port}"]
            command += [word for name, value in options.items() for word in (f"--{name}", value)]
            with Server(command) as url:
                n_bad += check_llama(url, template, reference, puts_start)
            path.unlink()
        return min(n_bad, 1)


class Reference:
    """The model itself."""

    def __init__(self, folder):
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        print(f"transformers {transformers.__version__}, torch {torch.__version__}, {folder.parent.name}, tolerance {TOLERANCE:g} nats per token")

    def render(self, question):
        return self.tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True)

    def encode(self, text, puts_start):
        ids = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        start = [self.tokenizer.bos_token_id] if puts_start else []
        return start + ids["input_ids"], [(0, 0)] * len(start) + ids["offset_mapping"]

    def score(self, context, continuation, puts_start):
        """Log-likelihood, number of tokens and whether all are the likeliest; None where the boundary lies within a token."""
        ids, spans = self.encode(context + continuation, puts_start)
        at = len(context)
        if any(start < at < end for start, end in spans):
            return None
        first = next(i for i, (start, end) in enumerate(spans) if start >= at and end > start)
        with torch.inference_mode():
            log_probs = self.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        picked = [(log_probs[i - 1, ids[i]].item(), log_probs[i - 1].argmax().item() == ids[i]) for i in range(first, len(ids))]
        return sum(p for p, _ in picked), len(picked), all(is_top for _, is_top in picked)

    def generate(self, text, puts_start):
        ids, _ = self.encode(text, puts_start)
        with torch.inference_mode():
            out = self.model.generate(torch.tensor([ids]), max_new_tokens=N_NEW, do_sample=False, pad_token_id=self.tokenizer.eos_token_id)
        return self.tokenizer.decode(out[0, len(ids):], skip_special_tokens=True).strip()


def check_llama(url, template, reference, puts_start):
    name = f"llama-cpp-python, {'with' if puts_start else 'without'} a token before the text"
    # The server sorts its whole vocabulary for each token that it echoes, which takes seconds per request.
    chats = list(zip(QUESTIONS[:12], ANSWERS * 4))
    requests = [{"context": context, "continuation": continuation} for context, continuation in TEXTS]
    requests += [{"context": ask(question), "continuation": answer} for question, answer in chats]
    few = QUESTIONS[:12]
    requests += [{"context": ask(question), "max_new_tokens": N_NEW} for question in few]
    requests += [{"context": question, "max_new_tokens": N_NEW} for question in few]
    facts, answers = run(url, "smollm2", requests, template)
    print(f"{name}: cannot score: {facts['lacks_score']}, cannot generate: {facts['lacks_generate']}")
    texts, answers = answers[: len(TEXTS)], answers[len(TEXTS) :]
    scored, generated = answers[: len(chats)], answers[len(chats) :]
    n_bad = 0
    if puts_start:
        expected = [reference.score(context, continuation, True) for context, continuation in TEXTS]
        n_bad += compare_scores(f"{name}: texts", expected, texts)
    else:
        # The server takes each token's likelihood behind the token itself here. No number is better than that one.
        reasons = {answer.get("error", "scored").split(": ", 1)[-1] for answer in texts}
        print(f"{name}: texts: {sum('error' in answer for answer in texts)} of {len(texts)} refused, because the server's likelihoods are wrong: {reasons}")
        n_bad += sum("error" not in answer for answer in texts)
    expected = []
    for question, answer in chats:
        rendered = reference.render(question)
        if puts_start:
            rendered = rendered.removeprefix(reference.tokenizer.bos_token)
        expected.append(reference.score(rendered, answer, puts_start))
    n_bad += compare_scores(f"{name}: chats", expected, scored)
    rendered = [reference.render(question) for question in few]
    # In its own chat the server renders the template and adds nothing.
    wanted = [reference.generate(text, False) for text in rendered] + [reference.generate(text, puts_start) for text in few]
    return n_bad + compare_texts(name, wanted, generated)


def check_transformers(url, model, template, reference):
    requests = [{"context": ask(question), "max_new_tokens": N_NEW} for question in QUESTIONS]
    requests += [{"context": ask(QUESTIONS[0]), "continuation": "Paris"}]
    facts, answers = run(url, model, requests, template)
    print(f"transformers serve: cannot score: {facts['lacks_score']}, cannot generate: {facts['lacks_generate']}")
    n_bad = int(facts["lacks_score"] is None) + int("error" not in answers[-1])
    wanted = [reference.generate(reference.render(question), False) for question in QUESTIONS]
    return min(1, n_bad + compare_texts("transformers serve", wanted, answers[:-1]))


def ask(question):
    return [{"role": "user", "content": question}]


def run(url, model, requests, template):
    command = [ask_server, url, model, template]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run(command, input=lines, text=True, stdout=subprocess.PIPE, check=True)
    facts, *answers = map(json.loads, done.stdout.splitlines())
    assert len(answers) == len(requests)
    return facts, answers


def compare_scores(name, expected, answers):
    n_bad, n_unscored, largest, n_equal = 0, 0, 0.0, 0
    reasons = {}
    for wanted, answer in zip(expected, answers, strict=True):
        if "error" in answer:
            n_unscored += 1
            reason = answer["error"].split(": ", 1)[1]
            reasons[reason] = reasons.get(reason, 0) + 1
            continue
        if wanted is None or answer["n_tokens"] != wanted[1]:
            print(f"  expected {wanted}, got {answer}")
            n_bad += 1
            continue
        difference = abs(answer["log_prob"] - wanted[0]) / wanted[1]
        largest = max(largest, difference)
        n_bad += difference > TOLERANCE
        n_equal += answer["is_greedy"] in (wanted[2], None)
        n_bad += answer["is_greedy"] not in (wanted[2], None)
    n = len(answers) - n_unscored
    print(f"{name}: {n} of {len(answers)} scored, largest difference {largest:.1e} nats per token, {n_equal} of {n} greedy alike; unscored: {reasons}")
    return n_bad + (n < 0.7 * len(answers))


def compare_texts(name, wanted, answers):
    equal = [answer.get("text") == text for text, answer in zip(wanted, answers, strict=True)]
    for text, answer, is_equal in zip(wanted, answers, equal):
        if not is_equal:
            print(f"  expected {text!r}, got {answer}")
    print(f"{name}: {sum(equal)} of {len(equal)} greedy texts of up to {N_NEW} tokens are equal")
    return int(sum(equal) < LEAST_EQUAL * len(equal))


class Server:
    """A server in a process of its own, which ends with the block."""

    def __init__(self, command):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.command = [word.format(port=self.port) if "{port}" in word else word for word in command]

    def __enter__(self):
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log)
        url = f"http://127.0.0.1:{self.port}/v1"
        for _ in range(240):
            if self.process.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"{url}/models", timeout=2).read()
                return url
            except OSError:
                time.sleep(0.5)
        self.log.seek(0)
        self.__exit__()
        raise SystemExit(f"the server did not start:\n{self.log.read().decode(errors='replace')[-3000:]}")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def write_f32(source, path, puts_start):
    """The same model with all tensors in f32, and with or without a token before each text."""
    import gguf

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, reader.get_field("general.architecture").contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "tokenizer.ggml.add_bos_token", "general.file_type"):
            continue
        kind = field.types[0]
        sub_kind = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=sub_kind)
    writer.add_bool("tokenizer.ggml.add_bos_token", puts_start)
    writer.add_uint32("general.file_type", 0)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    sys.exit(main())
