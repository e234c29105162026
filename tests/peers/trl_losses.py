"""Writes what TRL makes of the losses of alignment on small tensors, for `trainer/src/trl.rs`: `trainer/tests/data/trl_losses.json`.

    python tests/peers/trl_losses.py

Written for torch 2.15.0, transformers 5.24.0 and TRL 1.12.0, the last TRL that has PPO. Everything is in float64. A stand-in for the
model hands out logits (and values), so that TRL's own code makes log-probabilities of them; gradients are those of the logits (and values).

| what | whose code |
|---|---|
| DPO, IPO | TRL's `DPOTrainer._compute_loss`, whole |
| conservative DPO | the same: TRL no longer has it by name, but its loss `aot` is the same formula where a batch holds one pair; mean over pairs |
| rankings of more than two | the same, on all pairs of a ranking |
| GRPO, Dr. GRPO | TRL's `GRPOTrainer._compute_loss`, whole; its advantages are lines of `_generate_and_score_completions` |
| RLOO | TRL's `RLOOTrainer._compute_loss`, whole; its advantages are lines of `_generate_and_score_completions` |
| PPO | lines of TRL's `PPOTrainer.train`: rewards, generalised advantages, whitening; policy loss and value loss, both clipped |
| estimates of KL | the line of TRL's `PPOTrainer.train` that chooses `k1` or `k3` |
| reward model, pairs | TRL's `RewardTrainer.compute_loss`, whole |
| reward model, K ranks | InstructGPT's equation 1 (arXiv 2203.02155), written out here |

"Lines" are taken from the installed TRL with `inspect` and executed as they are; `excerpts` in the result says which. One is edited, in
the case `ppo` alone and not in `ppo_whole`: TRL has a state after the last token of an answer that is shorter than the longest possible
one, with a value of its own, and pays the reward there. Here the reward comes with the last token, so `ppo` takes that state away.

Of RLOO only the gradient is compared: TRL's loss is the ratio to the sampling policy times the advantage. At that policy the ratio is 1 and
the loss is minus the mean advantage, which is 0. `-1/N sum_y A(y) ln pi(y)` has the same gradient there (Ahmadian et al. 2024,
arXiv 2402.14740, section 3.3), and its value is written out here.
"""

import inspect
import itertools
import json
import os
import textwrap
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
import transformers
import trl
from trl.experimental.ppo import ppo_trainer
from trl.trainer import dpo_trainer, grpo_trainer, reward_trainer, rloo_trainer

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "trainer/tests/data/trl_losses.json"
VERSIONS = f"torch {torch.__version__}, transformers {transformers.__version__}, trl {trl.__version__}"

GROUP, VOCAB, LONGEST = 4, 6, 5
LENGTHS = [3, 5, 1, 4, 2, 5, 3, 4]
SETTINGS = {
    "beta": 0.3,
    "label_smoothing": 0.1,
    "kl": 0.07,
    "clip": 0.2,
    "value_clip": 0.15,
    "value_coefficient": 0.4,
    "gamma": 0.97,
    "lambda": 0.9,
    "max_new_tokens": 7,
}
EXCERPTS: dict[str, str] = {}


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(7)
    ragged = draw_answers(LENGTHS)
    whole = ragged | {"lengths": [LONGEST] * len(LENGTHS)}
    result = {"made_with": VERSIONS, "settings": SETTINGS, "group": GROUP, "vocab": VOCAB}
    result |= {"ragged": printed(ragged), "whole": printed(whole)}
    for name, width in {"pairs": 2, "rankings": GROUP}.items():
        result[f"dpo_{name}"] = preferences(ragged, width, "sigmoid")
        result[f"cdpo_{name}"] = preferences(ragged, width, "aot", SETTINGS["label_smoothing"])
        result[f"ipo_{name}"] = preferences(ragged, width, "ipo")
    result["grpo"] = grpo(ragged, "grpo", "group")
    result["dr_grpo"] = grpo(ragged, "dr_grpo", "none")
    result["rloo"] = rloo(ragged)
    result["ppo"] = ppo(ragged, "sequence_lengths_p1 = sequence_lengths + 1", "sequence_lengths_p1 = sequence_lengths")
    result["ppo_whole"] = ppo(whole)
    result["kl"] = kl_estimates(ragged)
    result["reward_pairs"] = reward_pairs()
    result["reward_ranks"] = [reward_ranks(sizes) for sizes in ([2, 2, 2], [3, 3], [4, 4], [4, 2, 3])]
    result["excerpts"] = EXCERPTS
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in result.items())
    OUTPUT.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    print(f"{OUTPUT.relative_to(ROOT)}: {OUTPUT.stat().st_size} bytes, {VERSIONS}")


