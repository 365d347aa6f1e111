"""Files and sizes that end a careless server: weights that change while they are read, files that are no files, loads that
hang, models larger than the memory. Each load answers, and the other models go on."""
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clients import PROMPT, generate, golden_text  # noqa: E402
from conftest import CONFIG, ENGINE, MODELS, Repository, load, repository, server, tiny  # noqa: E402, F401
from server import ROOT, TritonServer  # noqa: E402

LLAMA = ROOT / "tests" / "fixtures" / "models" / "llama"
GREEDY = {"temperature": 0}
CHANGED = "changed while it was read"


def serves(server):
    status, answer = generate(server, "opt-tiny", {"text_input": PROMPT, "parameters": GREEDY})
    assert (status, answer["text_output"]) == (200, PROMPT + golden_text())


def refusal(server, name):
    """The one line of a load that fails; opt-tiny still serves."""
    status, text = server.load_model(name)
    assert server.alive(), server.log_tail()
    assert status in (400, 500), text
    said = json.loads(text)["error"].split("UNAVAILABLE state: ", 1)[-1].rstrip(";\n ")
    said = said.removeprefix("Invalid argument: ")
    assert "\n" not in said and "panicked" not in said and len(said) < 1000, said
    serves(server)
    return said


def llama_folder(folder, layers=4, hidden=512):
    """A llama of random shapes with weights of zeros, some 30 MB: large enough that a load can be met."""
    folder.mkdir()
    config = json.loads((LLAMA / "config.json").read_text())
    ffn, vocab = 4 * hidden, 8192
    config.update(hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers, num_attention_heads=8,
                  num_key_value_heads=8, vocab_size=vocab, head_dim=hidden // 8, torch_dtype="float16")
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODELS / "llama-tiny" / name, folder)
    shapes = {"model.embed_tokens.weight": [vocab, hidden], "model.norm.weight": [hidden], "lm_head.weight": [vocab, hidden]}
    for n in range(layers):
        at = f"model.layers.{n}."
        shapes.update({at + f"self_attn.{p}_proj.weight": [hidden, hidden] for p in "qkvo"})
        shapes.update({at + f"mlp.{p}_proj.weight": [ffn, hidden] for p in ("gate", "up")})
        shapes[at + "mlp.down_proj.weight"] = [hidden, ffn]
        shapes.update({at + f"{p}_layernorm.weight": [hidden] for p in ("input", "post_attention")})
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * (shape[0] * (shape[1] if len(shape) > 1 else 1))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    return folder


REWRITE = """
import os, sys, time
path, whole = sys.argv[1], open(sys.argv[1], "rb").read()
for n in range(100000):
    how = n % 3
    if how == 0:       # cp over it
        with open(path, "wb") as file:
            file.write(whole)
    elif how == 1:     # shortened for a moment
        os.truncate(path, len(whole) // 3)
        time.sleep(0.02)
        with open(path, "r+b") as file:
            file.write(whole)
    else:              # written in place
        with open(path, "r+b") as file:
            file.seek(len(whole) // 2)
            file.write(whole[len(whole) // 2:])
    print(n, flush=True)
    time.sleep(float(sys.argv[2]))
"""


class Rewriter:
    """Another process that rewrites a file again and again."""

    def __init__(self, path, pause_s):
        self.path, self.whole = path, path.read_bytes()
        self.command = [sys.executable, "-c", REWRITE, str(path), str(pause_s)]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE)
        self.process.stdout.readline()
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.stdout.close()
        self.process.wait()
        self.path.write_bytes(self.whole)


def test_weights_rewritten_during_loads(tiny, repository, tmp_path):  # noqa: F811
    folder = llama_folder(tmp_path / "checkpoint")
    name = repository.add("rewritten", checkpoint=folder, engine={"max_model_len": 64, "dtype": "float16"})
    outcomes = []
    with Rewriter(folder / "model.safetensors", 0.05):
        for _ in range(30):
            status, text = tiny.load_model(name)
            assert tiny.alive(), tiny.log_tail()
            outcomes.append(text if status != 200 else "loaded")
            tiny.unload_model(name)
    serves(tiny)
    for text in outcomes:
        assert text == "loaded" or CHANGED in text or "model.safetensors" in text, text
    assert any(CHANGED in text for text in outcomes), outcomes
    # Now that nobody writes it.
    load(tiny, name)
    tiny.unload_model(name)


