"""Writes the fixture of `lm/tests/published`: what transformers computes for a tiny model of each family of decoders.

    python tests/peers/make_families.py [OUT [TEMPLATES]]

Weights are drawn by a rule that the test knows too (`draw`), so that the fixture holds configs, names of tensors as transformers
writes them, logits and greedy continuations only. Windows are shorter than the sequences, soft caps small enough to matter, norms
and biases far from what they start with. With OUT each model is also written as a folder, with a tokenizer, in one of f32, f16 and
bf16, in one file or in shards, for `transformers_parity.py`. TEMPLATES is a folder of chat templates by the name of a model (TRL's
`chat_templates`, with others added by hand); those with a template here take it in place of their own.
"""

import json
import math
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from make_foreign import train_tokenizer
from safetensors.torch import load_file, save_file

FIXTURE = Path(__file__).resolve().parents[2] / "lm" / "tests" / "published" / "families.json"
N_TOKENS = 40
N_PROMPT = 9
N_NEW = 16

SIZES = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": None,
    "pad_token_id": None,
    "attn_implementation": "eager",
}


def rope(kind: str, **keys) -> dict:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1_000.0, **keys}}


LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
YARN = {"factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 8.0}
SOFT = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0, "query_pre_attn_scalar": 40}
GEMMA3_ROPE = {
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    }
}
GEMMA3 = {"sliding_window": 6, "sliding_window_pattern": 3, "query_pre_attn_scalar": 40, **GEMMA3_ROPE}
FAMILIES = {
    "llama": (transformers.LlamaConfig, {"tie_word_embeddings": True, **rope("default")}),
    "llama_with_biases": (transformers.LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "llama_llama3": (transformers.LlamaConfig, rope("llama3", **LLAMA3)),
    "llama_linear": (transformers.LlamaConfig, rope("linear", factor=4.0)),
    "llama_yarn": (transformers.LlamaConfig, rope("yarn", **YARN)),
    "mistral": (transformers.MistralConfig, {"sliding_window": 6}),
    "qwen2": (transformers.Qwen2Config, {"head_dim": None, "tie_word_embeddings": True}),
    "qwen2_with_windows": (
        transformers.Qwen2Config,
        {"head_dim": None, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2},
    ),
    "qwen3": (transformers.Qwen3Config, {"tie_word_embeddings": True, "rope_theta": 1_000_000.0}),
    "olmo2": (transformers.Olmo2Config, {"head_dim": None, "rms_norm_eps": 1e-6}),
    "smollm3": (transformers.SmolLM3Config, {"head_dim": None}),
    "smollm3_with_windows": (
        transformers.SmolLM3Config,
        {"head_dim": None, "no_rope_layers": [0, 1, 1, 0], "use_sliding_window": True, "sliding_window": 6},
    ),
    "gemma2": (transformers.Gemma2Config, {"sliding_window": 6, **SOFT}),
    "gemma3_text": (transformers.Gemma3TextConfig, GEMMA3),
    "gemma3_text_with_cap": (transformers.Gemma3TextConfig, {**GEMMA3, "final_logit_softcapping": 4.0}),
    "gemma3": (transformers.Gemma3Config, GEMMA3),
}
TEMPLATES = {
    "llama_with_biases": "llama3",
    "llama_llama3": "llama3_1",
    "llama_linear": "llama3_2",
    "qwen2": "qwen2_5",
    "qwen3": "qwen3",
    "smollm3": "smollm3",
    "gemma2": "gemma",
    "gemma3_text": "gemma3",
}
VISION = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 28,
    "patch_size": 14,
}


