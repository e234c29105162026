"""The PyTorch side: does one unit of work per line of standard input, and prints what it took.

python torch_steps.py VARIANT SIZE DIR, where DIR is what `peer_steps write SIZE DIR` wrote and VARIANT is one of
  train           one optimizer step in eager mode
  train-compiled  the same under torch.compile
  decode          greedy decoding, a loop over a static cache written by hand
  decode-generate transformers' `generate`
  product         one large square product
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

BATCH = {"S": 32, "M": 16}
N_ROWS, N_PROMPT, N_NEW = 32, 16, 64
SIDE = 1536


def ids(config, n, seed):
    """As `Size::ids` of peer_steps.rs."""
    return [(i * 7919 + i // 3 + seed * 101) % config["vocab_size"] for i in range(n)]


class Decoder(torch.nn.Module):
    """A Llama-style decoder as one would write it for speed: fused projections, SDPA, F.rms_norm."""

    def __init__(self, config, tensors):
        super().__init__()
        self.n_heads, self.width = config["num_attention_heads"], config["hidden_size"]
        self.head_dim, self.eps = config["head_dim"], config["rms_norm_eps"]
        par = lambda t: torch.nn.Parameter(t.clone())
        get = lambda name: tensors["model." + name + ".weight"]
        self.embed, self.norm = par(get("embed_tokens")), par(get("norm"))
        layer = lambda i, name: get(f"layers.{i}.{name}")
        make = lambda f: torch.nn.ParameterList([par(f(i)) for i in range(config["num_hidden_layers"])])
        self.input_norm = make(lambda i: layer(i, "input_layernorm"))
        self.post_norm = make(lambda i: layer(i, "post_attention_layernorm"))
        self.qkv = make(lambda i: torch.cat([layer(i, f"self_attn.{x}_proj") for x in "qkv"]))
        self.output = make(lambda i: layer(i, "self_attn.o_proj"))
        self.gate_up = make(lambda i: torch.cat([layer(i, "mlp.gate_proj"), layer(i, "mlp.up_proj")]))
        self.down = make(lambda i: layer(i, "mlp.down_proj"))
        half = self.head_dim // 2
        frequency = config["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(config["max_position_embeddings"], dtype=torch.float64)[:, None] * frequency
        angle = torch.cat([angle, angle], -1)
        self.register_buffer("cos", angle.cos().float())
        self.register_buffer("sin", angle.sin().float())

    def rotate(self, x, cos, sin):
        low, high = x.chunk(2, -1)
        return x * cos + torch.cat([-high, low], -1) * sin

    def forward(self, tokens, caches=None, start=0):
        batch, length = tokens.shape
        cos, sin = self.cos[start : start + length], self.sin[start : start + length]
        x = F.embedding(tokens, self.embed)
        for i in range(len(self.qkv)):
            h = F.rms_norm(x, (self.width,), self.input_norm[i], self.eps)
            q, k, v = F.linear(h, self.qkv[i]).view(batch, length, 3, self.n_heads, self.head_dim).unbind(2)
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
            q, k = self.rotate(q, cos, sin), self.rotate(k, cos, sin)
            if caches is not None:
                keys, values = caches[i]
                keys[:, :, start : start + length], values[:, :, start : start + length] = k, v
                k, v = keys[:, :, : start + length], values[:, :, : start + length]
            y = F.scaled_dot_product_attention(q, k, v, is_causal=length > 1)
            x = x + F.linear(y.transpose(1, 2).reshape(batch, length, self.width), self.output[i])
            h = F.rms_norm(x, (self.width,), self.post_norm[i], self.eps)
            gate, up = F.linear(h, self.gate_up[i]).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, self.down[i])
        return F.rms_norm(x, (self.width,), self.norm, self.eps)

    def loss(self, tokens):
        hidden = self(tokens)[:, :-1].reshape(-1, self.width)
        return F.cross_entropy(F.linear(hidden, self.embed), tokens[:, 1:].reshape(-1))


def train(config, folder, batch, compiled):
    model = Decoder(config, load_file(folder / "model.safetensors"))
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)
    loss_of = torch.compile(model.loss) if compiled else model.loss
    length = config["max_position_embeddings"]

    def step(n):
        tokens = torch.tensor([ids(config, length, n * batch + row) for row in range(batch)])
        start = time.perf_counter()
        loss = loss_of(tokens)
        value = loss.item()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - start, value

    return step


def prompts(config, n):
    return torch.tensor([ids(config, N_PROMPT, n * N_ROWS + row) for row in range(N_ROWS)])


def decode(config, folder):
    model = Decoder(config, load_file(folder / "model.safetensors")).eval()
    shape = (N_ROWS, model.n_heads, N_PROMPT + N_NEW, model.head_dim)
    caches = [(torch.zeros(shape), torch.zeros(shape)) for _ in model.qkv]

    @torch.inference_mode()
    def run(n):
        tokens = prompts(config, n)
        start = time.perf_counter()
        total, position = 0, 0
        for _ in range(N_NEW):
            hidden = model(tokens, caches, position)[:, -1]
            position += tokens.shape[1]
            tokens = F.linear(hidden, model.embed).argmax(-1, keepdim=True)
            total += tokens.sum()
        return time.perf_counter() - start, float(total)

    return run


def decode_generate(folder, config):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None

    @torch.inference_mode()
    def run(n):
        tokens = prompts(config, n)
        start = time.perf_counter()
        done = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=N_NEW, min_new_tokens=N_NEW,
            do_sample=False, pad_token_id=0,
        )
        return time.perf_counter() - start, float(done[:, N_PROMPT:].sum())

    return run


def product():
    a = torch.randn(SIDE, SIDE)

    def run(_):
        start = time.perf_counter()
        a @ a
        return time.perf_counter() - start, 2.0 * SIDE**3

    return run


def main():
    variant, size, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(int(os.environ.get("PEER_THREADS", "2")))
    config = json.loads((folder / "config.json").read_text())
    run = {
        "train": lambda: train(config, folder, BATCH[size], False),
        "train-compiled": lambda: train(config, folder, BATCH[size], True),
        "decode": lambda: decode(config, folder),
        "decode-generate": lambda: decode_generate(folder, config),
        "product": product,
    }[variant]()
    print("ready", flush=True)
    for n, _ in enumerate(sys.stdin):
        seconds, value = run(n)
        print(json.dumps({"seconds": seconds, "value": value}), flush=True)


main()
