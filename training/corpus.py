"""The tokenizer and the training batches of the sample model, made as tensors on the device.

Wording and the held-out rule come from questions.py and stories.py. Documents are put together
from tokenised pieces on the GPU, because a Python loop cannot feed it: text before a number,
the digits, text after it, and so on. `verify_pieces` proves on a sample that this gives exactly
the ids that the tokenizer gives for the whole text.
"""

import random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import questions as q
import stories

END = "<|end|>"
VOCAB_SIZE = 768
# Widths of the batch groups in tokens: one-line problems, sorting, stories, several problems.
LINE_TOKENS, SORT_TOKENS, STORY_TOKENS, LONG_TOKENS = 32, 52, 176, 512
PROMPT_WEIGHT, STORY_WEIGHT = 0.003, 0.3


def build_tokenizer(seed):
    """A byte-level BPE whose digits are always single tokens: no merge crosses a digit."""
    rng = random.Random(seed)
    texts = 20 * ["".join(pair) for pair in fixed_questions()]
    texts += ["".join(stories.story(rng)) for _ in range(4000)]
    for _ in range(200):
        for operation, forms in ((q.ADDITION, q.ADDITION_FORMS),
                                 (q.SUBTRACTION, q.SUBTRACTION_FORMS)):
            for form in forms:
                pair = rng.randint(0, 999), rng.randint(0, 999)
                texts.append("".join(q.pair_question(operation, form, *pair)))
        texts += ["".join(q.sorting_question(form, [3, 1])) for form in q.SORTING_FORMS]
        texts.append("".join(q.counting_question(3, 5)))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    ))
    assert tokenizer.get_vocab_size() == VOCAB_SIZE, tokenizer.get_vocab_size()
    return tokenizer


def fixed_questions():
    """The questions that are too few to hold any of them out."""
    return list(q.calendar_questions()) + stories.FIXED_ANSWERS


class Pieces:
    """A padded table of token sequences: `ids` [rows, width], `lengths` [rows]."""

    def __init__(self, sequences, device):
        width = max(1, max(len(s) for s in sequences))
        rows = [list(s) + [0] * (width - len(s)) for s in sequences]
        self.ids = torch.tensor(rows, dtype=torch.int64, device=device)
        self.lengths = torch.tensor([len(s) for s in sequences], device=device)

    def __getitem__(self, index):
        return self.ids[index], self.lengths[index]


def join(pieces, width):
    """Lay pieces [(ids [n, w], lengths [n]), ...] one after another into rows of `width` ids.

    Returns the rows, padded with 0, and the offset at which each piece starts, then the ends.
    What does not fit is an error of the caller, who chooses the width.
    """
    count, device = pieces[0][0].shape[0], pieces[0][0].device
    rows = torch.zeros(count, width + 1, dtype=pieces[0][0].dtype, device=device)
    offset = torch.zeros(count, dtype=torch.int64, device=device)
    offsets = [offset]
    for ids, lengths in pieces:
        column = torch.arange(ids.shape[1], device=device)
        target = torch.where(column < lengths[:, None], offset[:, None] + column, width)
        rows.scatter_(1, target.clamp_(max=width), ids)
        offset = offset + lengths
        offsets.append(offset)
    return rows[:, :width], offsets


