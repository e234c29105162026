"""Writes the GGUF files of `lm/tests/gguf.rs` anew, with what has to come out of them.

    python tests/peers/make_gguf.py

Small models of every architecture with random weights are made by transformers and written as llama.cpp's converter writes them
(convert_hf_to_gguf.py): query and key rows interleaved for `llama` and `smollm3`, one added to Gemma's norm weights, Llama 3.1's
scaling as a tensor of divisors. What is expected is the model before: its config, its tensors (after the rounding of
quantisation), the ids of its own tokenizer, for SentencePiece those of `sentencepiece` itself.
"""

import hashlib
import io
import json
import math
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
import torch
import transformers
from gguf import GGMLQuantizationType as Q
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

OUT = Path(__file__).resolve().parents[2] / "lm" / "tests" / "data" / "gguf"
CHAT = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CORPUS = """The boat and the bell lie in the bay, 1234 of them; the boats don't sail before 10 o'clock.
A café in Malmö sells naïve jelly: 3.14 kronor, 42 öre. Вот лодка.  Two  spaces,   three.
def f(x):
    return x[1:] + [2 * x[0]]  # the code
"""
TEXTS = [
    "the boat", " the  bell,   42 of 1234\n\n1. one\n\n2.  two", "don't DON'T o'clock", "cafe\u0301 café Malmö Вот 😀 日本語",
    "<|im_start|>user\nthe bay<|im_end|>\n <|im_end|>x", "\t\tx = [1:]\r\n  # \u00a0\u3000y", "    four", "<0x41> ▁▁ Ġ <unk> <bos></s>",
    "the <tool> bell", "",
]
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
COMMON = """architectures model_type vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads
head_dim max_position_embeddings rms_norm_eps tie_word_embeddings bos_token_id eos_token_id pad_token_id rope_parameters
attention_bias mlp_bias hidden_act hidden_activation query_pre_attn_scalar sliding_window layer_types attn_logit_softcapping
final_logit_softcapping no_rope_layers""".split()


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    small = dict(
        hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=64, rope_theta=50_000.0, rms_norm_eps=1e-6, tie_word_embeddings=True,
    )
    expected = {
        "llama": llama(),
        "gemma3": gemma3(),
        "sentencepiece": make(
            "sentencepiece", "LLAMA", transformers.LlamaConfig(**small | {"num_key_value_heads": 2}), pieces(360, "llama", True)
        ),
        "qwen2": make("qwen2", "QWEN2", transformers.Qwen2Config(**small), byte_level("qwen2", 300)),
        "qwen3": make("qwen3", "QWEN3", transformers.Qwen3Config(head_dim=6, **small), byte_level("qwen2", 80, False)),
        "olmo2": make("olmo2", "OLMO2", transformers.Olmo2Config(**small), byte_level("dbrx", 80, False)),
        "smollm3": make(
            "smollm3", "SMOLLM3", transformers.SmolLM3Config(**small | {"num_hidden_layers": 4}), byte_level("smaug-bpe", 80, False)
        ),
        "gemma2": make(
            "gemma2", "GEMMA2", transformers.Gemma2Config(head_dim=4, query_pre_attn_scalar=4, sliding_window=16, **small),
            pieces(90, "gemma2", False),
        ),
    }
    for name, of_model in expected.items():
        parts = [f"{json.dumps(key)}: {lines(value)}" for key, value in of_model.items()]
        (OUT / f"{name}.json").write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    for path in sorted(OUT.iterdir()):
        print(f"{path.stat().st_size:>8} {path.name}")


def lines(value) -> str:
    """JSON with one line for each entry of the outermost list or object."""
    if isinstance(value, dict):
        return "{\n" + ",\n".join(f" {json.dumps(key)}: {json.dumps(item)}" for key, item in value.items()) + "\n}"
    if isinstance(value, list):
        return "[\n" + ",\n".join(f" {json.dumps(item, ensure_ascii=False)}" for item in value) + "\n]"
    return json.dumps(value)


def llama() -> dict:
    """Most kinds of quantisation, Llama 3.1's scaling, an output layer of its own."""
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        max_position_embeddings=131072, rms_norm_eps=1e-5, tie_word_embeddings=False,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )
    kinds = {
        "token_embd": Q.Q8_0, "output": Q.Q4_0, "attn_q": Q.Q4_0, "attn_k": Q.Q5_1, "attn_v": Q.F16, "attn_output": Q.BF16,
        "ffn_gate": Q.Q4_1, "ffn_up": Q.Q5_0, "0.ffn_down": Q.Q4_K, "1.ffn_down": Q.Q5_K, "2.ffn_down": Q.Q6_K,
    }
    return make("llama", "LLAMA", config, byte_level("smollm", 300), kinds)