def draw_answers(lengths: list[int]) -> dict:
    """Answers to two prompts, best first; logits of the policy that learns, of the one that answered, and of the reference."""
    n = len(lengths)
    policy = rounded(torch.randn(n, LONGEST, VOCAB))
    values = rounded(torch.randn(n, LONGEST))
    return {
        "lengths": lengths,
        "ids": torch.randint(VOCAB, (n, LONGEST)),
        "policy": policy,
        "old": rounded(policy + 0.3 * torch.randn(policy.shape)),
        "reference": rounded(policy + 0.8 * torch.randn(policy.shape)),
        "values": values,
        "old_values": rounded(values + 0.2 * torch.randn(values.shape)),
        "rewards": rounded(torch.randn(n)),
    }


def preferences(answers: dict, width: int, loss_type: str, label_smoothing: float = 0.0) -> dict:
    """All pairs of rankings of `width` answers; TRL has the better answers of a batch in its first half, the worse in its second."""
    starts = range(0, len(answers["lengths"]), width)
    pairs = [(start + a, start + b) for start in starts for a, b in itertools.combinations(range(width), 2)]
    logits = answers["policy"].clone().requires_grad_()
    trainer = stand_in(
        dpo_trainer.DPOTrainer,
        ld_alpha=None,
        precompute_ref_logps=False,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        f_divergence_type="reverse_kl",
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=SETTINGS["beta"],
        label_smoothing=label_smoothing,
        use_weighting=False,
        _total_train_tokens=0,
    )

    def loss_of(batch: list[tuple[int, int]]) -> torch.Tensor:
        rows = [better for better, _ in batch] + [worse for _, worse in batch]
        trainer.ref_model = speaking(answers["reference"][rows])
        mask = torch.cat([torch.zeros(len(rows), 1, dtype=torch.long), real(answers)[rows].long()], 1)
        ids = torch.cat([torch.zeros(len(rows), 1, dtype=torch.long), answers["ids"][rows]], 1)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": mask}
        return trainer._compute_loss(speaking(logits[rows]), inputs, return_outputs=False)

    loss = torch.stack([loss_of([pair]) for pair in pairs]).mean() if loss_type == "aot" else loss_of(pairs)
    loss.backward()
    return {"loss": loss.item(), "gradient": gradient(logits, answers)}


def grpo(answers: dict, loss_type: str, scale_rewards: str) -> dict:
    trainer = stand_in(
        grpo_trainer.GRPOTrainer,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None),
        model_kwarg_keys=(),
        temperature=1.0,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=SETTINGS["kl"],
        loss_type=loss_type,
        scale_rewards=scale_rewards,
        epsilon_low=SETTINGS["clip"],
        epsilon_high=SETTINGS["clip"],
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=SETTINGS["max_new_tokens"],
        _entropy_bonus_enabled=False,
    )
    first, last = "mean_grouped_rewards = torch.nanmean(", "advantages = advantages / (std_rewards + 1e-4)"
    state = {"self": trainer, "rewards": answers["rewards"], "num_generations": GROUP}
    excerpt(grpo_trainer.GRPOTrainer._generate_and_score_completions, first, last, state)
    logits = answers["policy"].clone().requires_grad_()
    inputs = completions(answers) | {"advantages": state["advantages"]}
    inputs |= {"old_per_token_logps": log_probs(answers, "old"), "ref_per_token_logps": log_probs(answers, "reference")}
    loss = trainer._compute_loss(speaking(logits), inputs)
    loss.backward()
    [clipped] = trainer._metrics["train"]["clip_ratio/region_mean"]
    assert 0.1 < clipped < 0.9, clipped
    return {"advantages": state["advantages"].tolist(), "loss": loss.item(), "gradient": gradient(logits, answers)}