class Corpus:
    """Draws batches of documents; `generator` makes a run repeatable on one kind of device."""

    def __init__(self, tokenizer, seed, device, story_count):
        self.tokenizer, self.device = tokenizer, device
        self.generator = torch.Generator(device).manual_seed(seed)
        self.end = tokenizer.token_to_id(END)
        self.newline = self.encode("\n")[0]
        self.numbers = self.table(str(n) for n in range(2 * q.OPERAND_MAX + 1))
        self.spaced = self.table(f" {n}" for n in range(q.SORT_ITEM_MAX + 1))
        self.signs = self.table([" ", " -"])
        self.tail = Pieces([self.encode(".") + [self.end]], device)
        self.forms = {
            operation: [self.table(form[part] for form in forms) for part in range(3)]
            for operation, forms in ((q.ADDITION, q.ADDITION_FORMS),
                                     (q.SUBTRACTION, q.SUBTRACTION_FORMS))
        }
        self.sorting = [self.table(form[part] for form in q.SORTING_FORMS) for part in range(2)]
        short, long = self.by_length(fixed_questions())
        self.calendar = self.documents(short, LINE_TOKENS)
        rng = random.Random(seed)
        self.stories = self.documents(
            [stories.story(rng) for _ in range(story_count)], STORY_TOKENS)
        self.counting = self.documents(
            [q.counting_question(first, first + more)
             for first in range(100) for more in range(1, 25)] + 20 * long, STORY_TOKENS)

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def table(self, texts):
        return Pieces([self.encode(text) for text in texts], self.device)

    def documents(self, pairs, width):
        """A finite set of (prompt, answer), tokenised once: ids, answer starts, lengths."""
        prompts = [e.ids for e in self.tokenizer.encode_batch([p for p, _ in pairs])]
        answers = [e.ids + [self.end] for e in self.tokenizer.encode_batch([a for _, a in pairs])]
        both = Pieces([p + a for p, a in zip(prompts, answers)], self.device)
        missing = width - both.ids.shape[1]
        assert missing >= 0, f"a document has {both.ids.shape[1]} tokens, the limit is {width}"
        starts = torch.tensor([len(p) for p in prompts], device=self.device)
        return torch.nn.functional.pad(both.ids, (0, missing)), starts, both.lengths

    def by_length(self, pairs):
        """Splits (prompt, answer) pairs into those that fit a line and those that do not."""
        fits = [len(self.encode("".join(pair))) < LINE_TOKENS for pair in pairs]
        return ([pair for pair, fit in zip(pairs, fits) if fit],
                [pair for pair, fit in zip(pairs, fits) if not fit])

    def integers(self, low, high, *shape):
        """Uniform integers from low to high, both included."""
        return torch.randint(
            low, high + 1, shape, generator=self.generator, device=self.device)

    def chance(self, probability, count):
        return torch.rand(count, generator=self.generator, device=self.device) < probability

    def operands(self, count):
        limits = 10 ** self.integers(1, 3, count)
        short = self.integers(0, q.OPERAND_MAX, count) % limits
        return torch.where(self.chance(0.7, count), self.integers(0, q.OPERAND_MAX, count), short)

    def training_pairs(self, operation, count):
        """Operands that are not held out; what five draws leave over becomes one-digit pairs."""
        a, b = self.operands(count), self.operands(count)
        for _ in range(5):
            bad = q.pair_held_out(operation, a, b)
            a = torch.where(bad, self.operands(count), a)
            b = torch.where(bad, self.operands(count), b)
        bad = q.pair_held_out(operation, a, b)
        return torch.where(bad, a % 10, a), torch.where(bad, b % 10, b)

    def held_out_pairs(self, operation, count):
        a, b = self.operands(30 * count), self.operands(30 * count)
        keep = q.pair_held_out(operation, a, b).nonzero()[:count, 0]
        assert len(keep) == count
        return a[keep], b[keep]

    def arithmetic(self, operation, a, b):
        """Documents of a + b or a - b in random wording: ids [n, LINE_TOKENS], starts, ends."""
        forms = self.forms[operation]
        # The plain first wording gets a double share: it is what documentation shows.
        form = self.integers(-1, forms[0].ids.shape[0] - 1, len(a)).clamp_(min=0)
        result = a + b if operation == q.ADDITION else a - b
        rows, offsets = join([
            forms[0][form], self.numbers[a], forms[1][form], self.numbers[b], forms[2][form],
            self.signs[(result < 0).long()], self.numbers[result.abs()],
            self.tail[torch.zeros_like(a)],
        ], LINE_TOKENS)
        return rows, offsets[5], offsets[-1]

    def lines(self, count):
        """One-line documents: 55 % additions, 35 % subtractions, 10 % calendar and the like."""
        additions, subtractions = int(count * 0.55), int(count * 0.35)
        parts = [
            self.arithmetic(operation, *self.training_pairs(operation, part))
            for operation, part in ((q.ADDITION, additions), (q.SUBTRACTION, subtractions))
        ]
        ids, starts, ends = self.calendar
        chosen = self.integers(0, len(ids) - 1, count - additions - subtractions)
        parts.append((ids[chosen], starts[chosen], ends[chosen]))
        return [torch.cat(column) for column in zip(*parts)]

    def sorts(self, count, held_out=False):
        """Sorting documents; lists that the rule holds out are kept or dropped as asked."""
        most = q.SORT_COUNT_MAX
        draws = count * (30 if held_out else 2)
        items = self.integers(0, q.SORT_ITEM_MAX, draws, most)
        items = torch.where(self.chance(0.5, draws)[:, None], items % 10, items)
        sizes = self.integers(q.SORT_COUNT_MIN, most, draws)
        bad = torch.zeros(draws, dtype=torch.bool, device=self.device)
        for size in range(q.SORT_COUNT_MIN, most + 1):
            verdict = q.list_held_out([items[:, i] for i in range(size)])
            bad = torch.where(sizes == size, verdict, bad)
        keep = (bad == held_out).nonzero()[:count, 0]
        assert len(keep) == count
        items, sizes = items[keep], sizes[keep]
        form = self.integers(0, len(q.SORTING_FORMS) - 1, count)
        absent = torch.arange(most, device=self.device) >= sizes[:, None]
        ordered = items.masked_fill(absent, 1000).sort(dim=1).values.masked_fill(absent, 0)
        asked, answer = [], []
        for i in range(most):
            for source, pieces in ((items, asked), (ordered, answer)):
                ids, lengths = self.spaced[source[:, i]]
                pieces.append((ids, lengths.masked_fill(absent[:, i], 0)))
        pieces = [self.sorting[0][form], *asked, self.sorting[1][form], *answer]
        rows, offsets = join([*pieces, self.tail[torch.zeros_like(sizes)]], SORT_TOKENS)
        return rows, offsets[most + 2], offsets[-1]

    def tales(self, count):
        """Stories and, for one document in four, counting."""
        parts = []
        for (ids, starts, ends), part in (
            (self.stories, count - count // 4), (self.counting, count // 4),
        ):
            chosen = self.integers(0, len(ids) - 1, part)
            parts.append((ids[chosen], starts[chosen], ends[chosen]))
        return [torch.cat(column) for column in zip(*parts)]

    def long_rows(self, count):
        """Rows of several lines with a newline between, sometimes after a story.

        They teach that an answer does not depend on what stands before its line, so that long
        prompts and shared preambles have checkable answers too. Only answers carry weight.
        """
        most = (LONG_TOKENS - STORY_TOKENS) // LINE_TOKENS
        ids, starts, ends = [part.view(count, most, -1).squeeze(-1) for part in
                             self.shuffled(self.lines(count * most))]
        used = self.integers(1, most, count)
        tale = [part[:count] for part in self.shuffled(self.tales(count))]
        tale_length = tale[2] * self.chance(0.4, count)
        newline = torch.full((count, 1), self.newline, device=self.device)
        pieces = [(tale[0], (tale_length - 1).clamp_(min=0)), (newline, (tale_length > 0).long())]
        weights = [(torch.zeros_like(tale[0], dtype=torch.float), pieces[0][1]),
                   (torch.zeros_like(newline, dtype=torch.float), pieces[1][1])]
        column = torch.arange(LINE_TOKENS, device=self.device)
        for i in range(most):
            last = i == used - 1
            inside = (column >= starts[:, i, None]) & (column < ends[:, i, None])
            is_end = column == ends[:, i, None] - 1
            row = torch.where(is_end & ~last[:, None], self.newline, ids[:, i])
            weight = (inside & (~is_end | last[:, None])).float()
            length = ends[:, i] * (i < used)
            pieces.append((row, length))
            weights.append((weight, length))
        return join(pieces, LONG_TOKENS)[0], join(weights, LONG_TOKENS)[0]

    def shuffled(self, parts):
        order = torch.randperm(len(parts[0]), generator=self.generator, device=self.device)
        return [part[order] for part in parts]

    def batches(self, steps, counts):
        """Tokens and weights of several steps: [(ids [steps, n, w], weights the same), ...]."""
        groups = []
        for maker, count, scale in ((self.lines, counts[0], 1.0), (self.sorts, counts[1], 1.0),
                                    (self.tales, counts[2], STORY_WEIGHT)):
            ids, starts, ends = self.shuffled(maker(steps * count))
            groups.append((ids, scale * answer_weights(ids, starts, ends)))
        groups.append(self.long_rows(steps * counts[3]))
        return [(ids.view(steps, -1, ids.shape[1]), weights.view(steps, -1, ids.shape[1]))
                for ids, weights in groups]


def answer_weights(ids, starts, ends):
    """1 for each token of the answer, a little for each token of the prompt, 0 for padding."""
    column = torch.arange(ids.shape[1], device=ids.device)
    in_document = (column < ends[:, None]).float()
    is_answer = (column >= starts[:, None]).float()
    return in_document * (PROMPT_WEIGHT + (1 - PROMPT_WEIGHT) * is_answer)


def verify_pieces(corpus, count=300):
    """Every document that was put together from pieces re-encodes to the same ids."""
    tokenizer = corpus.tokenizer
    made = [corpus.lines(count), corpus.sorts(count), corpus.tales(count)]
    for ids, starts, ends in made:
        for row, start, end in zip(ids.tolist(), starts.tolist(), ends.tolist()):
            assert row[end - 1] == corpus.end and 0 < start < end, row
            text = tokenizer.decode(row[: end - 1])
            assert corpus.encode(text) == row[: end - 1], text
            prompt = tokenizer.decode(row[:start])
            assert corpus.encode(prompt) == row[:start], prompt
    ids, weights = corpus.long_rows(count)
    for row, weight in zip(ids.tolist(), weights.tolist()):
        end = row.index(corpus.end)
        text = tokenizer.decode(row[:end])
        assert corpus.encode(text) == row[:end], text
        assert weight[end] == 1 and not any(weight[end + 1:]), text