def gemma3() -> dict:
    config = transformers.Gemma3TextConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=7, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        max_position_embeddings=512, rms_norm_eps=1e-6, sliding_window=16, query_pre_attn_scalar=8, tie_word_embeddings=True,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
        },
    )
    kinds = {"token_embd": Q.Q8_0, "ffn_gate": Q.Q4_0, "ffn_up": Q.Q4_0, "ffn_down": Q.Q4_0, "attn_q": Q.Q5_0, "attn_k": Q.Q8_0}
    return make("gemma3", "GEMMA3", config, pieces(380, "gemma3", True), kinds)


def make(name: str, arch: str, config, vocabulary: dict, kinds: dict | None = None) -> dict:
    """Writes one file and returns what has to come out of it."""
    config.vocab_size = len(vocabulary["tokens"])
    config.bos_token_id, config.eos_token_id, config.pad_token_id = (vocabulary["special"].get(key) for key in ("bos", "eos", "pad"))
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter_name, parameter in model.named_parameters():
        if "norm" in parameter_name or parameter_name.endswith("bias"):
            torch.nn.init.uniform_(parameter, -0.5, 1.5)
    architecture = getattr(gguf.MODEL_ARCH, arch)
    writer = gguf.GGUFWriter(OUT / f"{name}.gguf", gguf.MODEL_ARCH_NAMES[architecture])
    write_config(writer, config)
    write_vocabulary(writer, vocabulary)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    rng = np.random.default_rng(1)
    tensors = {}
    for own_name, tensor in model.state_dict().items():
        if own_name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stored_name = names.get_name(own_name, try_suffixes=(".weight", ".bias"))
        stored, undo = convert(config, own_name, tensor.numpy())
        kind = next((kind for part, kind in (kinds or {}).items() if f"{part}.weight" in stored_name and stored.ndim == 2), None)
        if kind is None:
            kind = Q.F16 if stored.ndim == 2 else Q.F32
        blocks = quantise(stored, kind, rng)
        raw = None if kind in (Q.F32, Q.F16) else kind
        writer.add_tensor(stored_name, blocks, raw_dtype=raw)
        tensors[own_name] = undo(np.asarray(gguf.dequantize(blocks, kind), dtype=np.float32))
    if config.rope_parameters.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    values = config.to_dict()
    return {
        "config": {key: values[key] for key in COMMON if key in values} | {"architectures": [type(model).__name__]},
        "tensors": {
            own_name: [list(values.shape), hashlib.sha256(np.ascontiguousarray(values).astype("<f4").tobytes()).hexdigest()]
            for own_name, values in sorted(tensors.items())
        },
        "ids": [[text, vocabulary["encode"](text)] for text in TEXTS],
        "starts_with": vocabulary["special"]["bos"] if vocabulary["add_bos"] else None,
        "chat": "<|im_start|>user\nHej<|im_end|>\n<|im_start|>assistant\n" if vocabulary["chat"] else None,
    }