def main(out: Path | None, templates: Path | None) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    cases = []
    for idx, (name, (config_class, keys)) in enumerate(FAMILIES.items()):
        sizes = {key: value for key, value in (SIZES | keys).items() if (key, value) != ("head_dim", None)}
        if config_class is transformers.Gemma3Config:
            text = {key: value for key, value in sizes.items() if key != "attn_implementation"}
            sizes = {"text_config": text, "vision_config": VISION, "attn_implementation": "eager"}
            sizes |= {"mm_tokens_per_image": 4, "image_token_index": 31, "boi_token_index": 30, "eoi_token_index": 29}
        config = config_class(**sizes)
        with tempfile.TemporaryDirectory() as folder:
            cases.append(make_case(name, config, Path(folder)))
        if out is not None and name != "gemma3":
            template = None if templates is None else templates / f"{TEMPLATES.get(name)}.jinja"
            write_folder(out / name, config_class, sizes, idx, template)
        print(f"{name}: {len(cases[-1]['tensors'])} tensors, largest logit {largest(cases[-1]['logits']):.3g}")
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    versions = json.dumps({"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]})
    FIXTURE.write_text(f'{{"made_with":{versions},"cases":[\n{lines}\n]}}\n', encoding="utf-8")
    print(f"{FIXTURE}: {FIXTURE.stat().st_size} bytes")


def largest(rows: list[list[float]]) -> float:
    return max(abs(value) for row in rows for value in row)


def make_case(name: str, config, folder: Path) -> dict:
    model_class = transformers.AutoModelForCausalLM
    if config.model_type == "gemma3":
        model_class = transformers.Gemma3ForConditionalGeneration
    make(config).save_pretrained(folder)
    # Tensors by the names that stand in the file, which are not always those of the parameters.
    tensors = load_file(folder / "model.safetensors")
    drawn = {key: draw(key, tuple(tensor.shape), config.model_type) for key, tensor in tensors.items()}
    save_file(drawn, folder / "model.safetensors", metadata={"format": "pt"})
    model, loading = model_class.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(loading.values()), loading
    model.eval()
    ids = [(7 * i * i + 3 * i + 1) % 29 for i in range(N_TOKENS)]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
        tokens = torch.tensor([ids[:N_PROMPT]])
        for _ in range(N_NEW):
            # The whole sequence each time: no cache of transformers' takes part.
            tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], 1)
    return {
        "name": name,
        "config": json.loads((folder / "config.json").read_text(encoding="utf-8")),
        "tensors": {key: list(tensor.shape) for key, tensor in tensors.items()},
        "ids": ids,
        "logits": [[float(f"{value:.7g}") for value in row] for row in logits.tolist()],
        "greedy": tokens[0, N_PROMPT:].tolist(),
    }


def make(config):
    if config.model_type == "gemma3":
        return transformers.Gemma3ForConditionalGeneration(config)
    return transformers.AutoModelForCausalLM.from_config(config)


def draw(name: str, shape: tuple[int, ...], model_type: str) -> torch.Tensor:
    """Numbers in -1..1 by a linear congruential generator that starts from the name, scaled by what they are."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = ((state ^ byte) * 0x100000001B3) % 2**64
    values = []
    for _ in range(math.prod(shape)):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        values.append((state >> 11) / 2**53 * 2.0 - 1.0)
    if name.endswith("norm.weight"):
        values = [1.0 + 0.5 * value for value in values]
    elif name.endswith("embed_tokens.weight"):
        # Gemma's embeddings are multiplied again; unless they are small each token would be followed by itself.
        values = [value * (0.25 if model_type.startswith("gemma") else 1.0) for value in values]
    elif len(shape) == 2:
        values = [value * 2.0 / math.sqrt(shape[1]) for value in values]
    return torch.tensor(values, dtype=torch.float64).reshape(shape).to(torch.float32)


def write_folder(folder: Path, config_class, sizes: dict, idx: int, template: Path | None) -> None:
    tokenizer = train_tokenizer()
    if template is not None and template.exists():
        tokenizer.chat_template = template.read_text(encoding="utf-8")
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = config_class(**(sizes | {"vocab_size": len(tokenizer) + 3, "max_position_embeddings": 256} | ids))
    model = make(config)
    for name, parameter in model.named_parameters():
        parameter.data = draw(name, tuple(parameter.shape), config.model_type)
    model.tie_weights()
    dtype = [torch.float32, torch.float16, torch.bfloat16][idx % 3]
    model = model.to(dtype)
    n_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    model.save_pretrained(folder, max_shard_size=n_bytes * 6 // 10 if idx % 2 else "5GB")
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) > 3:
        sys.exit(__doc__)
    main(*(Path(sys.argv[i]) if len(sys.argv) > i else None for i in (1, 2)))
