#!/usr/bin/env python3
"""Trains what drafts for the sample model: a smaller Llama, and an EAGLE-3 head on its hidden states.

    V=model_repository/vllm_model/1; python3 training/train_drafts.py --model $V/abacus --out $V

    abacus_draft     a decoder of 2 layers (speculative_config: {"model": "abacus_draft", ...})
    abacus_eagle3    a head of one layer in the published format: LlamaForCausalLMEagle3

Both learn what the model itself says: each batch (corpus.py) goes through the model once, and its probabilities are
what both are to give. The head is unrolled as it drafts: fed its own hidden states, STEPS times. At the end both are
asked where nothing was trained (held-out problems, other stories) how many of their drafts the model would accept,
and the script fails if that is fewer than --least. A CPU is enough: half an hour on one core. torch, transformers.
"""

import argparse
import json
import math
import os
import random
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import corpus as corpora
import questions as q
import stories
from decoder import CONFIG, HIDDEN, Decoder, RmsNorm, linear, rotate

VOCABULARY, END = CONFIG["vocab_size"], CONFIG["eos_token_id"]
# Layers of the model before which its hidden states are taken.
TAPS = [1, 3, 5]
# Drafts that the head learns to make one after the other.
STEPS = 3

DRAFT = {
    "vocab_size": VOCABULARY, "hidden_size": 96, "intermediate_size": 192,
    "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 32,
    "max_position_embeddings": CONFIG["max_position_embeddings"], "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": END,
}
HEAD = {
    "architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama",
    "vocab_size": VOCABULARY, "draft_vocab_size": 320, "hidden_size": HIDDEN,
    "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 32, "hidden_act": "silu",
    "max_position_embeddings": CONFIG["max_position_embeddings"], "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "rope_scaling": None, "attention_bias": False, "mlp_bias": False,
    "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": END,
    "torch_dtype": "bfloat16",
    "eagle_config": {"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": TAPS},
}


def shifted(x, by):
    """x [rows, width, ...] `by` columns to the left, zeros behind."""
    return torch.cat((x[:, by:], torch.zeros_like(x[:, :by])), 1)


class HeadAttention(nn.Module):
    def __init__(self):
        super().__init__()
        heads, kv_heads, dim = (HEAD[name] for name in (
            "num_attention_heads", "num_key_value_heads", "head_dim"))
        self.shape, self.kv_shape = (heads, dim), (kv_heads, dim)
        self.q_proj = linear(2 * HIDDEN, heads * dim)
        self.k_proj = linear(2 * HIDDEN, kv_heads * dim)
        self.v_proj = linear(2 * HIDDEN, kv_heads * dim)
        self.o_proj = linear(heads * dim, HIDDEN)

    def forward(self, x, angles, before):
        """x [rows, width, 2 HIDDEN]. `before` has keys and values of the passes before and gets this one's.

        A column of the first pass sees the columns up to it; of a later pass, what its column of the first pass saw,
        and its own column in each pass since.
        """
        rows, width, _ = x.shape
        turned = [rotate(part(x).view(rows * width, *shape), *angles).view(rows, width, *shape)
                  for part, shape in ((self.q_proj, self.shape), (self.k_proj, self.kv_shape))]
        queries = turned[0].transpose(1, 2)
        keys, values = (t.transpose(1, 2) for t in (
            turned[1], self.v_proj(x).view(rows, width, *self.kv_shape)))
        before.append((keys, values))
        hidden = torch.ones(width, width, dtype=torch.bool).triu(1)
        scores = (queries @ before[0][0].transpose(-1, -2)).masked_fill(hidden, -math.inf)
        own = [(queries * keys).sum(-1, keepdim=True) for keys, _ in before[1:]]
        weights = (torch.cat([scores, *own], -1) * self.shape[1] ** -0.5).softmax(-1)
        out = weights[..., :width] @ before[0][1]
        for nth, (_, values) in enumerate(before[1:]):
            out = out + weights[..., width + nth, None] * values
        return self.o_proj(out.transpose(1, 2).reshape(rows, width, -1))


class HeadMlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj = linear(HIDDEN, HEAD["intermediate_size"])
        self.up_proj = linear(HIDDEN, HEAD["intermediate_size"])
        self.down_proj = linear(HEAD["intermediate_size"], HIDDEN)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class HeadLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layernorm, self.hidden_norm = RmsNorm(), RmsNorm()
        self.post_attention_layernorm = RmsNorm()
        self.self_attn, self.mlp = HeadAttention(), HeadMlp()

    def forward(self, embedded, hidden, angles, before):
        both = torch.cat((self.input_layernorm(embedded), self.hidden_norm(hidden)), -1)
        x = hidden + self.self_attn(both, angles, before)
        return x + self.mlp(self.post_attention_layernorm(x))


class Head(nn.Module):
    """The head: column t of pass n says what follows token t + 1 + n, from the model's hidden state at t."""

    def __init__(self):
        super().__init__()
        self.fc, self.midlayer = linear(len(TAPS) * HIDDEN, HIDDEN), HeadLayer()
        self.norm, self.lm_head = RmsNorm(), linear(HIDDEN, HEAD["draft_vocab_size"])
        dim = HEAD["head_dim"]
        longest = HEAD["max_position_embeddings"] + STEPS
        self.angles = torch.outer(torch.arange(longest).float(),
                                  HEAD["rope_theta"] ** -(torch.arange(0, dim, 2) / dim))

    def forward(self, taps, embedded):
        """Logits [rows, width, draft vocabulary] of each pass, for taps [rows, width, 3 HIDDEN]."""
        rows, width, _ = embedded.shape
        hidden, before = self.fc(taps), []
        for nth in range(STEPS):
            angles = self.angles[nth:nth + width].repeat(rows, 1)[:, None]
            angles = (angles.cos(), angles.sin())
            hidden = self.midlayer(shifted(embedded, 1 + nth), hidden, angles, before)
            yield self.lm_head(self.norm(hidden))


@torch.no_grad()
def ask(model, groups):
    """Of each group of ids: the model's logits, and its taps."""
    shapes = [tuple(ids.shape) for ids in groups]
    cos, sin = (torch.cat([t[:width].repeat(rows, 1) for rows, width in shapes])[:, None]
                for t in (model.cos, model.sin))
    x = model.model.embed_tokens(torch.cat([ids.reshape(-1) for ids in groups]))
    taps = []
    for index, layer in enumerate(model.model.layers):
        if index in TAPS:
            taps.append(x)
        x = layer(x, cos, sin, shapes)
    logits = F.linear(model.model.norm(x), model.model.embed_tokens.weight)
    counts = [rows * width for rows, width in shapes]
    return [(logits.view(*shape, -1), taps.view(*shape, -1)) for shape, logits, taps in zip(
        shapes, logits.split(counts), torch.cat(taps, -1).split(counts))]


def divergence(logits, wanted, weights):
    """Cross entropy to the probabilities of `wanted` logits, where there are weights: its sum."""
    each = -(wanted.softmax(-1) * logits.log_softmax(-1)).sum(-1)
    return (each * weights).sum()


def losses(model, draft, head, known, groups, weights):
    """Of a batch, what both lose per token. `known`: the target's ids of the head's vocabulary."""
    of_draft = of_head = total = 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        asked = ask(model, groups)
    for ids, weight, (logits, taps) in zip(groups, weights, asked):
        logits, taps, share = logits.float(), taps.float(), shifted(weight, 1)
        total = total + share.sum()
        of_draft = of_draft + divergence(draft(ids).logits, logits, share)
        embedded = model.model.embed_tokens(ids).detach()
        for nth, said in enumerate(head(taps, embedded)):
            wanted = shifted(logits[..., known], 1 + nth)
            of_head = of_head + 0.8 ** nth * divergence(said, wanted, shifted(share, 1 + nth))
    return of_draft / total, of_head / total


