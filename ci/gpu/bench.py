#!/usr/bin/env python3
"""Workloads through the stock tritonserver, loaded by NVIDIA's perf_analyzer over gRPC streaming.

    bench.py [--out DIR] [--budget-s N] [WORKLOAD[@VARIANT] ...]

Runs inside an unpacked bundle (`run LIBS bench`). WORKLOAD is a name from WORKLOADS or
model:prompt tokens:output tokens:streams:requests[:gpu_memory_utilization], where prompt tokens may be those that all
share + own ones: 2000+200, with prefix caching then; behind a | a second load beside it: prompt:output:streams:requests.
1024px+32 is a JPEG file of 1024 x 1024 pixels, each another, and text. Streams: 16, or 5/s, so many new ones a second, or
http16, over /generate_stream, where 2000+200*8 are conversations of eight turns: 200 tokens and the answer more in each.
VARIANT one of VARIANTS, how the model is quantised: L1@fp8. Neighbours on one model share a
server. Weights are made up, prompts differ, no prefix caching else, greedy, ignore_eos. Prints a Markdown table
beside the figures of the Python backend (one H200, vLLM 0.25.0) and writes it and all figures to DIR.
"""
import argparse
import base64
import datetime
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import pictures  # noqa: E402
from server import ROOT, ServerFailed, TritonServer  # noqa: E402

WORKLOADS = {
    "N1": "gpt2:hi:1014:100:300:0.3",
    "L1": "llama-3.1-8b:512:128:1:9",
    "L16": "llama-3.1-8b:512:128:16:96",
    "L64": "llama-3.1-8b:512:128:64:384",
    "L256": "llama-3.1-8b:512:128:256:1024",
    "P8": "llama-3.1-8b:4096:64:8:48",
    "O1": "gpt-oss-120b:512:128:1:9",
    "O64": "gpt-oss-120b:512:128:64:384",
    "O256": "gpt-oss-120b:512:128:256:1024",
    # Chats with one system prompt; long contexts; prompts that come while others generate.
    "C16": "llama-3.1-8b:2000+200:128:16:96",
    "C64": "llama-3.1-8b:2000+200:128:64:256",
    "T16": "llama-3.1-8b:2000+200*8:128:http16:256",
    "X1": "llama-3.1-8b:32000:64:1:3",
    "X16": "llama-3.1-8b:32000:64:16:32",
    "XS16": "llama-3.1-8b:31900+100:64:16:32",
    "Y1": "llama-3.1-8b:127000:64:1:3",
    "YS16": "llama-3.1-8b:126900+100:64:16:32",
    "M16": "llama-3.1-8b:512:512:16:48|4096:16:2:40",
    "Q1": "qwen2.5-0.5b:128:256:1:6:0.5",
    "Q64": "qwen2.5-0.5b:128:256:64:256:0.5",
    "Q256": "qwen2.5-0.5b:128:256:256:768:0.5",
    # Images: over gRPC and HTTP; text that is generated while images come, and without them.
    "I1": "qwen2.5-vl-7b:1024px+32:128:1:9",
    "I16": "qwen2.5-vl-7b:1024px+32:128:16:96",
    "I1h": "qwen2.5-vl-7b:1024px+32:128:http1:9",
    "I16h": "qwen2.5-vl-7b:1024px+32:128:http16:96",
    "IT16": "qwen2.5-vl-7b:512:512:16:48",
    "IM16": "qwen2.5-vl-7b:512:512:16:48|1024px+32:16:5/s:60",
    "IM16x10": "qwen2.5-vl-7b:512:512:16:48|1024px+32:16:10/s:120",
}
# Additions to model.json.
INT4 = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
LLAMA_70B = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
VARIANTS = {
    "fp8": {"quantization": "fp8"},
    "int4": {"hf_overrides": {"quantization_config": INT4}},
    "kv8": {"kv_cache_dtype": "fp8"},
    "fp8kv8": {"quantization": "fp8", "kv_cache_dtype": "fp8"},
    # Llama 3.3 70B's shape with the 8B model's tokenizer.
    "70b": {"hf_overrides": LLAMA_70B},
    "70bfp8": {"quantization": "fp8", "hf_overrides": LLAMA_70B},
}
# tp2, tp4, tp8, and the same behind each name, as 70bfp8tp2: on so many GPUs.
VARIANTS |= {f"{name}tp{ranks}": {**keys, "tensor_parallel_size": ranks}
             for name, keys in {"": {}, **VARIANTS}.items() for ranks in (2, 4, 8)}
