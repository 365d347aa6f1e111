"""Case 1: a token id that the tokenizer knows and the model's embedding table lacks is refused for its request alone."""
import json
import shutil
import threading

import pytest
from clients import PROMPT, batch, generate, grpc_stream, texts
from conftest import CONFIG, MODELS, load

PREFIX = "Error generating stream: "
# Beyond the 4096 rows of the tables, whatever the keys say.
ADDED = {"4090": {"content": "<|im_end|>", "special": True}, "4091": {"content": "<tool_call>", "special": False}}
CALL = "please call <tool_call> now"
OUT = PREFIX + "Token id 4097 is out of vocabulary"
GEMMA = {
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "attention_bias": False, "hidden_size": 64,
    "intermediate_size": 96, "head_dim": 32, "num_attention_heads": 4, "num_key_value_heads": 1, "num_hidden_layers": 6,
    "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 512, "query_pre_attn_scalar": 32,
    "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000, "rope_theta": 1000000, "sliding_window": 64,
    "sliding_window_pattern": 6, "torch_dtype": "float32", "vocab_size": 4096, "bos_token_id": 1, "eos_token_id": [2, 106],
}


def merged(folder, model, added, config=None):
    """A copy of a small model whose tokenizer has further tokens."""
    shutil.copytree(MODELS / model, folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.setdefault("added_tokens_decoder", {}).update(added)
    path.write_text(json.dumps(settings))
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return merged(tmp_path_factory.mktemp("models") / "llama", "llama-tiny", ADDED)


@pytest.fixture(scope="module")
def added(server, repository, folder):
    load(server, repository.add("added", checkpoint=folder))
    return server


class Quiet:
    """A stream beside, whose text must be the one that it has alone."""
    BODY = {"text_input": "Once upon a time", "stream": True,
            "sampling_parameters": json.dumps({"temperature": 0, "max_tokens": 200, "ignore_eos": True})}

    def __init__(self, server, model):
        self.server, self.model, self.text = server, model, None
        self.alone = self.run()

    def run(self):
        answers = grpc_stream(self.server, self.model, self.BODY)
        assert not any(isinstance(answer, str) for answer in answers), answers
        return "".join(texts(outputs)[0] for outputs, _ in answers)

    def __enter__(self):
        self.thread = threading.Thread(target=lambda: setattr(self, "text", self.run()))
        self.thread.start()

    def __exit__(self, *_):
        self.thread.join(60)
        assert self.text == self.alone


def ask(server, model, text=CALL, **parameters):
    status, answer = generate(server, model, {"text_input": text, "parameters": {"max_tokens": 4, **parameters}})
    return status, answer.get("error", answer.get("text_output"))


def test_added_tokens(added):
    warned = [line for line in added.log_since().splitlines() if "the tokenizer's ids go up to 4097" in line]
    assert len(warned) == 1
    with Quiet(added, "added"):
        for _ in range(3):
            assert ask(added, "added") == (400, OUT)
            assert ask(added, "added", repetition_penalty=1.2, presence_penalty=1.0) == (400, OUT)
            assert grpc_stream(added, "added", {"text_input": CALL}) == [OUT]
        status, text = ask(added, "added", "<|im_end|>")
        assert (status, text) == (400, OUT.replace("4097", "4096"))
    assert ask(added, "added", "Hello")[0] == 200


@pytest.mark.parametrize("parameters", [
    {"bad_words": ["<tool_call>", "now <tool_call>"]}, {"stop_token_ids": [4097, 2**31]}, {"stop": ["<tool_call>"]},
    {"structured_outputs": {"grammar": 'start: "a" | <tool_call>'}}, {"structured_outputs": {"choice": ["<tool_call>"]}},
    {"logit_bias": {"4097": 5}}, {"allowed_token_ids": [4097]}, {"logprob_token_ids": [4097], "logprobs": 1},
    {"min_tokens": 2, "stop_token_ids": [4096, 4097], "ignore_eos": True},
], ids=lambda p: "-".join(p))
def test_other_ids_of_a_client(added, parameters):
    """Each is served or refused, and nobody else notices."""
    body = {"text_input": PROMPT, "sampling_parameters": json.dumps({"max_tokens": 4, "seed": 1, **parameters})}
    status, answer = generate(added, "added", body)
    assert status in (200, 400), answer
    if status == 400:
        assert answer["error"].startswith(PREFIX), answer
    assert ask(added, "added", "Hello")[0] == 200


def test_a_row_of_a_batch_decides(server, repository, folder):
    load(server, repository.add("added-rows", config=CONFIG + "max_batch_size: 4\n", checkpoint=folder))
    assert grpc_stream(server, "added-rows", [batch("text_input", ["Hello", CALL])]) == [OUT]
    (outputs, final), = grpc_stream(server, "added-rows", [batch("text_input", ["Hello", "Hi"])])
    assert final and len(texts(outputs)) == 2


def test_an_image_token(server, repository, tmp_path):
    """The shape of Gemma 3 1B as published, made small: its tokenizer has one token more than its table rows."""
    token = {"4096": {"content": "<image_soft_token>", "special": True}}
    folder = merged(tmp_path / "gemma", "llama-tiny", token, GEMMA)
    load(server, repository.add("gemma", checkpoint=folder, engine={"load_format": "dummy"}))
    with Quiet(server, "gemma"):
        answer = ask(server, "gemma", "Describe <image_soft_token> please")
        assert answer == (400, PREFIX + "Token id 4096 is out of vocabulary")
    assert ask(server, "gemma", "Describe it please")[0] == 200


def test_texts_to_embed(server, repository, tmp_path):
    folder = merged(tmp_path / "qwen", "qwen2-tiny", ADDED)
    engine = {"runner": "pooling", "convert": "embed"}
    load(server, repository.add("vectors", checkpoint=folder, engine=engine))

    def embed(value):
        body = {"text_input": "", "embedding_request": json.dumps({"input": value})}
        return generate(server, "vectors", body)
    status, answer = embed("<tool_call>")
    assert status == 400 and answer["error"].startswith(PREFIX + "Token id "), answer
    assert answer["error"].endswith(" is out of vocabulary")
    assert embed([1, 4096])[0] == 400
    assert embed("Hello")[0] == 200
