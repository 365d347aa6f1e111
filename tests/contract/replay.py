#!/usr/bin/env python3
"""Sends the recorded requests to a server and judges every answer by golden.py and the two committed lists.

  replay.py --url http://127.0.0.1:8000 --grpc 127.0.0.1:8001 [--only REGEX]
  replay.py ... --propose         print list entries for every answer that is not yet accounted for
  replay.py ... --propose --write take them into the lists, for review: a row "?" does not pass
  replay.py ... --save FILE       keep the new answers
"""
import argparse
import asyncio
import json
import re
import sys

import golden
from transport import Sender

AT_ONCE = 4
WARM_UP = {"transport": "generate", "inputs": {"text_input": "a"}, "params": {"temperature": 0, "max_tokens": 2}}


async def collect(records, sender):
    """The answers, in the order of the records. A few at once: batching must not change an answer."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(record):
        async with gate:
            return await sender.send(record)

    return await asyncio.gather(*(one(r) for r in records))


async def replay(url, grpc_address, file="goldens.json", model="opt-tiny", only=None):
    """[(record, new response)] of all records of `file`."""
    records, substitutions = golden.load_records(file)
    records = [r for r in records if not only or re.search(only, r["id"])]
    async with Sender(url, grpc_address, model, substitutions) as sender:
        await sender.send(WARM_UP)      # the statistics that are among the records count something then
        return list(zip(records, await collect(records, sender)))


def verdicts(pairs, lists):
    """{(case, transport): complaint} of all compared answers, and complaints about the lists themselves."""
    wrong = {}
    for record, response in pairs:
        if not record.get("racy"):
            complaint = golden.judge(record, response, lists)
            if complaint:
                wrong[golden.key(record)] = complaint
    return wrong


# Which row of the table of decisions explains a difference: by the case, else by what the Python backend said.
ROW_BY_CASE = (
    (r"^so\.json_(compact|schema_string)$", 17),
    (r"^basic\.id$", 10), (r"_null$|max_tokens_none$", 12), (r"^err\.image_", 2), (r"^err\.sp_nan$", 1), (r"^err\.sp_json", 13),
)
ROW_BY_OLD_ERROR = (
    ("'NoneType' object has no attribute 'lora_name'", 1), ("has no attribute 'as_numpy'", 14),
    ("Expecting value", 13), ("JSONDecodeError", 13), ("Extra data", 13), ("'get'", 13),
)


def guess_row(record):
    for pattern, row in ROW_BY_CASE:
        if re.search(pattern, record["id"]):
            return row
    old = golden.error_texts(golden.view(record["response"]))
    for text, row in ROW_BY_OLD_ERROR:
        if any(text in t for t in old):
            return row
    return 2 if "Error generating stream: " in old else "?"


SUM = "cumulative_logprob"


def sum_of(a_view):
    """The one sum of logprobs in a view, whatever the transport; None if there is none, or several."""
    if not isinstance(a_view, dict):
        return None
    if SUM in a_view:
        found = golden.listed(a_view[SUM])
        return found[0] if len(found) == 1 else None
    return next((s for s in map(sum_of, a_view.values()) if s is not None), None)


def propose(pairs, wrong):
    """(differences, not_built) entries that would account for the answers in `wrong`."""
    differences, not_built = [], []
    for record, response in pairs:
        case, transport = golden.key(record)
        if (case, transport) not in wrong:
            continue
        old, new = golden.view(record["response"]), golden.view(golden.text_of_nan(response))
        if golden.agrees(record, new, old):
            continue        # its entry was stale
        texts = golden.error_texts(new)
        if any(golden.NOT_BUILT_TEXT in t for t in texts):
            merge(not_built, {"case": case, "transports": [transport], "why": texts[0]})
            continue
        entry = {"case": case, "transports": [transport], "row": guess_row(record)}
        sums = {SUM: sum_of(new)}
        if None not in sums.values() and golden.agrees(record, new, golden.with_fields(old, sums)):
            entry |= {"row": 6, "fields": sums}
        elif len(texts) == 1 and golden.same(golden.with_error_text(old, texts[0]), new):
            entry["error"] = texts[0]
        else:
            entry["answer"] = new
        merge(differences, entry)
    return differences, not_built


def merge(entries, entry):
    """Transports of one case that are told by the same words share an entry."""
    for other in entries:
        if all(other.get(k) == entry.get(k) for k in ("case", "row", "error", "fields", "answer", "why")):
            other["transports"].append(entry["transports"][0])
            return
    entries.append(entry)


def dump(entries):
    return "[\n" + ",\n".join(json.dumps(e, ensure_ascii=False) for e in entries) + "\n]\n"


def write_lists(pairs, wrong, proposed):
    """The committed lists with the entries of `wrong` cases replaced by the proposed ones."""
    for name, fresh in zip(("differences.json", "not_built_yet.json"), proposed):
        path = golden.GOLDENS / name
        kept = []
        for entry in json.loads(path.read_text()):
            entry["transports"] = [t for t in entry["transports"] if (entry["case"], t) not in wrong]
            if entry["transports"]:
                kept.append(entry)
        order = {golden.key(r): i for i, (r, _) in enumerate(pairs)}
        entries = sorted(kept + fresh, key=lambda e: order.get((e["case"], e["transports"][0]), len(order)))
        path.write_text(dump(entries))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--grpc", default="127.0.0.1:8001")
    parser.add_argument("--only", help="regular expression on case ids")
    parser.add_argument("--propose", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--save")
    args = parser.parse_args()
    pairs = asyncio.run(replay(args.url, args.grpc, only=args.only))
    if args.save:
        with open(args.save, "w") as out:
            json.dump({"cases": [{**r, "response": golden.text_of_nan(a)} for r, a in pairs]}, out, ensure_ascii=False)
    lists = golden.Lists.load()
    wrong = verdicts(pairs, lists)
    if args.propose:
        proposed = propose(pairs, wrong)
        print(dump(proposed[0]), dump(proposed[1]), sep="\n")
        if args.write:
            write_lists(pairs, wrong, proposed)
    else:
        for k, complaint in wrong.items():
            print(*k, complaint)
    complaints = lists.problems + ([] if args.only else lists.unused(golden.all_records()))
    print(*complaints, sep="\n")
    racy = sum(bool(r.get("racy")) for r, _ in pairs)
    print(f"{len(pairs)} records, {racy} racy ones not compared, {len(wrong)} wrong, {len(complaints)} list problems")
    sys.exit(1 if wrong or complaints else 0)


if __name__ == "__main__":
    main()
