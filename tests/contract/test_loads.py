"""Models that must not load: one clear line each, never a crash, and the server goes on serving its other models."""
import json
import re
import shutil
import struct

import pytest
from clients import PROMPT, generate, golden_text
from conftest import CONFIG, ENGINE, MODELS
from server import ROOT

LLAMA = ROOT / "tests" / "fixtures" / "models" / "llama"
SHARDED = ROOT / "tests" / "fixtures" / "models" / "llama-sharded"


def arguments(**changes):
    return json.dumps({**ENGINE, "model": str(MODELS / "opt-tiny"), **changes})


# name -> (config.pbtxt, model.json or False, words that the answer must contain)
CONFIGURED = {
    "no-json": (CONFIG, False, ["model.json"]),
    "not-json": (CONFIG, "{ not json", ["model.json", "line 1 column 3"]),
    "json-list": (CONFIG, "[1]", ["model.json"]),
    "unknown-argument": (CONFIG, arguments(bogus_engine_arg=1), [
        "AsyncEngineArgs.__init__() got an unexpected keyword argument 'bogus_engine_arg'"]),
    "wrong-type": (CONFIG, arguments(max_model_len="abc"), ["max_model_len", "abc"]),
    "no-model": (CONFIG, json.dumps(ENGINE), ["model"]),
    "no-such-folder": (CONFIG, arguments(model="/nonexistent/model"), ["/nonexistent/model"]),
    "hub-name": (CONFIG, arguments(model="facebook/opt-125m"), ["facebook/opt-125m"]),
    "too-long": (CONFIG, arguments(max_model_len=4096), ["max_model_len", "4096", "512"]),
    "no-such-device": (CONFIG, arguments(device="abacus"), ["device", "abacus"]),
    "gpu-where-none-is": (CONFIG.replace("MODEL", "GPU"), arguments(), ["GPU"]),
}


def damaged(folder, source, damage):
    """A copy of a good checkpoint after `damage`, with a tokenizer that fits no size but reads well."""
    shutil.copytree(source, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODELS / "llama-tiny" / name, folder)
    damage(folder)
    return folder


def config_with(**changes):
    def damage(folder):
        path = folder / "config.json"
        config = json.loads(path.read_text())
        for name, value in changes.items():
            config.pop(name) if value is None else config.update({name: value})
        path.write_text(json.dumps(config))
    return damage


def write(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def remove(name):
    return lambda folder: (folder / name).unlink()


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5000])


def header_with(change):
    """Rewrites the JSON header of the safetensors file."""
    def damage(folder):
        path = folder / "model.safetensors"
        data = path.read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:8 + size])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size:])
    return damage


NORM = "model.norm.weight"
HEADER_LENGTHS = {"huge": 1 << 62, "past-the-end": 1 << 30, "zero": 0}

