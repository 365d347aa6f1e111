#!/usr/bin/env python3
"""Trains the small model of the sample repository, from nothing but text that it generates.

It builds the tokenizer, draws additions, subtractions, sorting, calendar questions, counting and
short stories (questions.py, stories.py), trains a Llama decoder of 2.9 million weights
(decoder.py) for a given number of seconds or steps, and writes a Hugging Face folder: config,
tokenizer and float16 weights. Held-out problems never enter a batch. One GPU, torch, tokenizers
and safetensors; to make the committed model again (see README.md for time and accuracy):

    python3 training/train_model.py --out model_repository/vllm_model/1/abacus --seconds 450
    python3 training/check_model.py model_repository/vllm_model/1/abacus

The learning rate follows the clock (or the step count with --steps), so a run ends annealed on
any machine. Two runs do not give the same bits: GPU sums and the number of steps differ.
"""

import argparse
import json
import math
import os
import time

import torch
from safetensors.torch import load_file, save_file

import corpus as corpora
import questions as q
from decoder import CONFIG, Decoder


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder for the model")
    parser.add_argument("--seconds", type=float, default=450.0, help="time for training steps")
    parser.add_argument("--steps", type=int, default=0, help="stop after so many steps instead")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--rows", type=int, nargs=4, default=[1536, 320, 64, 40],
                        help="rows a step: lines, sorts, stories, long rows")
    parser.add_argument("--stories", type=int, default=60000, help="distinct stories")
    parser.add_argument("--block", type=int, default=25, help="steps drawn at a time")
    parser.add_argument("--check", type=int, default=4000, help="held-out problems a report")
    parser.add_argument("--resume", help="model.safetensors to start from")
    parser.add_argument("--eager", action="store_true", help="do not compile the model")
    return parser.parse_args()


def write_tokenizer(folder, tokenizer):
    os.makedirs(folder, exist_ok=True)
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    end = {"content": corpora.END, "lstrip": False, "normalized": False, "rstrip": False,
           "single_word": False, "special": True}
    write_json(folder, "tokenizer_config.json", {
        "added_tokens_decoder": {"0": end},
        "bos_token": None,
        "chat_template": "{{ messages[-1]['content'] }}",
        "clean_up_tokenization_spaces": False,
        "eos_token": corpora.END,
        "model_max_length": CONFIG["max_position_embeddings"],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    })


def write_model(folder, model):
    """The folder as transformers wants it; the tied output matrix is not stored twice."""
    weights = {name: t.detach().to(torch.float16).cpu().contiguous()
               for name, t in model.state_dict().items()}
    save_file(weights, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    write_json(folder, "config.json", CONFIG)
    write_json(folder, "generation_config.json", {"eos_token_id": CONFIG["eos_token_id"]})


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")


@torch.no_grad()
def right_share(model, documents):
    """Share of documents whose whole answer is the greedy one.

    Greedy decoding gives the answer exactly if each of its tokens has the highest logit after
    the right tokens before it, so one pass over the whole document is enough.
    """
    right = 0
    for ids, starts, ends in zip(*(part.split(2048) for part in documents)):
        best = model([ids]).view(*ids.shape, -1).argmax(-1)
        column = torch.arange(ids.shape[1] - 1, device=ids.device)
        ours = (column >= starts[:, None] - 1) & (column < ends[:, None] - 1)
        right += int(((best[:, :-1] == ids[:, 1:]) | ~ours).all(1).sum())
    return right / len(documents[0])


def held_out_sets(corpus, count):
    pairs = {name: corpus.arithmetic(operation, *corpus.held_out_pairs(operation, count))
             for name, operation in (("add", q.ADDITION), ("subtract", q.SUBTRACTION))}
    return {**pairs, "sort": corpus.sorts(count, held_out=True), "calendar": corpus.calendar,
            "count": [part[:count] for part in corpus.counting]}


def report(model, sets, step, elapsed, loss):
    with autocast(next(model.parameters()).device):
        shares = {name: right_share(model, documents) for name, documents in sets.items()}
    right = " ".join(f"{name} {100 * share:.2f}" for name, share in shares.items())
    print(f"step {step} {elapsed:.0f} s loss {loss:.4f} right %: {right}", flush=True)
    return shares


def autocast(device):
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def rate_at(progress, step):
    """Share of the highest learning rate: a short warm-up, then half a cosine down to nothing."""
    return min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def train(arguments, device):
    corpus = corpora.Corpus(
        corpora.build_tokenizer(arguments.seed), arguments.seed, device, arguments.stories)
    corpora.verify_pieces(corpus)
    write_tokenizer(arguments.out, corpus.tokenizer)
    model = Decoder().to(device)
    if arguments.resume:
        model.load_state_dict(load_file(arguments.resume))
    print(f"{sum(p.numel() for p in model.parameters())} weights", flush=True)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}],
        lr=arguments.rate, betas=(0.9, 0.98), fused=device.type == "cuda")
    loss_of = model.loss if arguments.eager else torch.compile(model.loss, dynamic=False)
    sets = held_out_sets(corpus, arguments.check)
    start = time.monotonic()
    next_report, step, progress = 30.0, 0, 0.0
    while progress < 1.0:
        groups = corpus.batches(arguments.block, arguments.rows)
        for i in range(arguments.block):
            elapsed = time.monotonic() - start
            done = step / arguments.steps if arguments.steps else elapsed / arguments.seconds
            progress = max(progress, done)
            if progress >= 1.0:
                break
            for group in optimizer.param_groups:
                group["lr"] = arguments.rate * rate_at(progress, step)
            with autocast(device):
                loss = loss_of([ids[i] for ids, _ in groups], [w[i] for _, w in groups])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
        value = loss.item()
        assert math.isfinite(value), f"loss is {value} at step {step}"
        if time.monotonic() - start > next_report:
            next_report += 30.0
            write_model(arguments.out, model)
            report(model, sets, step, time.monotonic() - start, value)
    write_model(arguments.out, model)
    # The last word is about what was saved: float16 weights.
    model.load_state_dict({name: t.float() for name, t in load_file(
        os.path.join(arguments.out, "model.safetensors")).items()})
    report(model, sets, step, time.monotonic() - start, value)


def main():
    arguments = parse_arguments()
    torch.manual_seed(arguments.seed)
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    train(arguments, device)


if __name__ == "__main__":
    main()
