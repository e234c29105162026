"""Writes what PyTorch makes of optimizer steps and of whole training steps, for the Rust tests named below.

    python tests/peers/adamw_step.py

`kernels/tests/data/adamw.json`, read by `kernels/tests/torch.rs`: parameters, gradients and the parameters after each of six steps
of `torch.optim.AdamW`, with clipping and with weight decay on matrices alone.
`trainer/tests/data/llama_steps.json`, read by `trainer/tests/torch.rs`: a tiny Llama, batches, and for each of three steps loss and
gradient norm, with the weights at the end.
"""

import json
from pathlib import Path

import numpy
import torch
import transformers

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = f"torch {torch.__version__}, transformers {transformers.__version__}"


def main() -> None:
    torch.manual_seed(1)
    write("kernels/tests/data/adamw.json", optimizer_steps())
    write("trainer/tests/data/llama_steps.json", training_steps())


def optimizer_steps() -> dict:
    settings = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "max_norm": 1.0}
    parameters = {"matrix": torch.randn(5, 7), "norm": torch.ones(7), "table": torch.randn(9, 3) * 0.1}
    parameters = {name: torch.nn.Parameter(rounded(value)) for name, value in parameters.items()}
    before = values(parameters)
    optimizer = adamw(parameters, settings)
    steps = []
    # Gradients large enough to be clipped, and small ones behind them; a row of the table that no step touches.
    for size, lr in [(2.0, 1e-2), (0.01, 2e-2), (1e-6, 2e-2), (30.0, 1e-2), (0.1, 5e-3), (0.0, 1e-3)]:
        for parameter in parameters.values():
            parameter.grad = rounded(torch.randn(parameter.shape) * size)
        parameters["table"].grad[4] = 0.0
        grads = {name: parameter.grad.flatten().tolist() for name, parameter in parameters.items()}
        norm = step(optimizer, parameters, lr, settings["max_norm"])
        steps.append({"lr": lr, "grads": printed(grads), "norm": norm, "after": printed(values(parameters))})
    shapes = {name: list(parameter.shape) for name, parameter in parameters.items()}
    return {"made_with": VERSIONS, "settings": settings, "shapes": shapes, "before": printed(before), "steps": steps}


def training_steps() -> dict:
    settings = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "max_norm": 0.5}
    shape = {
        "vocab_size": 264,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "max_position_embeddings": 16,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    config = transformers.LlamaConfig(**shape, rope_parameters=rope, initializer_range=0.3)
    model = transformers.LlamaForCausalLM(config)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            if name.endswith("norm.weight"):
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
            parameter.copy_(rounded(parameter))
    before = values(parameters)
    optimizer = adamw(parameters, settings)
    lr, steps = 1e-2, []
    for _ in range(3):
        ids = torch.randint(6, shape["vocab_size"], (3, 12))
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        norm = step(optimizer, parameters, lr, settings["max_norm"])
        steps.append({"ids": ids.tolist(), "loss": loss.item(), "norm": norm})
    shape["rope_theta"] = rope["rope_theta"]
    result = {"made_with": VERSIONS, "shape": shape, "settings": settings, "lr": lr, "steps": steps}
    return result | {"before": printed(before), "after": printed(values(parameters))}


def adamw(parameters: dict, settings: dict) -> torch.optim.AdamW:
    groups = [
        {"params": [p for p in parameters.values() if p.dim() >= 2], "weight_decay": settings["weight_decay"]},
        {"params": [p for p in parameters.values() if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (settings["beta1"], settings["beta2"])
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=settings["eps"], foreach=False)


def step(optimizer: torch.optim.AdamW, parameters: dict, lr: float, max_norm: float) -> float:
    norm = torch.nn.utils.clip_grad_norm_(parameters.values(), max_norm)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return norm.item()


def rounded(tensor: torch.Tensor) -> torch.Tensor:
    """To three significant decimal digits, which keeps the files short."""
    return torch.tensor([float(f"{x:.3g}") for x in tensor.flatten().tolist()]).reshape(tensor.shape)


def values(parameters: dict) -> dict:
    return {name: parameter.detach().flatten().tolist() for name, parameter in parameters.items()}


def printed(named: dict) -> dict:
    """With the fewest digits that give the same f32."""
    return {name: [float(str(numpy.float32(x))) for x in numbers] for name, numbers in named.items()}


def write(name: str, content: dict) -> None:
    path = ROOT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in content.items())
    path.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    print(f"{name}: {path.stat().st_size} bytes, {VERSIONS}")


if __name__ == "__main__":
    main()