# name -> (source, damage, words that the answer must contain)
DAMAGED = {
    "empty-folder": (LLAMA, lambda folder: [f.unlink() for f in folder.iterdir()], [r"config\.json|tokenizer"]),
    "config-not-json": (LLAMA, write("config.json", b"{"), ["config.json"]),
    "config-a-list": (LLAMA, write("config.json", b"[]"), ["config.json"]),
    "config-without-layers": (LLAMA, config_with(num_hidden_layers=None), [r"model\.layers\.2\."]),
    "config-with-text-size": (LLAMA, config_with(hidden_size="wide"), ["hidden_size"]),
    "config-with-no-heads": (LLAMA, config_with(num_attention_heads=0), ["num_attention_heads"]),
    "config-heads-do-not-divide": (LLAMA, config_with(num_key_value_heads=3), ["num_key_value_heads"]),
    "config-with-huge-size": (LLAMA, config_with(vocab_size=1 << 40), ["vocab_size|embed_tokens"]),
    "unknown-architecture": (LLAMA, config_with(architectures=["Gemma3nForCausalLM"]),
                             ["'Gemma3nForCausalLM' is not supported", r"docs/models\.md"]),
    "mistyped-architecture": (LLAMA, config_with(architectures=["LamaForCausalLM"]),
                              ["'LamaForCausalLM' is not supported", "nearest that is: LlamaForCausalLM"]),
    "removed-architecture": (LLAMA, config_with(architectures=["MPTForCausalLM"]),
                             [r"MPTForCausalLM was supported in vLLM until v0\.28\.0, and is not supported anymore\."]),
    "unknown-rope": (LLAMA, config_with(rope_scaling={"rope_type": "spiral", "factor": 2.0}), ["spiral"]),
    "unknown-activation": (LLAMA, config_with(hidden_act="squiggle"), ["squiggle"]),
    "no-weights": (LLAMA, remove("model.safetensors"), ["safetensors"]),
    "weights-truncated": (LLAMA, truncated, ["model.safetensors"]),
    "weights-empty-file": (LLAMA, write("model.safetensors", b""), ["model.safetensors"]),
    "weights-no-header": (LLAMA, write("model.safetensors", b"\xff" * 4096), ["model.safetensors"]),
    "weights-header-not-json": (LLAMA, write("model.safetensors", struct.pack("<Q", 4) + b"nope"), ["model.safetensors"]),
    "weights-lie-about-offsets": (LLAMA, header_with(
        lambda h: h[NORM].update(data_offsets=[0, 1 << 40])), ["model.safetensors"]),
    "weights-overlap": (LLAMA, header_with(
        lambda h: h[NORM].update(data_offsets=[0, 256])), ["model.safetensors"]),
    "weights-lie-about-dtype": (LLAMA, header_with(lambda h: h[NORM].update(dtype="F64")), ["model.safetensors"]),
    "weights-wrong-shape": (LLAMA, config_with(intermediate_size=80), [r"mlp\.(gate|up|down)_proj", "80", "72"]),
    "tensor-missing": (LLAMA, config_with(num_hidden_layers=3), [r"model\.layers\.2\."]),
    "shard-missing": (SHARDED, remove("model-00002-of-00003.safetensors"), ["model-00002-of-00003.safetensors"]),
    "index-not-json": (SHARDED, write("model.safetensors.index.json", b"]"), ["model.safetensors.index.json"]),
    "index-leaves-the-folder": (SHARDED, write("model.safetensors.index.json", json.dumps(
        {"weight_map": {NORM: "../../../../etc/passwd"}}).encode()), ["index.json|passwd"]),
    "tokenizer-not-json": (LLAMA, write("tokenizer.json", b"{"), ["tokenizer.json"]),
    "tokenizer-missing": (LLAMA, remove("tokenizer.json"), ["tokenizer"]),
}
for kind, length in HEADER_LENGTHS.items():
    DAMAGED[f"weights-header-{kind}"] = (
        LLAMA, write("model.safetensors", struct.pack("<Q", length) + b"{}" + b"\0" * 64), ["model.safetensors"])


def refused(server, name, words):
    """The load fails with one line that has the words, and opt-tiny still answers."""
    status, text = server.load_model(name)
    assert server.alive(), server.log_tail()
    assert status in (400, 500), text
    said = json.loads(text)["error"].split("UNAVAILABLE state: ", 1)[-1].rstrip(";\n ")
    assert "\n" not in said and "panicked" not in said and len(said) < 1000, said
    for word in words:
        assert re.search(word if re.search(r"[\\|]", word) else re.escape(word), said), f"{word!r} not in: {said}"
    assert "panicked" not in server.log_since(0)
    body = {"text_input": PROMPT, "parameters": {"temperature": 0}}
    status, answer = generate(server, "opt-tiny", body)
    assert (status, answer["text_output"]) == (200, PROMPT + golden_text())


@pytest.mark.parametrize("name", CONFIGURED)
def test_bad_configuration(tiny, repository, name):
    config, model_json, words = CONFIGURED[name]
    repository.add(name, config=config, model_json=model_json)
    refused(tiny, name, words)


@pytest.mark.parametrize("name", DAMAGED)
def test_bad_checkpoint(tiny, repository, tmp_path, name):
    source, damage, words = DAMAGED[name]
    folder = damaged(tmp_path / "checkpoint", source, damage)
    repository.add(name, checkpoint=folder, engine={"max_model_len": 64})
    refused(tiny, name, words)


def test_the_undamaged_copies_load(tiny, repository, tmp_path):
    """Without this, everything above could fail for a reason of its own."""
    for name, source in (("good", LLAMA), ("good-sharded", SHARDED)):
        folder = damaged(tmp_path / name, source, lambda folder: None)
        repository.add(name, checkpoint=folder, engine={"max_model_len": 64})
        status, text = tiny.load_model(name)
        assert status == 200, text


def test_several_instances_without_model_json_fail_quietly(tiny, repository):
    repository.add("two-instances", config='backend: "vllm"\ninstance_group [ { count: 2 kind: KIND_MODEL } ]\n',
                   model_json=False)
    refused(tiny, "two-instances", ["model.json"])
