#!/usr/bin/env python3
"""PyTorch's side of `gpu/check`: the same model, weights, batches and optimizer as `trainer/examples/gpu_steps.rs`.

usage: peer.py train SIZE DIR STEPS [compile] | decode SIZE DIR | kernels

Prints one JSON object. Training: bf16 autocast over f32 weights, SDPA, fused AdamW, clipping; a plain module, which is faster
than the one in transformers. Decoding: transformers' generate, greedy, static batch, bf16.
"""
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

WARM_UP = 10
PEAK = 989e12
DECODE = (64, 64, 128)
# The defaults of a recipe's optimizer.
BETAS, EPS, WEIGHT_DECAY, MAX_NORM = (0.9, 0.95), 1e-8, 0.1, 1.0
SIZES = {  # layers, width, heads, ffn, vocabulary, context, sequences, learning rate
    "S": (4, 128, 4, 384, 2_048, 128, 32, 1e-3),
    "L": (12, 768, 12, 2_048, 50_304, 1_024, 32, 3e-4),
}


def ids(n, seed, vocab):
    return [(i * 7_919 + i // 3 + seed * 101) % vocab for i in range(n)]


class Layer(nn.Module):
    def __init__(self, width, heads, ffn):
        super().__init__()
        self.heads = heads
        self.input_layernorm = nn.RMSNorm(width, eps=1e-5)
        self.post_attention_layernorm = nn.RMSNorm(width, eps=1e-5)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.o = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * ffn, bias=False)
        self.down = nn.Linear(ffn, width, bias=False)

    def forward(self, x, cos, sin):
        batch, length, width = x.shape
        qkv = self.qkv(self.input_layernorm(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        y = F.scaled_dot_product_attention(turn(q, cos, sin), turn(k, cos, sin), v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(batch, length, width))
        gate, up = self.gate_up(self.post_attention_layernorm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


def turn(x, cos, sin):
    low, high = x.chunk(2, -1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)


class Model(nn.Module):
    def __init__(self, layers, width, heads, ffn, vocab, context):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.layers = nn.ModuleList(Layer(width, heads, ffn) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        half = width // heads // 2
        angles = torch.arange(context, dtype=torch.float64)[:, None] * 10_000.0 ** -(torch.arange(half, dtype=torch.float64) / half)
        self.register_buffer("cos", angles.cos().to(torch.bfloat16), persistent=False)
        self.register_buffer("sin", angles.sin().to(torch.bfloat16), persistent=False)

    def forward(self, tokens):
        x = self.embed(tokens).to(torch.bfloat16)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        logits = F.linear(self.norm(x)[:, :-1], self.embed.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


def load(model, folder):
    from safetensors.torch import load_file

    weights = load_file(f"{folder}/model.safetensors")
    with torch.no_grad():
        model.embed.weight.copy_(weights["model.embed_tokens.weight"])
        model.norm.weight.copy_(weights["model.norm.weight"])
        for i, layer in enumerate(model.layers):
            of = lambda name: weights[f"model.layers.{i}.{name}.weight"]
            layer.input_layernorm.weight.copy_(of("input_layernorm"))
            layer.post_attention_layernorm.weight.copy_(of("post_attention_layernorm"))
            layer.qkv.weight.copy_(torch.cat([of(f"self_attn.{x}_proj") for x in "qkv"]))
            layer.o.weight.copy_(of("self_attn.o_proj"))
            layer.gate_up.weight.copy_(torch.cat([of("mlp.gate_proj"), of("mlp.up_proj")]))
            layer.down.weight.copy_(of("mlp.down_proj"))


def train(size, folder, steps, compiled):
    layers, width, heads, ffn, vocab, context, sequences, lr = SIZES[size]
    model = Model(layers, width, heads, ffn, vocab, context).cuda()
    load(model, folder)
    n_parameters = sum(p.numel() for p in model.parameters())
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=BETAS, eps=EPS, fused=True)
    run = torch.compile(model) if compiled else model
    batches = [
        torch.tensor([ids(context, n * sequences + row, vocab) for row in range(sequences)], device="cuda")
        for n in range(8)
    ]
    losses, seconds = [], []
    torch.cuda.synchronize()
    for step in range(steps):
        clock = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = run(batches[step % 8])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if step >= WARM_UP:
            seconds.append(time.perf_counter() - clock)
    n_tokens = sequences * context
    tokens_per_s = n_tokens / statistics.median(seconds)
    flop = 6.0 * (n_parameters + layers * context * width)
    return {
        "parameters": n_parameters, "steps": steps, "tokens_per_step": n_tokens, "tokens_per_s": tokens_per_s,
        "mfu": tokens_per_s * flop / PEAK,
        "losses": [x for i, x in enumerate(losses) if i < 20 or i % 20 == 0],
        "peak_memory_bytes": torch.cuda.max_memory_reserved(),
    }


def decode(size, folder):
    from transformers import AutoModelForCausalLM

    vocab = SIZES[size][4]
    rows, n_prompt, n_new = DECODE
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="sdpa").cuda().eval()
    prompts = torch.tensor([ids(n_prompt, row, vocab) for row in range(rows)], device="cuda")
    settings = dict(max_new_tokens=n_new, min_new_tokens=n_new, do_sample=False, pad_token_id=0, eos_token_id=None)
    seconds = []
    for _ in range(4):
        torch.cuda.synchronize()
        clock = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(prompts, attention_mask=torch.ones_like(prompts), **settings)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - clock)
    assert out.shape == (rows, n_prompt + n_new), out.shape
    return {"rows": rows, "prompt_tokens": n_prompt, "new_tokens": n_new,
            "tokens_per_s": rows * n_new / statistics.median(seconds[1:]),
            "first_ids": out[0, n_prompt:n_prompt + 8].tolist()}


def kernels():
    """SDPA at the shape of size L, and the two ceilings of the card: a large product and a large copy."""
    from torch.profiler import ProfilerActivity  # noqa: F401  (fails early where torch has no CUDA)

    def measure(work):
        work()
        runs = []
        for _ in range(5):
            torch.cuda.synchronize()
            clock = time.perf_counter()
            for _ in range(10):
                work()
            torch.cuda.synchronize()
            runs.append((time.perf_counter() - clock) * 100)
        return statistics.median(runs)

    q, k, v = (torch.randn(32, 12, 1024, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    dy = torch.randn(32, 12, 1024, 64, device="cuda", dtype=torch.bfloat16)

    def forward():
        with torch.no_grad():
            F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def both():
        torch.autograd.grad(F.scaled_dot_product_attention(q, k, v, is_causal=True), (q, k, v), dy)

    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    big = torch.randn(1 << 30, device="cuda")
    to = torch.empty_like(big)
    product, copy = measure(lambda: a @ b), measure(lambda: to.copy_(big))
    return {"sdpa": {"forward_ms": measure(forward), "with_backward_ms": measure(both)},
            "product_8192_tflop_per_s": 2 * 8192**3 / product / 1e9, "copy_tb_per_s": 8 * (1 << 30) / copy / 1e9,
            "device": torch.cuda.get_device_name(), "torch": torch.__version__}


def main():
    match sys.argv[1:]:
        case ["train", size, folder, steps, *rest]:
            out = train(size, folder, int(steps), rest == ["compile"])
        case ["decode", size, folder]:
            out = decode(size, folder)
        case ["kernels"]:
            out = kernels()
        case _:
            sys.exit(__doc__)
    print(json.dumps(out))


main()