def rloo(answers: dict) -> dict:
    trainer = stand_in(
        rloo_trainer.RLOOTrainer,
        model_kwarg_keys=(),
        temperature=1.0,
        beta=SETTINGS["kl"],
        normalize_advantages=False,
        epsilon_low=SETTINGS["clip"],
        epsilon_high=SETTINGS["clip"],
    )
    old = log_probs(answers, "policy")
    state = {"self": trainer, "rewards": answers["rewards"], "num_generations": GROUP, "completion_mask": real(answers)}
    state |= {"old_per_token_logps": old, "ref_per_token_logps": log_probs(answers, "reference"), "gather": lambda x: x}
    first, last = "# Include the KL penalty in the reward", "advantages = (advantages - torch.nanmean(advantages))"
    excerpt(rloo_trainer.RLOOTrainer._generate_and_score_completions, first, last, state)
    logits = answers["policy"].clone().requires_grad_()
    inputs = completions(answers) | {"advantages": state["advantages"], "old_logps": (old * real(answers)).sum(1)}
    trainer._compute_loss(speaking(logits), inputs).backward()
    loss = -(state["advantages"] * (old * real(answers)).sum(1)).mean()
    return {"advantages": state["advantages"].tolist(), "loss": loss.item(), "gradient": gradient(logits, answers)}


def ppo(answers: dict, *edit: str) -> dict:
    n = len(answers["lengths"])
    logits, values = answers["policy"].clone().requires_grad_(), answers["values"].clone().requires_grad_()
    args = SimpleNamespace(
        kl_coef=SETTINGS["kl"],
        kl_estimator="k1",
        whiten_rewards=False,
        gamma=SETTINGS["gamma"],
        lam=SETTINGS["lambda"],
        temperature=1 - 1e-7,  # TRL adds 1e-7
        cliprange=SETTINGS["clip"],
        cliprange_value=SETTINGS["value_clip"],
        vf_coef=SETTINGS["value_coefficient"],
    )
    state = {
        "args": args,
        "responses": answers["ids"],
        "sequence_lengths": torch.tensor(answers["lengths"]) - 1,  # TRL's are places of the last token
        "logprobs": log_probs(answers, "old"),
        "ref_logprobs": log_probs(answers, "reference"),
        "values": answers["old_values"],
        "scores": answers["rewards"],
        "empty_cache": lambda: None,
    }
    first, last = "response_idxs = torch.arange(", "advantages = torch.masked_fill(advantages, padding_mask, 0)"
    excerpt(ppo_trainer.PPOTrainer.train, first, last, state, *edit)

    def forward(model, query_responses, pad_token_id):
        return model(), torch.cat([values, torch.zeros(n, 1)], 1).unsqueeze(-1)

    state |= {"forward": forward, "model": speaking(logits), "processing_class": SimpleNamespace(pad_token_id=None)}
    state |= {"query_responses": answers["ids"], "micro_batch_inds": torch.arange(n), "context_length": 1}
    first, last = "mb_advantage = advantages[micro_batch_inds]", "loss = pg_loss + args.vf_coef * vf_loss"
    excerpt(ppo_trainer.PPOTrainer.train, first, last, state)
    for free, held in [("pg_losses", "pg_losses2"), ("vf_losses1", "vf_losses2")]:
        clipped = (state[held] > state[free])[real(answers)].double().mean()
        assert 0.1 < clipped < 0.9, clipped
    state["loss"].backward()
    credit = {name: per_token(state[name], answers) for name in ("advantages", "returns")}
    gradients = {"gradient": gradient(logits, answers), "value_gradient": gradient(values, answers)}
    return credit | {"loss": state["loss"].item()} | gradients


def kl_estimates(answers: dict) -> dict:
    state = {"logr": log_probs(answers, "reference") - log_probs(answers, "policy")}
    estimates = {}
    for name in ("k1", "k3"):
        state["args"] = SimpleNamespace(kl_estimator=name)
        line = 'kl = -logr if args.kl_estimator == "k1"'
        excerpt(ppo_trainer.PPOTrainer.train, line, line, state)
        estimates[name] = per_token(state["kl"], answers)
    return estimates


def reward_pairs() -> dict:
    scores = rounded(2 * torch.randn(8)).requires_grad_()
    trainer = stand_in(reward_trainer.RewardTrainer, args=SimpleNamespace(center_rewards_coefficient=None), _total_train_tokens=0)
    logits = torch.cat([scores[0::2], scores[1::2]]).unsqueeze(-1)
    loss = trainer.compute_loss(lambda **_: SimpleNamespace(logits=logits), {"attention_mask": torch.ones(8, 1)})
    loss.backward()
    return {"scores": scores.tolist(), "loss": loss.item(), "gradient": scores.grad.tolist()}