def convert(config, name: str, values: np.ndarray):
    """As stored, and how to undo it."""
    for part, n_heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
        if f"{part}." in name and config.model_type in ("llama", "smollm3"):
            halves = (n_heads, 2, values.shape[0] // n_heads // 2, *values.shape[1:])
            interleaved = (halves[0], halves[2], halves[1], *values.shape[1:])
            return (
                values.reshape(halves).swapaxes(1, 2).reshape(values.shape),
                lambda stored: stored.reshape(interleaved).swapaxes(1, 2).reshape(values.shape),
            )
    if config.model_type.startswith("gemma") and name.endswith("norm.weight"):
        return values + np.float32(1), lambda stored: stored - np.float32(1)
    return values, lambda stored: stored


def quantise(values: np.ndarray, kind: Q, rng) -> np.ndarray:
    # By column of a block's bytes, those of its f16 scales: all other bytes may be anything.
    scales = {Q.Q4_K: (0, 2), Q.Q5_K: (0, 2), Q.Q6_K: (208,)}
    if kind not in scales:
        return gguf.quantize(values, kind)
    n_values, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (values.shape[0], values.shape[1] // n_values, n_bytes), dtype=np.uint8)
    for at in scales[kind]:
        scale = rng.uniform(-0.01, 0.01, blocks.shape[:2]).astype(np.float16)
        blocks[:, :, at : at + 2] = scale[..., None].view(np.uint8)
    return blocks.reshape(values.shape[0], -1)


def llama3_divisors(config) -> np.ndarray:
    rope, width = config.rope_parameters, config.head_dim
    original, low, high = rope["original_max_position_embeddings"], rope["low_freq_factor"], rope["high_freq_factor"]
    divisors = []
    for frequency in 1.0 / rope["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float32) / width):
        wavelength = 2 * math.pi / frequency
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(rope["factor"])
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(divisors, dtype=np.float32)


def write_config(writer, config) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_rope_freq_base(rope["rope_theta"])
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if config.model_type in ("llama", "smollm3"):
        writer.add_rope_dimension_count(head_dim)
    if config.model_type.startswith("gemma") or config.model_type == "qwen3":
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if config.model_type.startswith("gemma"):
        writer.add_sliding_window(config.sliding_window)
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])


def write_vocabulary(writer, vocabulary: dict) -> None:
    writer.add_tokenizer_model(vocabulary["model"])
    writer.add_tokenizer_pre(vocabulary["pre"])
    writer.add_token_list(vocabulary["tokens"])
    if vocabulary["scores"]:
        writer.add_token_scores(vocabulary["scores"])
    writer.add_token_types(vocabulary["types"])
    if vocabulary["merges"]:
        writer.add_token_merges(vocabulary["merges"])
    for key, token_id in vocabulary["special"].items():
        getattr(writer, f"add_{key}_token_id")(token_id)
    writer.add_add_bos_token(vocabulary["add_bos"])
    if vocabulary["chat"]:
        writer.add_chat_template(CHAT)
    if vocabulary["pre"] == "gemma":
        writer.add_add_space_prefix(False)


def byte_level(pre: str, size: int, all_bytes: bool = True) -> dict:
    """A byte-level vocabulary, with some special tokens and one that is only added."""
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    split = {"smollm": pre_tokenizers.Digits(individual_digits=True), "qwen2": pre_tokenizers.Split(Regex(QWEN2), "isolated")}
    split = split.get(pre, pre_tokenizers.Split(Regex(LLAMA3), "isolated"))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=pre == "smollm")])
    tokenizer.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if all_bytes else []
    trainer = trainers.BpeTrainer(vocab_size=size - 1, special_tokens=control, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([CORPUS if all_bytes else CORPUS.splitlines()[0]], trainer)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    if pre == "smaug-bpe":
        model = tokenizer.model
        model.ignore_merges = True
        tokenizer.model = model
    state = json.loads(tokenizer.to_str())
    tokens = [tokenizer.id_to_token(token_id) for token_id in range(tokenizer.get_vocab_size())]
    kinds = {token: 3 for token in control} | {"<tool>": 4}
    return {
        "model": "gpt2", "pre": pre, "tokens": tokens, "types": [kinds.get(token, 1) for token in tokens], "scores": None,
        "merges": [" ".join(merge) for merge in state["model"]["merges"]], "special": {"bos": 1, "eos": 2, "pad": 2},
        "add_bos": False, "chat": True, "encode": lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
    }


def pieces(size: int, model_type: str, byte_fallback: bool) -> dict:
    """A SentencePiece vocabulary as of Llama 2 or Gemma."""
    is_gemma = model_type.startswith("gemma")
    user_defined = ["<tool>"] + (["▁▁", "▁▁▁▁"] if is_gemma else [])
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.splitlines() if byte_fallback else CORPUS.splitlines()[:1]), model_writer=trained,
        vocab_size=size, model_type="bpe", byte_fallback=byte_fallback, split_digits=True, character_coverage=1.0,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=not is_gemma,
        allow_whitespace_only_pieces=True, minloglevel=2,
        control_symbols=["<|im_start|>", "<|im_end|>"] if is_gemma else [], user_defined_symbols=user_defined,
        **(dict(pad_id=0, eos_id=1, bos_id=2, unk_id=3, bos_piece="<bos>", eos_piece="<eos>") if is_gemma else {}),
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    tokens, types = [], []
    for token_id in range(processor.vocab_size()):
        token = processor.id_to_piece(token_id)
        kind = 1
        if processor.is_unknown(token_id):
            kind = 2
        elif processor.is_control(token_id):
            kind = 3
        elif processor.is_byte(token_id):
            kind = 6
        elif token in user_defined:
            kind, token = 4, token.replace("▁", " ")
        tokens.append(token)
        types.append(kind)
    special = {"bos": processor.bos_id(), "eos": processor.eos_id(), "unk": processor.unk_id()}
    if is_gemma:
        special["pad"] = processor.pad_id()
    apart = [token for token, kind in zip(tokens, types) if kind in (2, 3) or kind == 4 and not is_gemma]

    def encode(text: str) -> list[int]:
        """Added tokens written out are parsed, as everywhere here, and each text between them starts anew; sentencepiece has no
        such mode."""
        at = [(text.find(token), token) for token in apart if token in text]
        if not at:
            return processor.encode(text)
        start, token = min(at)
        return encode(text[:start]) + [tokens.index(token)] + encode(text[start + len(token) :])

    return {
        "model": "llama", "pre": "gemma" if is_gemma else "default", "tokens": tokens, "types": types,
        "scores": [processor.get_score(token_id) for token_id in range(len(tokens))], "merges": None, "special": special,
        "add_bos": True, "chat": False, "encode": encode,
    }


if __name__ == "__main__":
    main()
