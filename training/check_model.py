#!/usr/bin/env python3
"""Asks the committed model its questions through transformers, on the CPU.

    python3 training/check_model.py model_repository/vllm_model/1/abacus --seed 11 --count 2000

Prints the share of exactly right greedy answers per task, and how close the closest call was:
the smallest gap between the best and the second logit on any answer token, which says how much
rounding another engine can afford before a greedy answer changes. Ends with status 1 if fewer
than 99 % of the additions are right. With --compare-decoder it also checks that the training
script's own network computes the same logits as transformers' Llama. Called by hand after training.
"""

import argparse
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import questions as q
from decoder import Decoder

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@torch.no_grad()
def greedy_answers(model, tokenizer, prompts, most_tokens):
    """Completions of prompts of equal token length, and the smallest logit gap of each."""
    rows = torch.tensor([tokenizer(prompt)["input_ids"] for prompt in prompts])
    start, cache, gaps = rows.shape[1], None, []
    ended = torch.zeros(len(prompts), dtype=torch.bool)
    fresh = rows
    for _ in range(most_tokens):
        output = model(fresh, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        best = output.logits[:, -1].float().topk(2)
        gap = best.values[:, 0] - best.values[:, 1]
        gaps.append(gap.masked_fill(ended, float("inf")))
        fresh = best.indices[:, :1].masked_fill(ended[:, None], tokenizer.eos_token_id)
        rows = torch.cat((rows, fresh), 1)
        ended |= fresh[:, 0] == tokenizer.eos_token_id
        if ended.all():
            break
    texts = tokenizer.batch_decode(rows[:, start:], skip_special_tokens=True)
    return texts, torch.stack(gaps).min(0).values.tolist(), ended.tolist()


def check_task(model, tokenizer, pairs, show):
    """Prints one line about a list of (prompt, answer) and returns the share that is right."""
    by_length = {}
    for pair in pairs:
        by_length.setdefault(len(tokenizer(pair[0])["input_ids"]), []).append(pair)
    right, gaps, wrong = 0, [], []
    for group in by_length.values():
        most = max(len(tokenizer(answer)["input_ids"]) for _, answer in group) + 2
        for at in range(0, len(group), 256):
            part = group[at:at + 256]
            found = greedy_answers(model, tokenizer, [prompt for prompt, _ in part], most)
            for (prompt, answer), text, gap, ended in zip(part, *found):
                if text == answer and ended:
                    right += 1
                    gaps.append(gap)
                else:
                    wrong.append(f"{prompt!r} gave {text!r}, not {answer!r}")
    share = right / len(pairs)
    gaps.sort()
    closest = ", ".join(f"{gap:.2f}" for gap in gaps[:3])
    print(f"{100 * share:.2f} % of {len(pairs)}; closest calls {closest}", flush=True)
    for line in wrong[:show]:
        print("   ", line)
    return share


def with_preamble(pairs, lines):
    """The same questions after `lines` answered lines, as in a prompt with a long preamble."""
    asked = []
    for index, (prompt, answer) in enumerate(pairs):
        before = [pairs[(index + 1 + i) % len(pairs)] for i in range(lines)]
        asked.append(("".join(f"{p}{a}\n" for p, a in before) + prompt, answer))
    return asked


def all_pairs(operation, forms, held_out):
    """Every pair of a small square of operands, to see that short numbers work as well."""
    return [q.pair_question(operation, forms[0], a, b) for a in range(40) for b in range(40)
            if bool(q.pair_held_out(operation, a, b)) == held_out]


@torch.no_grad()
def compare_decoder(folder, model, tokenizer):
    ours = Decoder()
    ours.load_state_dict(
        {name: t.float() for name, t in load_file(f"{folder}/model.safetensors").items()})
    text = "".join(f"{prompt}{answer}\n" for prompt, answer in q.questions("addition", 1, 15))
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    theirs = model.float()(ids).logits[0]
    worst = (ours([ids]) - theirs).abs().max().item()
    print(f"largest difference to transformers over {ids.shape[1]} tokens: {worst:.2e}")
    assert worst < 1e-3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--show", type=int, default=5, help="wrong answers to print per task")
    parser.add_argument("--compare-decoder", action="store_true")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.folder)
    model = AutoModelForCausalLM.from_pretrained(
        arguments.folder, torch_dtype=DTYPES[arguments.dtype]).eval()
    tasks = {name: q.questions(name, arguments.seed, arguments.count)
             for name in ("addition", "subtraction", "sorting")}
    tasks["calendar"] = list(q.calendar_questions())
    tasks["counting"] = [q.counting_question(first, first + 9) for first in range(0, 100, 3)]
    tasks["additions below 40"] = all_pairs(q.ADDITION, q.ADDITION_FORMS, True) + all_pairs(
        q.ADDITION, q.ADDITION_FORMS, False)
    tasks["addition after 8 lines"] = with_preamble(tasks["addition"][:200], 8)
    shares = {}
    for name, pairs in tasks.items():
        print(f"{name}: ", end="")
        shares[name] = check_task(model, tokenizer, pairs, arguments.show)
    if arguments.compare_decoder:
        compare_decoder(arguments.folder, model, tokenizer)
    return 0 if shares["addition"] >= 0.99 else 1


if __name__ == "__main__":
    sys.exit(main())