# Of the Python backend: output tokens/s, TTFT p50 and p99, TPOT p50 and p99 in ms.
PYTHON_BACKEND = {
    "N1": (10335, 3050, 4278, 7.03, 10.4),
    "L1": (198, 21.2, 39, 4.89, 4.90),
    "L16": (2353, 171, 239, 5.38, 6.43),
    "L64": (3849, 548, 784, 12.3, 16.0),
    "L256": (4228, 1304, 4166, 50.1, 60.4),
    "P8": (439, 604, 846, 9.25, 16.8),
    "Q1": (788, 9.6, 36, 1.20, 1.50),
    "Q64": (9492, 379, 580, 5.65, 7.3),
    "Q256": (8283, 1938, 3729, 21.6, 27.3),
}
# Its own performance test sends one short prompt and generates to the length limit.
NVIDIA_PROMPT = " ".join(["hi"] * 10)
MODEL = "m"
CONFIG = 'backend: "vllm"\ninstance_group [ { count: 1 kind: KIND_MODEL } ]\n'
MAX_MODEL_LEN = {"llama-3.1-8b": 8192, "gpt-oss-120b": 8192, "qwen2.5-0.5b": 4096, "qwen2.5-7b": 4096, "gemma-2-2b": 4096,
                 "qwen2.5-vl-7b": 8192}
