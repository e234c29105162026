"""Compares how GGUF files are read here with Hugging Face transformers: tensors, config, token ids, chat template.

    python tests/peers/gguf_parity.py FILE.gguf...

Each file is unpacked into a Hugging Face folder by `lm`'s example `unpack_gguf`. Ends with status 1 where anything differs that
`lm/src/gguf/` does not say, under Deviations, that it does otherwise.
"""

import argparse
import json
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from gguf import GGUFReader
from safetensors.torch import load_file
from tokenizers import normalizers, pre_tokenizers

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-6
N_RANDOM = 500

TEXTS = [
    "",
    "a",
    " ",
    "The quick brown fox.",
    "  two spaces, a tab\tand\n\na blank line \n",
    "don't can't it's we'll I'd DON'T",
    "1234567 3.14 10,000 x2 2x ½ ² Ⅷ ٣",
    "list:\n\n1. one\n\n2.  two\n   3. three   4",
    "naïve café — “quotes” … 😀 日本語 中文 한국어 العربية हिन्दी ไทย",
    "e\u0301 is not \u00e9, and \u200b is not seen, nor \ufeff, \u00a0 nor \u3000",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽 \U0001f9ff \U0010fffd",
    "trailing space ",
    " leading space",
    "\n\n\n", "\t\t\t\t", "\r\n\r\n", " \n \n", " " * 40, "a" * 300, "=" * 80, "\x00\x01\x1f\x7f",
    "\\n {{ bos_token }} {% if x %} 'single' \"double\"",
    "<0x41> <0xFF> ▁▁ Ġ Ċ ĠĠ <unk> </s> [INST] <|unknown|>",
    "def f(x):\n    return {\n        'a': x[1:-1],\n    }  # 100%\n",
    "if (a && b || !c) { s += \"\\t\"; i++; }",
    "https://example.org/a?b=c&d=%20#e_f-g",
]
# Characters of which random texts are made: one pool each, then a mixture.
POOLS = [
    "abc dE\n", "0123456789 .,\n", " \t\n\r", "äöüßéñçøåłžŁŽ ", "абвгд ЕЖ", "αβγ ΔΩ", "日本語中文字漢。、", "한국어 가나다", "العربية ", "हिन्दी क्षि ",
    "😀🎉👍🏽🇩🇪\u200d", "\u0301\u0308\u0323aeo", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ ", "<|>/_ims_endtartu", "\u00a0\u2003\u3000\u200b x", "🜁𝔘𐍈",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.gguf")
    parser.add_argument("--unpack", type=Path, help="the example as built, where cargo is not to build it")
    arguments = parser.parse_args()
    unpack = arguments.unpack
    if unpack is None:
        subprocess.run(["cargo", "build", "--release", "-p", "lm", "--example", "unpack_gguf"], cwd=ROOT, check=True)
        unpack = ROOT / "target" / "release" / "examples" / "unpack_gguf"
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, tolerance {TOLERANCE:g}")
    results = [compare(file, unpack) for file in arguments.files]
    return 0 if all(results) else 1


def compare(file: Path, unpack: Path) -> bool:
    theirs = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    texts = TEXTS + random_texts(theirs) + chats(theirs)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        (out / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
        subprocess.run([unpack, file, out, out / "texts.jsonl"], check=True)
        ids = [json.loads(line) for line in (out / "ids.jsonl").read_text(encoding="utf-8").splitlines()]
        saved = transformers.AutoTokenizer.from_pretrained(out)
        wrong_ids, n_deviating = compare_ids(file, texts, ids, theirs, saved)
        wrong_config = compare_config(file, out)
        wrong_tensors, worst, n_tensors = compare_tensors(file, out)
    same_template = theirs.chat_template == saved.chat_template
    is_equal = not (wrong_ids or wrong_config or wrong_tensors) and worst <= TOLERANCE and same_template
    print(
        f"{file}: {'equal' if is_equal else 'DIFFERENT'}; {n_tensors} tensors, largest difference {worst:.2e}; {len(texts)} texts, "
        f"{len(wrong_ids)} id lists differ, {n_deviating} more by what is done otherwise on purpose; "
        f"chat template {'equal' if same_template else 'DIFFERENT'}",
        *wrong_ids[:5], *wrong_config, *wrong_tensors,
        sep="\n  ",
    )
    return is_equal


def random_texts(tokenizer) -> list[str]:
    rng = random.Random(1)
    special = list(tokenizer.added_tokens_encoder)[:40]
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    texts = []
    for idx in range(N_RANDOM):
        pool = POOLS[idx % len(POOLS)] if idx % 3 else "".join(rng.sample(POOLS, 4))
        text = "".join(rng.choice(pool) for _ in range(rng.randrange(1, 60)))
        if idx % 5 == 0:
            text += rng.choice(special) + rng.choice(["", " ", "\n"]) + rng.choice(source)
        texts.append(text)
    return texts


def chats(tokenizer) -> list[str]:
    if tokenizer.chat_template is None:
        return []
    contents = ["Hi there!", "What is 12 * 34?\n\n1. 408\n2.  48", "  def f():\n\treturn 1", "日本語 😀", ""]
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": content}, {"role": "assistant", "content": content[::-1]}],
            tokenize=False, add_generation_prompt=opening,
        )
        for content in contents for opening in (False, True)
    ]


