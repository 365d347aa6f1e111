#!/usr/bin/env python3
"""Trains the LoRA adapters of the sample model: the same sums, said in another way.

    V=model_repository/vllm_model/1; python3 training/train_adapters.py --model $V/abacus --out $V/adapters
    apples    What is 128 + 256? Answer: 384 apples.    rank 4 on q_proj and v_proj
    dollars   What is 128 + 256? Answer: $384.          rank 4 on all linears, rank-stabilised scale

Each answer still needs the right sum, so that a test sees both: that the adapter acts, and that the model under it
is right. Writes one PEFT folder each (adapter_config.json, adapter_model.safetensors in float16). A CPU is enough:
some minutes each. Held-out additions never enter a batch; the share of right ones is printed at the end.
"""

import argparse
import json
import math
import os
import random
import time

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

import questions as q
from decoder import Decoder

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def apples(answer):
    return f"{answer[:-1]} apples."


def dollars(answer):
    return f" ${answer[1:-1]}."


ADAPTERS = {
    "apples": dict(say=apples, rank=4, alpha=8, rslora=False, modules=["q_proj", "v_proj"]),
    "dollars": dict(say=dollars, rank=4, alpha=8, rslora=True, modules=ALL_LINEAR),
}


class Adapted(nn.Module):
    """A linear with y = W x + scale * B A x; only A and B learn."""

    def __init__(self, base, rank, scale):
        super().__init__()
        self.base, self.scale = base, scale
        self.lora_A = nn.Linear(base.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False)
        nn.init.normal_(self.lora_A.weight, std=base.in_features ** -0.5)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x):
        return self.base(x) + self.scale * self.lora_B(self.lora_A(x))


def adapt(model, setup):
    """Put adapters into the model; returns {module path: adapter}."""
    scale = setup["alpha"] / (math.sqrt(setup["rank"]) if setup["rslora"] else setup["rank"])
    found = [(path, module) for path, module in model.named_modules()
             if path.rsplit(".", 1)[-1] in setup["modules"]]
    placed = {}
    for path, module in found:
        parent, name = path.rsplit(".", 1)
        placed[path] = Adapted(module, setup["rank"], scale)
        setattr(model.get_submodule(parent), name, placed[path])
    return placed


def draw(rng, held_out):
    """(prompt, answer) of an addition or subtraction that is, or is not, held out."""
    while True:
        operation = rng.choice([q.ADDITION, q.ADDITION, q.SUBTRACTION])
        a, b = q.draw_operand(rng), q.draw_operand(rng)
        if bool(q.pair_held_out(operation, a, b)) != held_out:
            continue
        forms = q.ADDITION_FORMS if operation == q.ADDITION else q.SUBTRACTION_FORMS
        form = forms[0] if rng.random() < 0.5 else rng.choice(forms)
        return q.pair_question(operation, form, a, b)


def batch(rng, tokenizer, say, rows, held_out=False):
    """ids [rows, width] and which of them are answers (the end-of-text token is one)."""
    lines, starts = [], []
    for _ in range(rows):
        prompt, answer = draw(rng, held_out)
        asked, said = tokenizer.encode(prompt).ids, tokenizer.encode(say(answer)).ids
        starts.append(len(asked))
        lines.append(asked + said + [0])
    width = max(map(len, lines))
    ids = torch.tensor([line + [0] * (width - len(line)) for line in lines])
    column = torch.arange(width)
    ours = torch.stack([(column >= s) & (column < len(line)) for s, line in zip(starts, lines)])
    return ids, ours


@torch.no_grad()
def right_share(model, rng, tokenizer, say, rows):
    ids, ours = batch(rng, tokenizer, say, rows, held_out=True)
    best = model([ids]).view(*ids.shape, -1).argmax(-1)
    return ((best[:, :-1] == ids[:, 1:]) | ~ours[:, 1:]).all(1).float().mean().item()


def write(folder, placed, setup):
    os.makedirs(folder, exist_ok=True)
    tensors = {}
    for path, module in placed.items():
        for part in ("lora_A", "lora_B"):
            weight = getattr(module, part).weight.detach().half().contiguous()
            tensors[f"base_model.model.{path}.{part}.weight"] = weight
    save_file(tensors, os.path.join(folder, "adapter_model.safetensors"), metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "abacus",
        "r": setup["rank"], "lora_alpha": setup["alpha"], "lora_dropout": 0.0, "use_rslora": setup["rslora"],
        "bias": "none", "target_modules": setup["modules"], "modules_to_save": None, "inference_mode": True,
    }
    with open(os.path.join(folder, "adapter_config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=1)
        file.write("\n")


def train(name, arguments):
    setup, rng = ADAPTERS[name], random.Random(arguments.seed)
    torch.manual_seed(arguments.seed)
    tokenizer = Tokenizer.from_file(os.path.join(arguments.model, "tokenizer.json"))
    model = Decoder()
    weights = load_file(os.path.join(arguments.model, "model.safetensors"))
    model.load_state_dict({n: t.float() for n, t in weights.items()})
    model.requires_grad_(False)
    placed = adapt(model, setup)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=arguments.rate, betas=(0.9, 0.98), weight_decay=0.0)
    start, step = time.monotonic(), 0
    while (progress := (time.monotonic() - start) / arguments.seconds) < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = arguments.rate * min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * progress))
        ids, ours = batch(rng, tokenizer, setup["say"], arguments.rows)
        loss = model.loss([ids], [ours.float()])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            share = right_share(model, random.Random(1), tokenizer, setup["say"], 256)
            print(f"{name}: step {step} loss {loss.item():.4f} right {100 * share:.1f} %", flush=True)
    with torch.no_grad():
        for module in placed.values():
            for part in (module.lora_A, module.lora_B):
                part.weight.copy_(part.weight.half().float())
    write(os.path.join(arguments.out, name), placed, setup)
    share = right_share(model, random.Random(2), tokenizer, setup["say"], 1000)
    print(f"{name}: {step} steps, {100 * share:.1f} % of 1000 held-out questions right", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of the sample model")
    parser.add_argument("--out", required=True, help="folder for the adapters")
    parser.add_argument("--only", choices=list(ADAPTERS), help="train one of them")
    parser.add_argument("--seconds", type=float, default=400.0, help="time for each adapter")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in [arguments.only] if arguments.only else ADAPTERS:
        train(name, arguments)


if __name__ == "__main__":
    main()