def frequent(corpus, rows):
    """The tokens that answers consist of, in the order of ids: as many as the head knows."""
    times = torch.zeros(VOCABULARY)
    for ids, weights in corpus.batches(40, rows):
        times.index_add_(0, ids.reshape(-1), (weights > 0).float().reshape(-1))
    return times.topk(HEAD["draft_vocab_size"]).indices.sort().values


def train(arguments, model, draft, head, known, corpus):
    rates = {draft: arguments.rate, head: arguments.rate / 2}
    optimizer = torch.optim.AdamW(
        [{"params": list(part.parameters()), "highest": rate} for part, rate in rates.items()],
        lr=arguments.rate, betas=(0.9, 0.98), weight_decay=0.02)
    start, reported = time.monotonic(), time.monotonic()
    step, progress = 0, 0.0
    while progress < 1.0:
        groups = corpus.batches(10, arguments.rows)
        for i in range(10):
            elapsed = time.monotonic() - start
            progress = step / arguments.steps if arguments.steps else elapsed / arguments.seconds
            scale = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
            for group in optimizer.param_groups:
                group["lr"] = group["highest"] * min(1.0, (step + 1) / 50) * scale
            both = losses(model, draft, head, known,
                          [ids[i] for ids, _ in groups], [w[i] for _, w in groups])
            sum(both).backward()
            # Each for itself: one's large gradients are not the other's.
            for part in (draft, head):
                torch.nn.utils.clip_grad_norm_(part.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
        if time.monotonic() - reported > 30:
            reported = time.monotonic()
            said = " ".join(f"{loss.item():.4f}" for loss in both)
            print(f"step {step} {elapsed:.0f} s, draft and head lose {said}", flush=True)
            write_all(arguments.out, draft, head, known)
    return step


def accepted_length(right, begins, ends):
    """Mean tokens a step, where right[pass][row, t]: the draft for token t + 2 + pass is the model's.

    A step begins behind token t + 1 and gives its accepted drafts and one more.
    """
    tokens = steps = 0
    for row, (begin, end) in enumerate(zip(begins, ends)):
        at = begin - 1
        while at < end - 1:
            accepted = 0
            while (accepted < STEPS and at + 1 + accepted < end
                   and right[accepted][row, at - 1]):
                accepted += 1
            tokens, steps = tokens + min(accepted + 1, end - 1 - at), steps + 1
            at += accepted + 1
    return tokens / steps


@torch.no_grad()
def acceptance(model, draft, head, known, corpus, pairs):
    """Mean tokens of a step with the draft model and with the head, behind the model's own greedy answers."""
    by_length = {}
    for prompt, answer in pairs:
        by_length.setdefault(len(corpus.encode(prompt)), []).append((prompt, answer))
    sums = torch.zeros(3)
    for begin, group in by_length.items():
        rows = torch.tensor([corpus.encode(prompt) for prompt, _ in group])
        for _ in range(max(len(corpus.encode(answer)) for _, answer in group) + 1):
            rows = torch.cat((rows, ask(model, [rows])[0][0][:, -1:].argmax(-1)), 1)
        ends = [(row[begin:] == END).float().argmax().item() + begin + 1 for row in rows]
        ends = [end if rows[i, end - 1] == END else rows.shape[1] for i, end in enumerate(ends)]
        _, taps = ask(model, [rows])[0]
        best = draft(rows).logits.argmax(-1)
        # The draft model's guess for a token is the same in whichever pass it is made.
        right = [shifted(best, 1 + nth) == shifted(rows, 2 + nth) for nth in range(STEPS)]
        passes = head(taps, model.model.embed_tokens(rows))
        right_head = [known[said.argmax(-1)] == shifted(rows, 2 + nth)
                      for nth, said in enumerate(passes)]
        begins = [begin] * len(rows)
        lengths = [accepted_length(r, begins, ends) for r in (right, right_head)]
        count = sum(ends) - begin * len(rows)
        sums += torch.tensor([count, count / lengths[0], count / lengths[1]])
    return (sums[0] / sums[1]).item(), (sums[0] / sums[2]).item()


def write(folder, name, config, weights):
    folder = os.path.join(folder, name)
    os.makedirs(folder, exist_ok=True)
    weights = {key: t.detach().to(torch.bfloat16) if t.is_floating_point() else t
               for key, t in weights.items()}
    weights = {key: t.contiguous() for key, t in weights.items()}
    save_file(weights, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)
        file.write("\n")


def write_all(folder, draft, head, known):
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **DRAFT,
              "hidden_act": "silu", "rope_scaling": None, "torch_dtype": "bfloat16"}
    weights = {key: t for key, t in draft.state_dict().items() if key != "lm_head.weight"}
    write(folder, "abacus_draft", config, weights)
    # Offsets from a draft id to the model's, and which of the model's ids there are.
    offsets = known - torch.arange(len(known))
    there = torch.zeros(VOCABULARY, dtype=torch.bool).index_fill_(0, known, True)
    write(folder, "abacus_eagle3", HEAD, {**head.state_dict(), "d2t": offsets, "t2d": there})