def compare_ids(file: Path, texts: list[str], ids: list[list[int]], theirs, saved) -> tuple[list[str], int]:
    """Wrong ones, and how many more differ from transformers' own reading of the file by a documented deviation."""
    as_trained = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    restore_training(file, as_trained.backend_tokenizer)
    wrong, n_deviating = [], 0
    for text, found in zip(texts, ids, strict=True):
        expected = as_trained.encode(text, add_special_tokens=False)
        if found != expected or found != saved.encode(text, add_special_tokens=False):
            wrong.append(f"{text!r}: {found}, expected {expected}")
        elif found != theirs.encode(text, add_special_tokens=False):
            n_deviating += 1
        if saved.encode(text) != as_trained.encode(text):
            wrong.append(f"{text!r}: with special tokens around it {saved.encode(text)}, expected {as_trained.encode(text)}")
    return wrong, n_deviating


def restore_training(file: Path, backend) -> None:
    """Puts back what transformers leaves away: it is in the `tokenizer.json` that these models were published with."""
    reader = GGUFReader(file)
    architecture, model, pre = (
        reader.get_field(key).contents() for key in ("general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.pre")
    )
    if model == "llama" and not architecture.startswith("gemma"):
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.pre_tokenizer = None
    if pre == "smollm":
        digits, byte_level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    if pre in ("llama-bpe", "tekken"):
        bpe = backend.model
        bpe.ignore_merges = True
        backend.model = bpe


def compare_config(file: Path, out: Path) -> list[str]:
    def read(folder: Path, **options) -> dict:
        return transformers.AutoConfig.from_pretrained(folder, **options).to_dict()

    def f32(value):
        return struct.unpack("f", struct.pack("f", value))[0] if isinstance(value, float) else value

    def flat(values: dict) -> dict:
        return {k: {x: f32(y) for x, y in v.items()} if isinstance(v, dict) else f32(v) for k, v in values.items()}

    theirs, ours = flat(read(file.parent, gguf_file=file.name)), flat(read(out))
    about_files = {"_name_or_path", "_model_name_or_path", "transformers_version", "architectures", "dtype", "unk_token_id"}
    # Qwen2's config has no width of a head; its code takes one all the same.
    keys = (theirs.keys() | ours.keys()) - about_files - ({"head_dim"} - theirs.keys())
    return [f"config {key}: {ours.get(key)!r}, expected {theirs.get(key)!r}" for key in sorted(keys) if theirs.get(key) != ours.get(key)]


def compare_tensors(file: Path, out: Path) -> tuple[list[str], float, int]:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    state = dict(theirs.state_dict())
    ours = load_file(out / "model.safetensors")
    if theirs.config.tie_word_embeddings:
        state.pop("lm_head.weight")
    wrong = [f"tensor {name} on one side only" for name in sorted(state.keys() ^ ours.keys())]
    worst = 0.0
    for name in state.keys() & ours.keys():
        if state[name].shape != ours[name].shape:
            wrong.append(f"tensor {name}: {tuple(ours[name].shape)}, expected {tuple(state[name].shape)}")
        else:
            worst = max(worst, (state[name] - ours[name]).abs().max().item())
    # The folder is one that transformers takes as its own.
    _, loading = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    wrong += [f"{kind}: {sorted(names)}" for kind, names in loading.items() if names]
    return wrong, worst, len(ours)


if __name__ == "__main__":
    sys.exit(main())