def reward_ranks(sizes: list[int]) -> dict:
    """InstructGPT's loss: of each prompt the mean over its `C(K, 2)` pairs, of those the mean over prompts."""
    scores = rounded(2 * torch.randn(sum(sizes))).requires_grad_()
    losses = []
    for ranked in scores.split(sizes):  # best first
        pairs = list(itertools.combinations(ranked, 2))
        losses.append(-sum(torch.log(torch.sigmoid(better - worse)) for better, worse in pairs) / len(pairs))
    loss = sum(losses) / len(losses)
    loss.backward()
    return {"sizes": sizes, "scores": scores.tolist(), "loss": loss.item(), "gradient": scores.grad.tolist()}


def stand_in(trainer: type, **attributes) -> object:
    """A trainer without a model, data and devices; it has what its loss looks at."""
    made = object.__new__(trainer)
    accelerator = SimpleNamespace(device="cpu", is_main_process=False)
    accelerator.gather = accelerator.gather_for_metrics = lambda x: x
    accelerator.reduce = lambda x, reduction: x
    common = {"accelerator": accelerator, "aux_loss_enabled": False, "model": SimpleNamespace(training=True, is_gradient_checkpointing=False)}
    common["_metrics"] = {"train": defaultdict(list)}
    for name, value in (common | attributes).items():
        object.__setattr__(made, name, value)
    return made


def speaking(logits: torch.Tensor):
    """A model whose logits are given: those for the tokens of the answers, after a prompt of one token."""
    after_the_last = torch.zeros(len(logits), 1, VOCAB)
    return lambda **_: SimpleNamespace(logits=torch.cat([logits, after_the_last], 1))


def completions(answers: dict) -> dict:
    prompt = torch.zeros(len(answers["lengths"]), 1, dtype=torch.long)
    mask = real(answers).long()
    return {"prompt_ids": prompt, "prompt_mask": prompt + 1, "completion_ids": answers["ids"], "completion_mask": mask}


def log_probs(answers: dict, whose: str) -> torch.Tensor:
    return answers[whose].log_softmax(-1).gather(-1, answers["ids"].unsqueeze(-1)).squeeze(-1)


def real(answers: dict) -> torch.Tensor:
    """Which places hold a token."""
    return torch.arange(LONGEST) < torch.tensor(answers["lengths"]).unsqueeze(1)


def excerpt(function, first: str, last: str, state: dict, *edit: str) -> None:
    """Executes the lines of a function from the one with `first` to the next one with `last`; `state` holds its variables."""
    function = inspect.unwrap(function)
    lines, start = inspect.getsourcelines(function)
    begin = next(i for i, line in enumerate(lines) if first in line)
    end = next(i for i, line in enumerate(lines) if i >= begin and last in line)
    code = textwrap.dedent("".join(lines[begin : end + 1]))
    if edit:
        assert code.count(edit[0]) == 1, edit
        code = code.replace(*edit)
    name = Path(inspect.getsourcefile(function)).name
    EXCERPTS[f"{name}:{start + begin}-{start + end}"] = function.__qualname__
    scope = function.__globals__ | state
    exec(code, scope)
    state |= {name: value for name, value in scope.items() if name not in function.__globals__ or name in state}


def gradient(leaf: torch.Tensor, answers: dict) -> list:
    assert torch.count_nonzero(leaf.grad[~real(answers)]) == 0
    return per_token(leaf.grad, answers)


def per_token(tensor: torch.Tensor, answers: dict) -> list:
    """Of each answer what belongs to its tokens, flat."""
    return [of_answer[:length].flatten().tolist() for of_answer, length in zip(tensor, answers["lengths"])]


def printed(answers: dict) -> dict:
    of_tokens = ("ids", "policy", "old", "reference", "values", "old_values")
    shown = {name: per_token(answers[name], answers) for name in of_tokens}
    return {"lengths": answers["lengths"], "rewards": answers["rewards"].tolist()} | shown


def rounded(tensor: torch.Tensor) -> torch.Tensor:
    """To three significant decimal digits, which keeps the file short."""
    return torch.tensor([float(f"{x:.3g}") for x in tensor.flatten().tolist()]).reshape(tensor.shape)


if __name__ == "__main__":
    main()