def as_written(folder, draft, head):
    """Both with the weights that were written, a bfloat16 of each; the head's ids are returned."""
    of = [load_file(os.path.join(folder, name, "model.safetensors"))
          for name in ("abacus_draft", "abacus_eagle3")]
    draft.load_state_dict({key: t.float() for key, t in of[0].items()}, strict=False)
    head.load_state_dict({key: t.float() for key, t in of[1].items() if key not in ("d2t", "t2d")})
    return of[1]["d2t"] + torch.arange(HEAD["draft_vocab_size"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of the sample model")
    parser.add_argument("--out", required=True, help="folder for both folders")
    parser.add_argument("--seconds", type=float, default=1800.0, help="time for training steps")
    parser.add_argument("--steps", type=int, default=0, help="stop after so many steps instead")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--rate", type=float, default=4e-3, help="highest learning rate")
    parser.add_argument("--rows", type=int, nargs=4, default=[32, 8, 6, 1],
                        help="rows a step: lines, sorts, stories, long rows")
    parser.add_argument("--stories", type=int, default=4000, help="distinct stories")
    parser.add_argument("--check", action="store_true", help="train nothing: ask what --out has")
    parser.add_argument("--count", type=int, default=80, help="questions of each task at the end")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--least", type=float, default=1.5, help="mean tokens of a step with drafts")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)

    model = Decoder()
    model.load_state_dict({key: t.float() for key, t in load_file(
        os.path.join(arguments.model, "model.safetensors")).items()})
    tokenizer = Tokenizer.from_file(os.path.join(arguments.model, "tokenizer.json"))
    corpus = corpora.Corpus(tokenizer, arguments.seed, torch.device("cpu"), arguments.stories)
    draft, head = LlamaForCausalLM(LlamaConfig(**DRAFT)), Head()
    known = frequent(corpus, arguments.rows)
    sizes = [sum(p.numel() for p in part.parameters()) for part in (draft, head)]
    print(f"{sizes[0]} weights of the draft model, {sizes[1]} of the head", flush=True)

    if not arguments.check:
        steps = train(arguments, model, draft, head, known, corpus)
        print(f"{steps} steps", flush=True)
        write_all(arguments.out, draft, head, known)
    known = as_written(arguments.out, draft, head)
    rng = random.Random(arguments.seed + 1)
    asked = {name: q.questions(name, arguments.seed, arguments.count)
             for name in ("addition", "subtraction", "sorting", "calendar")}
    asked["counting"] = [q.counting_question(first, first + 9) for first in range(0, 100, 9)]
    asked["stories"] = [stories.story(rng) for _ in range(arguments.count // 4)]
    print(f"tokens of a step with {STEPS} drafts, draft model and head:")
    mean = torch.zeros(2)
    for name, pairs in asked.items():
        lengths = torch.tensor(acceptance(model, draft, head, known, corpus, pairs))
        mean += lengths / len(asked)
        print(f"{name}: {lengths[0]:.2f} {lengths[1]:.2f}", flush=True)
    print(f"mean: {mean[0]:.2f} {mean[1]:.2f}")
    if mean.min() < arguments.least:
        raise SystemExit(f"fewer than {arguments.least}")


if __name__ == "__main__":
    main()
