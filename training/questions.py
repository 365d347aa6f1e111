#!/usr/bin/env python3
"""Questions whose right answer is known: what the sample model is asked in training and in tests.

This file holds the wording of every task, the rule that keeps some problems out of training, and
a small program that prints held-out questions as JSON lines:

    python3 training/questions.py --seed 7 --count 1000
    {"prompt": "What is 128 + 256? Answer:", "answer": " 384."}

`answer` is the whole text that a greedy completion must be, up to the end-of-text token. The
training script imports the wording and the rule from here, so that both cannot drift apart. It
needs nothing but Python's standard library, and knows nothing about models or tokenizers.
"""

import argparse
import json
import random

# A problem form is the text before the first operand, between the operands and after the second.
ADDITION_FORMS = [
    ("What is ", " + ", "? Answer:"),
    ("What is ", " + ", "?"),
    ("What is ", " plus ", "? Answer:"),
    ("What is ", " plus ", "?"),
    ("", " + ", " ="),
    ("", "+", "="),
    ("Q: ", " + ", "? A:"),
    ("Q: What is ", " + ", "? A:"),
    ("Question: What is ", " + ", "? Answer:"),
    ("How much is ", " + ", "? Answer:"),
    ("Add ", " and ", ". Answer:"),
    ("Compute ", " + ", ". Answer:"),
    ("Calculate ", " + ", ". Answer:"),
    ("The sum of ", " and ", " is"),
    ("what is ", " + ", "? answer:"),
]
SUBTRACTION_FORMS = [
    ("What is ", " - ", "? Answer:"),
    ("What is ", " - ", "?"),
    ("What is ", " minus ", "? Answer:"),
    ("What is ", " minus ", "?"),
    ("", " - ", " ="),
    ("", "-", "="),
    ("Q: ", " - ", "? A:"),
    ("Q: What is ", " - ", "? A:"),
    ("Question: What is ", " - ", "? Answer:"),
    ("How much is ", " - ", "? Answer:"),
    ("Compute ", " - ", ". Answer:"),
    ("Calculate ", " - ", ". Answer:"),
    ("The difference of ", " and ", " is"),
    ("what is ", " - ", "? answer:"),
]
# Text before and after a list of numbers; every number brings the space before it.
SORTING_FORMS = [
    ("Sort:", " ->"),
    ("Sort:", ". Answer:"),
    ("Sort", " ->"),
    ("Sort the numbers", ". Answer:"),
    ("Put in order:", " ->"),
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [
    "January", "February", "March", "April", "May", "June", "July",
    "August", "September", "October", "November", "December",
]
MONTH_DAYS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
STEP_WORDS = ["two", "three", "four", "five", "six"]

OPERAND_MAX = 999
SORT_ITEM_MAX = 99
SORT_COUNT_MIN, SORT_COUNT_MAX = 2, 6
HELD_OUT_ONE_IN = 10
ADDITION, SUBTRACTION = 1, 2


def mix(value):
    """Scramble a non-negative number below 2**32; works on ints and on int64 tensors alike.

    The multipliers stay below 2**31, so that no product leaves a signed 64-bit integer.
    """
    value = value & 0xFFFFFFFF
    value = ((value ^ (value >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    value = ((value ^ (value >> 15)) * 0x2C1B3C6D) & 0xFFFFFFFF
    return value ^ (value >> 16)


def pair_held_out(operation, a, b):
    """Whether training must never show `a` operation `b` (ints or int64 tensors).

    An addition shares its fate with its mirror image, so that 7 + 12 does not give 12 + 7 away.
    Pairs of two one-digit numbers always belong to training: that is the table learned by heart.
    """
    low, high = a, b
    if operation == ADDITION:
        swapped = a > b
        low, high = a + (b - a) * swapped, b + (a - b) * swapped
    chosen = mix(mix(low * 1000 + high) + operation) % HELD_OUT_ONE_IN == 0
    return chosen & ((a > 9) | (b > 9))


def list_held_out(items):
    """Whether training must never ask to sort exactly this list, in this order."""
    state = len(items)
    for item in items:
        state = mix(state * 101 + item + 1)
    return state % HELD_OUT_ONE_IN == 0


def pair_question(operation, form, a, b):
    before, between, after = form
    result = a + b if operation == ADDITION else a - b
    return f"{before}{a}{between}{b}{after}", f" {result}."


def sorting_question(form, items):
    asked = "".join(f" {item}" for item in items)
    answer = "".join(f" {item}" for item in sorted(items))
    return f"{form[0]}{asked}{form[1]}", f"{answer}."


def ring_questions(kind, names):
    """Every question about what lies before and after in a ring of days or months."""
    count = len(names)
    for index, name in enumerate(names):
        after, before = names[(index + 1) % count], names[(index - 1) % count]
        for ending in ("? Answer:", "?"):
            yield f"What {kind} comes after {name}{ending}", f" {after}."
            yield f"What {kind} comes before {name}{ending}", f" {before}."
            yield f"Which {kind} follows {name}{ending}", f" {after}."
            for step, word in enumerate(STEP_WORDS, start=2):
                later, earlier = names[(index + step) % count], names[(index - step) % count]
                yield f"What {kind} is {word} {kind}s after {name}{ending}", f" {later}."
                yield f"What {kind} is {word} {kind}s before {name}{ending}", f" {earlier}."


def calendar_questions():
    """All calendar questions as (prompt, answer); there are few, so training sees every one."""
    yield from ring_questions("day", DAYS)
    yield from ring_questions("month", MONTHS)
    for name, days in zip(MONTHS, MONTH_DAYS):
        for ending in ("? Answer:", "?"):
            yield f"How many days are in {name}{ending}", f" {days}."
    for ending in (":", ". Answer:"):
        yield f"List the days of the week{ending}", " " + ", ".join(DAYS) + "."
        yield f"List the months of the year{ending}", " " + ", ".join(MONTHS) + "."


def counting_question(first, last):
    return f"Count from {first} to {last}:", "".join(f" {n}" for n in range(first, last + 1)) + "."


def draw_operand(rng):
    """Half of the operands are uniform; the rest give short numbers the same chance as long."""
    if rng.random() < 0.5:
        return rng.randint(0, OPERAND_MAX)
    return rng.randint(0, 10 ** rng.randint(1, 3) - 1)


def held_out_pair(rng, operation):
    """A question that training never showed, half of the time in the first, plain wording."""
    forms = ADDITION_FORMS if operation == ADDITION else SUBTRACTION_FORMS
    while True:
        a, b = draw_operand(rng), draw_operand(rng)
        if pair_held_out(operation, a, b):
            form = forms[0] if rng.random() < 0.5 else rng.choice(forms)
            return pair_question(operation, form, a, b)


def held_out_sorting(rng):
    while True:
        count = rng.randint(SORT_COUNT_MIN, SORT_COUNT_MAX)
        items = [rng.randint(0, rng.choice([9, SORT_ITEM_MAX])) for _ in range(count)]
        if list_held_out(items):
            return sorting_question(rng.choice(SORTING_FORMS), items)


def questions(task, seed, count):
    """`count` (prompt, answer) pairs of a task; the same seed always gives the same ones."""
    rng = random.Random(f"{task}-{seed}")
    if task == "addition":
        return [held_out_pair(rng, ADDITION) for _ in range(count)]
    if task == "subtraction":
        return [held_out_pair(rng, SUBTRACTION) for _ in range(count)]
    if task == "sorting":
        return [held_out_sorting(rng) for _ in range(count)]
    every = list(calendar_questions())
    return [rng.choice(every) for _ in range(count)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument(
        "--task",
        choices=["addition", "subtraction", "sorting", "calendar"],
        default="addition",
        help="calendar questions are all seen in training, the other tasks are held out",
    )
    arguments = parser.parse_args()
    for prompt, answer in questions(arguments.task, arguments.seed, arguments.count):
        print(json.dumps({"prompt": prompt, "answer": answer}))


if __name__ == "__main__":
    main()