# The caller's words for a picture.
PLACEHOLDER = "<|vision_start|><|image_pad|><|vision_end|>"
# Above every workload's run; a server that hangs costs no more.
PERF_LIMIT_S = 150
TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A workload gave no figures; the text says why."""


@dataclass(frozen=True)
class Workload:
    name: str
    model: str
    prompt: str
    output_tokens: int
    streams: int
    requests: int
    memory_share: float
    variant: str
    # Tokens that all prompts begin with.
    shared: int = 0
    # A second load on the same server, at the same time.
    beside: "Workload | None" = None
    # Pixels of the side of each prompt's picture; 0: none.
    side: int = 0
    # New streams a second, whatever the others do; 0: as many as `streams`.
    rate: float = 0.0
    http: bool = False
    # Requests of a conversation; the first has the shared tokens, each new ones and all that was said before.
    turns: int = 1

    @staticmethod
    def parse(text):
        name, _, variant = text.partition("@")
        if variant and variant not in VARIANTS:
            sys.exit(f"error: {variant} is none of {', '.join(VARIANTS)}")
        first, _, beside = WORKLOADS.get(name, name).partition("|")
        fields = first.split(":")
        if not 5 <= len(fields) <= 6:
            sys.exit(f"error: {text} is neither one of {', '.join(WORKLOADS)} nor model:prompt:output:streams:requests")
        share = float(fields[5]) if len(fields) == 6 else 0.85
        shared, _, own = fields[1].rpartition("+")
        side, shared = (int(shared[:-2]), 0) if shared.endswith("px") else (0, int(shared or 0))
        own, _, turns = own.partition("*")
        beside = Workload.parse(f"{fields[0]}:{beside}:{share}") if beside else None
        rate = float(fields[3][:-2]) if fields[3].endswith("/s") else 0.0
        streams = 1 if rate else int(fields[3].removeprefix("http"))
        return Workload(text, fields[0], own, int(fields[2]), streams, int(fields[4]), share, variant, shared, beside, side,
                        rate, fields[3].startswith("http"), int(turns or 1))

    def longest(self):
        # A token for each 28 x 28 pixels, as Qwen2.5-VL has them.
        image = (self.side // 28 + 1) ** 2 if self.side else 0
        said = (0 if self.prompt == "hi" else int(self.prompt)) + self.output_tokens
        return self.shared + image + self.turns * said

    def server_key(self):
        return self.model, self.memory_share, self.variant, self.shared > 0, max_model_len(self)


def model_folder(name):
    for place in (ROOT / "bench/models" / name, ROOT / "tests/goldens/models" / name):
        if place.exists():
            return place
    sys.exit(f"error: no model {name} in {ROOT / 'bench/models'}")


def max_model_len(workload):
    usual = MAX_MODEL_LEN.get(workload.model)
    return usual and max(usual, 1024 * -(-workload.longest() // 1024))


def make_repository(folder, workload, extra):
    version = Path(folder) / MODEL / "1"
    version.mkdir(parents=True)
    engine = {"model": str(model_folder(workload.model)), "load_format": "dummy", "enable_prefix_caching": workload.shared > 0,
              "gpu_memory_utilization": workload.memory_share}
    if length := max_model_len(workload):
        engine["max_model_len"] = length
    (version / "model.json").write_text(json.dumps({**engine, **VARIANTS.get(workload.variant, {}), **extra}))
    (version.parent / "config.pbtxt").write_text(CONFIG)


class Prompts:
    """Texts of an exact number of tokens, for a byte-level BPE tokenizer: words that are one token each with
    the blank before them."""

    def __init__(self, model):
        vocabulary = json.loads((model_folder(model) / "tokenizer.json").read_text())["model"]["vocab"]
        blank = "\u0120"
        self.words = sorted(w[1:] for w in vocabulary if w[:1] == blank and w[1:].isascii() and w[1:].isalpha())
        self.ids = [vocabulary[blank + word] for word in self.words]

    def texts(self, tokens, count, seed):
        source = random.Random(seed)
        return ["".join(" " + source.choice(self.words) for _ in range(tokens)) for _ in range(count)]


def requests_of(workload):
    """(text, pictures in base64) of each."""
    if workload.prompt == "hi":
        return [(NVIDIA_PROMPT, [])]
    # More than are sent, as far as the client's start stays short: it sends them round and round.
    count = min(workload.requests + 2 * workload.streams, 600)
    prompts = Prompts(workload.model)
    head = "".join(prompts.texts(workload.shared, 1, "shared"))
    texts = prompts.texts(int(workload.prompt), count, repr(workload))
    texts = [text if n % workload.turns else head + text for n, text in enumerate(texts)]
    if not workload.side:
        return [(text, []) for text in texts]
    files = [base64.b64encode(pictures.jpeg(workload.side, f"{workload} {n}")).decode() for n in range(count)]
    return [(PLACEHOLDER + text, [file]) for text, file in zip(texts, files)]


def sampling_of(workload):
    sampling = {"max_tokens": workload.output_tokens, "ignore_eos": True, "temperature": 0}
    # Answers that come back as the tokens that they were, as those of trained models do.
    return sampling if workload.turns == 1 else {**sampling, "allowed_token_ids": Prompts(workload.model).ids[:1000]}


def write_requests(path, workload):
    sampling = json.dumps(sampling_of(workload))
    rows = [{"text_input": [t], "stream": [True], "sampling_parameters": [sampling], **({"image": files} if files else {})}
            for t, files in requests_of(workload)]
    path.write_text(json.dumps({"data": rows}))


def over_http(server, workload):
    """The same figures as perf_analyzer's, of requests to /generate_stream."""
    # As text: Triton takes no lists among a request's parameters.
    sampling = json.dumps(sampling_of(workload))
    bodies = [{"text_input": text, "image": files, "stream": True, "sampling_parameters": sampling}
              for text, files in requests_of(workload)[:workload.requests]]
    try:
        if workload.turns > 1:
            return pictures.conversations(server.url, MODEL, bodies, workload.turns, workload.streams)
        return pictures.generate_streams(server.url, MODEL, bodies, workload.streams)
    except OSError as error:
        raise Failed(f"/generate_stream: {error}") from None