def test_adapters_copied_over_while_they_are_read(server, repository, tmp_path):  # noqa: F811
    adapters = {}
    for name in ("a", "b"):
        adapters[name] = str(tmp_path / name)
        shutil.copytree(MODELS / f"llama-lora-{name}", tmp_path / name)
    engine = {"enable_lora": True, "max_lora_rank": 8, "max_loras": 1, "max_cpu_loras": 1}
    name = repository.add("adapters-rewritten", checkpoint=MODELS / "llama-tiny", engine=engine,
                          files={"1/multi_lora.json": json.dumps(adapters)})
    load(server, name)
    weights = next((tmp_path / "a").glob("adapter_model.*"))
    statuses = set()
    with Rewriter(weights, 0.0):
        # Each asks for the one that the other has just pushed out.
        for n in range(120):
            body = {"text_input": PROMPT, "parameters": {**GREEDY, "max_tokens": 2, "lora_name": "ab"[n % 2]}}
            status, answer = generate(server, name, body)
            assert server.alive(), server.log_tail()
            assert status == 200 or "LoRA adapter 'a'" in answer["error"], answer
            statuses.add((("a", "b")[n % 2], status))
    assert ("b", 200) in statuses and ("b", 400) not in statuses
    status, answer = generate(server, name, {"text_input": PROMPT, "parameters": {**GREEDY, "lora_name": "a"}})
    assert status == 200, answer


def replaced(kind, path):
    """Put something that is no file where `path` was."""
    path.unlink(missing_ok=True)
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as s:
            before = os.getcwd()
            os.chdir(path.parent)  # the name of a socket is short
            s.bind(path.name)
            os.chdir(before)
    elif kind == "a directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")


CHECKPOINT_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
                    "special_tokens_map.json", "model.safetensors", "model.safetensors.index.json", "modules.json")
KINDS = ("a FIFO", "a character device", "a socket", "a directory")


@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files_are_read(tiny, repository, tmp_path, kind):  # noqa: F811
    for file in CHECKPOINT_FILES:
        folder = tmp_path / file
        shutil.copytree(LLAMA, folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(MODELS / "llama-tiny" / name, folder)
        replaced(kind, folder / file)
        name = repository.add(f"{kind.split()[-1]}-{file}", checkpoint=folder, engine={"max_model_len": 64})
        assert refusal(tiny, name) == f"{folder / file} is {kind}, not a regular file."
    for file in ("model.json", "multi_lora.json"):
        name = repository.add(f"{kind.split()[-1]}-own-{file}", checkpoint=MODELS / "llama-tiny",
                              engine={"enable_lora": True})
        path = repository.folder / name / "1" / file
        replaced(kind, path)
        assert refusal(tiny, name) == f"{path} is {kind}, not a regular file."


def test_a_file_larger_than_its_kind_may_be(tiny, repository, tmp_path):  # noqa: F811
    for file, most in (("config.json", 16 << 20), ("tokenizer.json", 128 << 20)):
        folder = tmp_path / file
        shutil.copytree(MODELS / "llama-tiny", folder)
        os.truncate(folder / file, 1 << 40)
        said = refusal(tiny, repository.add(f"large-{file}", checkpoint=folder))
        assert said == f"{folder / file} has {1 << 40} bytes, at most {most} are read of such a file."


def free_gib():
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) / (1 << 20)


NEEDS = r"Not enough memory on the CPU: [\d.]+ GiB are needed \(weights [\d.]+, .*\), [\d.]+ of [\d.]+ GiB are free"


