"""What the endpoint picker of a Gateway API inference gateway reads of a vLLM server: a stand-in by the rules of
llm-d-router v0.10.0 (before it, of gateway-api-inference-extension), with its names of metrics unless told others.

A text that the picker's parser refuses is refused here. Of several series of a family it takes the one with the newest
timestamp, which is the first one where there are none; of the adapters' the one with the greatest value.
"""
import re
import urllib.request
from dataclasses import dataclass, field

# What it looks for in a pod with the label llm-d.ai/engine-type: vllm, or without one.
SPECS = {"queuedRequestsSpec": "vllm:num_requests_waiting", "runningRequestsSpec": "vllm:num_requests_running",
         "kvUsageSpec": "vllm:kv_cache_usage_perc", "loraSpec": "vllm:lora_requests_info",
         "cacheInfoSpec": "vllm:cache_config_info"}
NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"\s*(,|(?=}))')
SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})?[ \t]+(\S+)(?:[ \t]+(-?\d+))?[ \t]*")
KINDS = ("counter", "gauge", "histogram", "summary", "untyped")


class Refused(Exception):
    """The picker would not read this text at all."""


@dataclass
class Family:
    kind: str = "untyped"
    help: str | None = None
    samples: list = field(default_factory=list)    # (labels, value, timestamp)


@dataclass
class Endpoint:
    """What the picker knows of a server; None: it looked for it in vain, and says so in its log."""
    waiting: int | None = None
    running: int | None = None
    kv_usage: float | None = None
    block_size: int | None = None
    blocks: int | None = None
    active: set = field(default_factory=set)    # adapters
    queued: set = field(default_factory=set)
    most_active: int = 0


def labels_of(text, line):
    found, at = {}, 1
    while text and text[at:] != "}":
        label = LABEL.match(text, at)
        if not label or label[1] in found:
            raise Refused(f"labels: {line}")
        found[label[1]] = re.sub(r"\\(.)", lambda escaped: {"n": "\n"}.get(escaped[1], escaped[1]), label[2])
        at = label.end()
    return found


def parse(text):
    """{name: Family}. A histogram's buckets, sum and count belong to its family."""
    families, seen = {}, set()

    def family_of(name):
        for suffix in ("_bucket", "_sum", "_count"):
            whole = name.removesuffix(suffix)
            if whole != name and families.get(whole, Family()).kind in ("histogram", "summary"):
                return whole
        return name

    if text and not text.endswith("\n"):
        raise Refused("the last line has no end")
    for line in text.splitlines():
        if line.startswith("#"):
            word, *rest = line[1:].split(maxsplit=2) or [""]
            if word not in ("HELP", "TYPE"):
                continue
            if not rest or not NAME.fullmatch(rest[0]):
                raise Refused(line)
            family = families.setdefault(rest[0], Family())
            if word == "HELP":
                if family.help is not None:
                    raise Refused(f"a second HELP: {line}")
                family.help = (rest + [""])[1]
            else:
                if family.samples or family.kind != "untyped" or rest[1:] not in [[kind] for kind in KINDS]:
                    raise Refused(f"a second, late or unknown TYPE: {line}")
                family.kind = rest[1]
        elif line.strip():
            sample = SAMPLE.fullmatch(line)
            if not sample:
                raise Refused(line)
            name, labels, value, stamp = sample.groups()
            labels = labels_of(labels, line)
            key = (name, *sorted(labels.items()))
            if key in seen:
                raise Refused(f"twice: {line}")
            seen.add(key)
            try:
                number = float(value)
            except ValueError:
                raise Refused(line) from None
            families.setdefault(family_of(name), Family()).samples.append((labels, number, int(stamp or 0)))
    return families


def newest(families, spec, by_value=False):
    """The series that counts, as (labels, value); `spec` is a name, perhaps with {label=value, ...}."""
    name, _, wanted = spec.partition("{")
    wanted = dict(re.findall(r'(\w+)\s*=\s*"?([^",}]+)', wanted))
    best, most = None, -1
    for labels, value, stamp in families.get(name, Family()).samples:
        rank = value if by_value else stamp
        if wanted.items() <= labels.items() and rank > most:
            best, most = (labels, value), rank
    return best


def extract(text, specs=SPECS):
    families, found = parse(text), Endpoint()
    number = lambda key: next(iter(reversed(newest(families, specs[key]) or (None,))))
    waiting, running = number("queuedRequestsSpec"), number("runningRequestsSpec")
    found.waiting = None if waiting is None else int(waiting)
    found.running = None if running is None else int(running)
    found.kv_usage = number("kvUsageSpec")
    if cache := newest(families, specs["cacheInfoSpec"]):
        found.block_size, found.blocks = int(cache[0]["block_size"]), int(cache[0]["num_gpu_blocks"])
    if lora := newest(families, specs["loraSpec"], by_value=True):
        names = lambda label: {name.strip() for name in lora[0].get(label, "").split(",")} - {""}
        found.active, found.queued = names("running_lora_adapters"), names("waiting_lora_adapters")
        found.most_active = int(lora[0]["max_lora"])
    return found


def scrape(url):
    with urllib.request.urlopen(url, timeout=1) as answer:    # the picker's own limit
        return answer.read().decode()