def perf_analyzer(server, workload, folder):
    """The requests of the client's export: send time and times of the responses, in nanoseconds."""
    if workload.http:
        return over_http(server, workload)
    folder.mkdir(exist_ok=True)
    requests, export = folder / "requests.json", folder / "export.json"
    write_requests(requests, workload)
    export.unlink(missing_ok=True)
    load = f"--request-rate-range={workload.rate}" if workload.rate else f"--concurrency-range={workload.streams}"
    # Three windows of a third each; "stable" whatever they say.
    command = [ROOT / "target/perf/perf_analyzer", "-m", MODEL, "-u", server.grpc, "-i", "grpc", "--async",
               "--streaming", load, "--measurement-mode=count_windows",
               f"--measurement-request-count={max(1, workload.requests // 3)}", "--stability-percentage=999",
               "--max-trials=4", f"--input-data={requests}", f"--profile-export-file={export}"]
    if workload.side:
        # It wants to know how many before it reads the data.
        command.append("--shape=image:1")
    libraries = [ROOT / "target/perf/lib", ROOT / "target/servers/0.7.0/nvidia_pytriton.libs"]
    env = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, libraries))}
    try:
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=PERF_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise Failed(f"perf_analyzer was still running after {PERF_LIMIT_S} s") from None
    if not export.exists():
        raise Failed(f"perf_analyzer ended with {done.returncode}: {done.stdout[-1500:]}")
    experiments = json.loads(export.read_text())["experiments"]
    answered = [r for e in experiments for r in e["requests"] if r["response_timestamps"]]
    if not answered:
        raise Failed(f"no request was answered: {done.stdout[-1500:]}")
    return answered


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def middle(requests):
    """The middle 80 % between the first sending and the last response."""
    begin = min(r["timestamp"] for r in requests)
    end = max(r["response_timestamps"][-1] for r in requests)
    return begin + (end - begin) // 10, end - (end - begin) // 10


def first_rate(requests):
    """First tokens/s: as many images/s, where each request has one."""
    low, high = middle(requests)
    return sum(low <= r["response_timestamps"][0] < high for r in requests) / ((high - low) / 1e9)


def token_rate(requests, output_tokens):
    """Output tokens/s. A response counts as its share of the request's tokens: late readers get several tokens in
    one."""
    low, high = middle(requests)
    tokens = 0.0
    for r in requests:
        inside = sum(low <= t < high for t in r["response_timestamps"])
        tokens += inside * output_tokens / len(r["response_timestamps"])
    return tokens / ((high - low) / 1e9)


def figures(requests, output_tokens):
    firsts = [(r["response_timestamps"][0] - r["timestamp"]) / 1e6 for r in requests]
    gaps = [(r["response_timestamps"][-1] - r["response_timestamps"][0]) / 1e6 / max(1, output_tokens - 1)
            for r in requests]
    responses = sum(len(r["response_timestamps"]) for r in requests) / len(requests)
    return {"requests": len(requests), "output_tokens_per_s": round(token_rate(requests, output_tokens), 1),
            "ttft_p50_ms": round(percentile(firsts, 0.5), 2), "ttft_p99_ms": round(percentile(firsts, 0.99), 2),
            "tpot_p50_ms": round(percentile(gaps, 0.5), 3), "tpot_p99_ms": round(percentile(gaps, 0.99), 3),
            "responses_per_request": round(responses, 1),
            "responses_share": round(responses / output_tokens, 3)}


def thread_seconds(pid):
    """CPU seconds by thread name, summed over threads of a name."""
    spent = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            head, tail = (task / "stat").read_text().rsplit(")", 1)
        except (FileNotFoundError, ProcessLookupError):
            continue
        user, system = tail.split()[11:13]
        name = head.split("(", 1)[1]
        spent[name] = spent.get(name, 0.0) + (int(user) + int(system)) / TICKS
    return spent