def test_a_model_that_is_too_large_is_refused(tiny, repository, tmp_path):  # noqa: F811
    dummy = tmp_path / "dummy"
    shutil.copytree(MODELS / "llama-tiny", dummy)
    config = json.loads((dummy / "config.json").read_text())
    # 70 billion parameters.
    config.update(hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
                  num_key_value_heads=8, head_dim=128, vocab_size=128256)
    (dummy / "config.json").write_text(json.dumps(config))
    cases = {
        "pool-of-200-gb": (MODELS / "opt-tiny", {"kv_cache_memory_bytes": 200_000_000_000}),
        "pool-of-many-pages": (MODELS / "opt-tiny", {"num_gpu_blocks_override": 2_000_000_000}),
        "weights-beyond-memory": (dummy, {"load_format": "dummy"}),
        "activations-beyond-memory": (MODELS / "opt-tiny", {"max_num_batched_tokens": 16_000_000}),
    }
    before = tiny.resident_bytes()
    for name, (checkpoint, engine) in cases.items():
        said = refusal(tiny, repository.add(name, checkpoint=checkpoint, engine=engine))
        assert re.search(NEEDS, said), said
        assert "Lower kv_cache_memory_bytes" in said and "max_model_len" in said, said
    assert tiny.resident_bytes() < before + (500 << 20)
    said = refusal(tiny, repository.add("too-many-sequences", engine={
        "max_num_seqs": 4_000_000_000, "max_num_batched_tokens": 4_000_000_000}))
    assert "max_num_seqs is 4000000000, at most 65536" in said


def test_models_that_load_at_once_do_not_get_the_same_memory(tiny, repository):  # noqa: F811
    pool = int(0.7 * free_gib() * (1 << 30))
    names = [repository.add(f"half-{n}", engine={"kv_cache_memory_bytes": pool}) for n in range(3)]
    outcomes = {}
    threads = [threading.Thread(target=lambda n=n: outcomes.update({n: tiny.load_model(n)})) for n in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tiny.alive(), tiny.log_tail()
    loaded = [n for n in names if outcomes[n][0] == 200]
    assert len(loaded) == 1, outcomes
    for name in set(names) - set(loaded):
        assert re.search(NEEDS, outcomes[name][1]), outcomes
    serves(tiny)
    # What was promised is given back.
    assert tiny.unload_model(loaded[0])[0] == 200
    deadline = time.monotonic() + 30
    while tiny.model_state(loaded[0]) == "UNLOADING" and time.monotonic() < deadline:
        time.sleep(0.1)
    load(tiny, next(iter(set(names) - set(loaded))))


class BlackHole:
    """A hub that takes connections and never answers."""

    def __enter__(self):
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def __exit__(self, *_):
        self.socket.close()


def hub_server(tmp_path, endpoint, **options):
    made = Repository(tmp_path / "models")
    made.folder.mkdir()
    made.add("opt-tiny")
    made.add("hangs", model_json=json.dumps({**ENGINE, "model": "some/model"}))
    env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    return TritonServer(made.folder, env=env, load=("opt-tiny",), **options)


def test_a_load_has_a_deadline(tmp_path):
    with BlackHole() as endpoint:
        with hub_server(tmp_path, endpoint, backend_config={"load-deadline-ms": 1000}) as server:  # noqa: F811
            started = time.monotonic()
            said = refusal(server, "hangs")
            assert time.monotonic() - started < 25
            assert "load-deadline-ms" in said and "1000 ms" in said, said


def test_a_server_ends_while_a_load_hangs(tmp_path):
    with BlackHole() as endpoint:
        # The server joins the thread that waits for the load, so that the load's end is the server's.
        with hub_server(tmp_path, endpoint, backend_config={"load-deadline-ms": 5000},
                        extra=("--exit-timeout-secs=15",)) as server:  # noqa: F811
            asked = subprocess.Popen(["curl", "-s", "-m", "60", "-X", "POST",
                                      f"{server.url}/v2/repository/models/hangs/load"], stdout=subprocess.DEVNULL)
            time.sleep(1)
            assert server.model_state("hangs") == "LOADING" and asked.poll() is None
            started = time.monotonic()
            server.stop()
            assert time.monotonic() - started < 25
            asked.wait(60)
