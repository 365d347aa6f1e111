"""Adapters with parts of the table of tokens and of the head: they say what the model says with them merged in."""
import json
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clients import PROMPT, generate  # noqa: E402
from conftest import MODELS, load  # noqa: E402

LLAMA = MODELS / "llama-tiny"
VOCAB, WIDTH, RANK, ALPHA = 4096, 64, 4, 8
HEAD, EMBED = "base_model.model.lm_head", "base_model.model.model.embed_tokens"
WORDS = "added tokens are not supported: merge the adapter into the model"


def write_tensors(path, tensors):
    """A safetensors file of float32 arrays."""
    header, at = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    data = b"".join(np.ascontiguousarray(a, dtype="<f4").tobytes() for a in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_tensors(path):
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    view = lambda i: np.frombuffer(data[8 + size:], "<f4")[i["data_offsets"][0] // 4:i["data_offsets"][1] // 4]
    return {name: view(info).reshape(info["shape"]).copy() for name, info in header.items()}


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype("<f4")


def parts(seed):
    q = "base_model.model.model.layers.0.self_attn.q_proj"
    return {
        f"{q}.lora_A.weight": noise(seed, RANK, WIDTH), f"{q}.lora_B.weight": noise(seed + 1, 64, RANK),
        f"{HEAD}.lora_A.weight": noise(seed + 2, RANK, WIDTH), f"{HEAD}.lora_B.weight": noise(seed + 3, VOCAB, RANK),
        f"{EMBED}.lora_embedding_A": noise(seed + 4, RANK, VOCAB), f"{EMBED}.lora_embedding_B": noise(seed + 5, WIDTH, RANK),
    }


def write_adapter(folder, tensors, **config):
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    write_tensors(folder / "adapter_model.safetensors", tensors)
    return str(folder)


def write_merged(folder, adapter):
    shutil.copytree(LLAMA, folder)
    path = folder / "model.safetensors"
    weights, scale = read_tensors(path), ALPHA / RANK
    for name, weight in weights.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{module}.lora_A.weight" in adapter:
            weight += scale * adapter[f"{module}.lora_B.weight"] @ adapter[f"{module}.lora_A.weight"]
        if f"{module}.lora_embedding_A" in adapter:
            weight += scale * (adapter[f"{module}.lora_embedding_B"] @ adapter[f"{module}.lora_embedding_A"]).T
    write_tensors(path, weights)
    return folder


def ask(server, model, adapter=None, prompt=PROMPT):
    named = {} if adapter is None else {"lora_name": adapter}
    return generate(server, model, {"text_input": prompt, "exclude_input_in_output": True,
                                    "parameters": {"temperature": 0, "max_tokens": 16, **named}})


@pytest.fixture(scope="module")
def words(server, repository, tmp_path_factory):
    """llama-tiny with adapters of all kinds, and beside it what it is with two of them merged in."""
    folder = tmp_path_factory.mktemp("words")
    first, second = parts(10), parts(20)
    second = {name: array for name, array in second.items() if "q_proj" not in name}
    copy = {**second, f"{EMBED}.base_layer.weight": noise(1, VOCAB, WIDTH), f"{HEAD}.base_layer.weight": noise(2, VOCAB, WIDTH)}
    longer = {**first, f"{HEAD}.lora_B.weight": noise(3, VOCAB + 2, RANK)}
    adapters = {
        "all": write_adapter(folder / "all", first),
        "copied": write_adapter(folder / "copied", copy),
        "saved": write_adapter(folder / "saved", first, modules_to_save=["lm_head"]),
        "longer": write_adapter(folder / "longer", longer),
        "whole": write_adapter(folder / "whole", {**first, f"{HEAD}.weight": noise(4, VOCAB, WIDTH)}),
    }
    files = {"1/multi_lora.json": json.dumps(adapters)}
    lora = {"enable_lora": "true", "max_lora_rank": 8, "max_loras": 2}
    load(server, repository.add("words", checkpoint=LLAMA, engine=lora, files=files))
    limited = {**lora, "lora_target_modules": ["q_proj"]}
    load(server, repository.add("only-q", checkpoint=LLAMA, engine=limited, files=files))
    load(server, repository.add("plain", checkpoint=LLAMA))
    load(server, repository.add("merged-all", checkpoint=write_merged(folder / "merged-all", first)))
    load(server, repository.add("merged-copied", checkpoint=write_merged(folder / "merged-copied", second)))
    return server


@pytest.mark.parametrize("adapter", ["all", "copied"])
def test_an_adapter_says_what_merged_weights_say(words, adapter):
    for prompt in (PROMPT, "def main(", "one two three four five six seven eight nine ten eleven twelve thirteen"):
        (status, plain), (_, got), (_, merged) = (
            ask(words, model, name, prompt) for model, name in (("plain", None), ("words", adapter), (f"merged-{adapter}", None)))
        assert status == 200 and got["text_output"] == merged["text_output"], (got, merged)
        assert got["text_output"] != plain["text_output"], got
        assert ask(words, "words", None, prompt)[1]["text_output"] == plain["text_output"]


@pytest.mark.parametrize("adapter, expected", [
    ("saved", "'modules_to_save' is [\"lm_head\"]: whole modules cannot be replaced"),
    ("longer", WORDS),
    ("whole", "lm_head.weight' replaces one of the model's"),
])
def test_what_no_adapter_can_do_is_refused_by_name(words, adapter, expected):
    status, answer = ask(words, "words", adapter)
    assert status == 400 and expected in answer["error"], answer
    assert f"LoRA adapter '{adapter}'" in answer["error"], answer


def test_lora_target_modules_leaves_them_out(words):
    """Of one adapter the rest is served, of the other there is none."""
    status, answer = ask(words, "only-q", "all")
    assert status == 200 and answer["text_output"] != ask(words, "words", "all")[1]["text_output"], answer
    status, answer = ask(words, "only-q", "copied")
    assert status == 400 and "no tensor of the adapter changes this model" in answer["error"], answer