def memory_bytes(pid):
    """Resident memory, and the part of it that no file backs."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    kib = {k: int(fields[k].split()[0]) for k in ("VmRSS", "RssAnon") if k in fields}
    return {"resident_mb": kib.get("VmRSS", 0) >> 10, "anonymous_mb": kib.get("RssAnon", 0) >> 10}


def first_answer(server, prompt=" hi hi"):
    """Seconds from the start of the process to the first complete answer, of one token."""
    body = {"text_input": prompt, "stream": False, "parameters": {"max_tokens": 1, "temperature": 0}}
    status, text = server.post(f"v2/models/{MODEL}/generate", body)
    if status != 200:
        raise Failed(f"/generate answered {status}: {text}")
    return time.monotonic() - server.started_s


def first_prompt(workload):
    return NVIDIA_PROMPT if workload.prompt == "hi" else Prompts(workload.model).texts(512, 1, "first")[0]


def first_request(server, prompt):
    """The same, and milliseconds that this request took alone."""
    began = time.monotonic()
    answered_s = first_answer(server, prompt)
    return {"first_answer_s": round(answered_s, 2), "first_request_ms": round((time.monotonic() - began) * 1e3, 1)}


def prompt_tokens(server, workload):
    """What the server counts in one of the prompts."""
    text, files = requests_of(replace(workload, requests=1, streams=0))[0]
    body = {"text_input": text, "stream": False, "return_num_input_tokens": True, **({"image": files} if files else {}),
            "parameters": {"max_tokens": 1, "temperature": 0}}
    status, answer = server.post(f"v2/models/{MODEL}/generate", body)
    return json.loads(answer).get("num_input_tokens") if status == 200 else f"{status}: {answer}"


def measure(server, workload, folder):
    pid = server.process.pid
    counted = prompt_tokens(server, workload)
    began, before, client = time.monotonic(), thread_seconds(pid), os.times()
    with ThreadPoolExecutor(1) as pool:
        beside = workload.beside and pool.submit(perf_analyzer, server, workload.beside, folder / "beside")
        requests = perf_analyzer(server, workload, folder)
        beside = beside and beside.result()
    wall, after, client_after = time.monotonic() - began, thread_seconds(pid), os.times()
    spent = {name: (seconds - before.get(name, 0.0)) / wall for name, seconds in after.items()}
    busiest = sorted(spent.items(), key=lambda item: -item[1])[:8]
    used = client_after.children_user + client_after.children_system - client.children_user - client.children_system
    gaps = [b - a for r in requests for a, b in zip(r["response_timestamps"], r["response_timestamps"][1:])]
    other = figures(beside, workload.beside.output_tokens) if beside else {}
    if beside and workload.beside.side:
        other["images_per_s"] = round(first_rate(beside), 2)
    images = {"images_per_s": round(first_rate(requests), 2)} if workload.side else {}
    if workload.turns > 1:
        later = [r for n, r in enumerate(requests) if n % workload.turns]
        later = figures(later, workload.output_tokens)
        images = {f"later_turns_{name}": later[name] for name in ("ttft_p50_ms", "ttft_p99_ms")}
    return {**figures(requests, workload.output_tokens), **images, "prompt_tokens": counted,
            "gap_p99_ms": round(percentile(gaps or [0], 0.99) / 1e6, 2), "gap_max_ms": round(max(gaps or [0]) / 1e6, 2),
            **{f"beside_{name}": value for name, value in other.items()}, "wall_s": round(wall, 1),
            "server_cores": round(sum(spent.values()), 2), "client_cores": round(used / wall, 2),
            "busy_threads": {name: round(cores, 2) for name, cores in busiest}, **memory_bytes(pid)}


class Bench:
    def __init__(self, out, budget_s, extra):
        self.out, self.extra = out, extra
        self.deadline_s = time.monotonic() + budget_s
        self.rows = []

    def group(self, works):
        """Workloads that share a server."""
        log = self.out / f"server.{works[0].model}.log"
        prompt = first_prompt(works[0])
        with tempfile.TemporaryDirectory(prefix="gpu-bench-") as folder:
            make_repository(Path(folder) / "repository", works[0], self.extra)
            try:
                with TritonServer(Path(folder) / "repository", control="none", log=log) as server:
                    started = first_request(server, prompt)
                    for work in works:
                        self.one(server, work, Path(folder), started)
            except (ServerFailed, Failed) as failed:
                self.add({"workload": works[0].name, "error": str(failed)})

    def one(self, server, work, folder, started):
        if time.monotonic() > self.deadline_s:
            self.add({"workload": work.name, "error": "not run: the time was up"})
            return
        try:
            self.add({"workload": work.name, **measure(server, work, folder), **started})
        except Failed as failed:
            self.add({"workload": work.name, "error": str(failed), "log": server.log_tail(5)})

    def add(self, row):
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        with open(self.out / "bench.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")


def table(rows):
    lines = ["| workload | out tok/s (Python backend) | TTFT p50 / p99 ms (Python backend) | TPOT p50 / p99 ms (Python backend) "
             "| gap between responses p99 / most ms | responses per request | server / client cores | resident MB "
             "| first answer s, first request ms |", "|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        if "error" in r:
            lines.append(f"| {r['workload']} | {r['error'].splitlines()[0][:90]} | | | | | | | |")
            continue
        tokens, ttft, ttft99, tpot, tpot99 = PYTHON_BACKEND.get(r["workload"], ("-",) * 5)
        lines.append(
            f"| {r['workload']} | **{r['output_tokens_per_s']:.0f}** ({tokens}) "
            f"| {r['ttft_p50_ms']} / {r['ttft_p99_ms']} ({ttft} / {ttft99}) "
            f"| {r['tpot_p50_ms']} / {r['tpot_p99_ms']} ({tpot} / {tpot99}) "
            f"| {r['gap_p99_ms']} / {r['gap_max_ms']} "
            f"| {r['responses_per_request']} ({100 * r['responses_share']:.0f} %) "
            f"| {r['server_cores']} / {r['client_cores']} | {r['resident_mb']} "
            f"| {r['first_answer_s']}, {r['first_request_ms']} |")
        images = [f"{r[key]} images/s" for key in ("images_per_s", "beside_images_per_s") if key in r]
        if images:
            lines.append(f"| of {r['workload']} | {images[0]} | | | | | | | |")
        if "beside_ttft_p50_ms" in r:
            lines.append(f"| beside {r['workload']} | {r['beside_output_tokens_per_s']:.0f} "
                         f"| {r['beside_ttft_p50_ms']} / {r['beside_ttft_p99_ms']} "
                         f"| {r['beside_tpot_p50_ms']} / {r['beside_tpot_p99_ms']} | | | | | |")
    return "\n".join(lines)


def machine():
    def told(*command):
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return "no NVIDIA GPU"
    gpu = told("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    return f"{gpu}; {os.cpu_count()} cores, {platform.release()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="out")
    parser.add_argument("--budget-s", type=float, default=1e9, help="start no workload after so many seconds")
    parser.add_argument("--engine", default="{}", help="further keys for model.json, as JSON")
    # gpt-oss-120b has a shape alone: its prompts are the 8B model's. Images are asked for.
    usual = [name for name in WORKLOADS if name[0] not in "OI"]
    parser.add_argument("workloads", nargs="*", default=usual)
    args = parser.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    bench = Bench(out, args.budget_s, json.loads(args.engine))
    groups = []
    for work in map(Workload.parse, args.workloads):
        if groups and groups[-1][0].server_key() == work.server_key():
            groups[-1].append(work)
        else:
            groups.append([work])
    for works in groups:
        bench.group(works)
    commit = (ROOT / "COMMIT").read_text().strip()
    text = (f"{datetime.date.today()}, commit {commit}, stock tritonserver 2.51.0\n\nMachine: {machine()}\n"
            f"Command: `run LIBS bench {' '.join(sys.argv[1:])}`\n\n{table(bench.rows)}\n")
    (out / "bench.md").write_text(text)
    print("\n" + text, flush=True)
    sys.exit(any("error" in row for row in bench.rows))


if __name__ == "__main__":
    main()
