"""The `image` input under a stock server: HTTP, streams and gRPC, one image and several, in the forms that clients of the
Python backend send; what is refused is refused alone."""
import base64
import functools
import http.server
import json
import struct
import threading
import zlib

import pytest
from clients import batch, generate, generate_stream, grpc_stream, texts
from conftest import CONFIG, load
from server import ROOT

FIXTURES = ROOT / "tests" / "fixtures"
CHECKPOINT = FIXTURES / "vision" / "qwen2_5_vl"
PREFIX = "Error generating stream: "
GREEDY = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}
ANSWERED = [p for p in json.loads((CHECKPOINT / "expected.json").read_text())["prompts"] if "answer" in p]


@pytest.fixture(scope="module")
def vision(server, repository):
    engine = {"tokenizer": str(CHECKPOINT), "device": "cpu", "limit_mm_per_prompt": {"image": 4}}
    load(server, repository.add("sees", checkpoint=CHECKPOINT, engine=engine))
    load(server, repository.add("reads"))
    return server


def whole(text):
    """Without what may become a character yet: the tokens are bytes."""
    return text.rstrip("\ufffd")


def file_of(name):
    return (FIXTURES / "images" / name).read_bytes()


def encoded(names):
    return [base64.b64encode(file_of(name)).decode() for name in names]


def ask(server, text, images, model="sees"):
    body = {"text_input": text, "image": images, "exclude_input_in_output": True, "parameters": GREEDY}
    return generate(server, model, body)


@pytest.mark.parametrize("prompt", ANSWERED, ids=lambda p: f"{len(p['images'])}-{p['text'][:12]}")
def test_answers_are_those_of_transformers(vision, prompt):
    images = encoded(prompt["images"])
    status, answer = ask(vision, prompt["text"], images)
    assert (status, whole(answer["text_output"])) == (200, whole(prompt["answer"]))

    body = {"text_input": prompt["text"], "image": images, "stream": True, "parameters": GREEDY}
    status, events = generate_stream(vision, "sees", body)
    text = "".join(event["text_output"] for event in events)
    assert (status, whole(text)) == (200, whole(prompt["answer"]))

    inputs = {"text_input": prompt["text"], "stream": True, "sampling_parameters": json.dumps(GREEDY)}
    if images:
        inputs["image"] = images
    answers = grpc_stream(vision, "sees", inputs)
    parts = [text for outputs, _ in answers if outputs for text in texts(outputs)]
    assert whole("".join(parts)) == whole(prompt["answer"])


def test_one_image_may_be_a_string_and_a_uri(vision):
    prompt = next(p for p in ANSWERED if len(p["images"]) == 1)
    [image] = encoded(prompt["images"])
    folded = "\r\n".join(image[i:i + 76] for i in range(0, len(image), 76))
    for text in (image, "data:image/png;base64," + image, folded):
        status, answer = ask(vision, prompt["text"], text)
        assert (status, whole(answer["text_output"])) == (200, whole(prompt["answer"]))


def test_a_request_as_users_of_the_python_backend_write_it(vision):
    """`stream` among the parameters, as the backend's own README has it; the prompt comes back as it was sent, and its
    tokens are counted with the image's."""
    prompt = next(p for p in ANSWERED if len(p["images"]) == 1)
    [image] = encoded(prompt["images"])
    body = {"text_input": prompt["text"], "image": image, "return_num_input_tokens": True,
            "return_num_output_tokens": True, "parameters": {"stream": False, **GREEDY}}
    status, answer = generate(vision, "sees", body)
    assert (status, whole(answer["text_output"])) == (200, prompt["text"] + whole(prompt["answer"]))
    assert answer["num_input_tokens"] == len(prompt["ids"]) and answer["num_output_tokens"] == GREEDY["max_tokens"]


def test_tensors_of_a_model_that_answers_once(vision, repository):
    """/infer, which Triton has for such models alone: each string of a list is an image."""
    once = CONFIG + "model_transaction_policy { decoupled: false }\n"
    engine = {"tokenizer": str(CHECKPOINT), "device": "cpu"}
    load(vision, repository.add("once", config=once, checkpoint=CHECKPOINT, engine=engine))
    prompt = max(ANSWERED, key=lambda p: len(p["images"]))
    values = {"text_input": [prompt["text"]], "image": encoded(prompt["images"]),
              "sampling_parameters": [json.dumps(GREEDY)]}
    inputs = [{"name": name, "datatype": "BYTES", "shape": [len(data)], "data": data} for name, data in values.items()]
    inputs.append({"name": "exclude_input_in_output", "datatype": "BOOL", "shape": [1], "data": [True]})
    status, answer = vision.post("v2/models/once/infer", {"inputs": inputs})
    assert status == 200, answer
    [output] = [o for o in json.loads(answer)["outputs"] if o["name"] == "text_output"]
    assert [whole(text) for text in output["data"]] == [whole(prompt["answer"])]


def test_each_row_of_a_batch_has_its_image(vision, repository):
    rows = CONFIG + "max_batch_size: 4\n"
    engine = {"tokenizer": str(CHECKPOINT), "device": "cpu"}
    load(vision, repository.add("rows", config=rows, checkpoint=CHECKPOINT, engine=engine))
    prompts = [p for p in ANSWERED if len(p["images"]) == 1]
    assert len(prompts) > 1, "else no row could have another's image"
    images = [image for prompt in prompts for image in encoded(prompt["images"])]
    inputs = [batch("text_input", [p["text"] for p in prompts]), batch("image", images)]
    [(outputs, _)] = grpc_stream(vision, "rows", inputs, GREEDY)
    assert [whole(text) for text in texts(outputs)] == [p["text"] + whole(p["answer"]) for p in prompts]


def bomb():
    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(head)) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunk).decode()


@pytest.mark.parametrize(("images", "said"), [
    (["abc"], "Incorrect padding"),
    (["YWJjZ"], "Invalid base64-encoded string: number of data characters (5) cannot be 1 more than a multiple of 4"),
    (["bm8gaW1hZ2U="], "cannot identify image file"),
    ([base64.b64encode(file_of("png_2_8.png")[:60]).decode()], "image file is truncated or damaged"),
    ([bomb()], "Image size (3600000000 pixels) exceeds limit of 89478485 pixels, could be decompression bomb"),
    (["https://example.org/cat.png"], "images are not fetched"),
    (encoded(["size_13x7.png"] * 2), "Failed to apply prompt replacement for mm_items['image'][1]"),
    (encoded(["size_13x7.png"] * 5), "At most 4 image(s) may be provided in one prompt."),
], ids=lambda value: value[:12] if isinstance(value, str) else "")
def test_what_is_refused(vision, images, said):
    status, answer = ask(vision, "<|image_pad|>", images)
    assert status == 400 and answer["error"].startswith(PREFIX + said), answer
    inputs = {"text_input": "<|image_pad|>", "stream": True, "sampling_parameters": json.dumps(GREEDY),
              "image": images}
    [error] = grpc_stream(vision, "sees", inputs)
    assert error.startswith(PREFIX + said), error

    good = ANSWERED[1]
    status, answer = ask(vision, good["text"], encoded(good["images"]))
    assert (status, whole(answer["text_output"])) == (200, whole(good["answer"])), "the next one is not disturbed"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def files():
    """Files of tests/fixtures/images over HTTP: where."""
    handler = functools.partial(Quiet, directory=FIXTURES / "images")
    host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{host.server_port}"
    host.shutdown()


def test_urls_of_hosts_that_are_named(vision, repository, files):
    engine = {"tokenizer": str(CHECKPOINT), "device": "cpu", "allowed_media_domains": ["127.0.0.1"]}
    load(vision, repository.add("fetches", checkpoint=CHECKPOINT, engine=engine))
    prompt = next(p for p in ANSWERED if len(p["images"]) > 1)
    urls = [f"{files}/{name}" for name in prompt["images"]]
    status, answer = ask(vision, prompt["text"], urls, model="fetches")
    assert (status, whole(answer["text_output"])) == (200, whole(prompt["answer"]))

    for url, said in [(f"{files}/none.png", "image: 127.0.0.1 answers with status 404."),
                      (files.replace("127.0.0.1", "localhost"), "image: nothing is fetched from 'localhost'"),
                      ("http://169.254.169.254/latest", "image: nothing is fetched from '169.254.169.254'")]:
        status, answer = ask(vision, "<|image_pad|>", [url], model="fetches")
        assert status == 400 and answer["error"].startswith(PREFIX + said), answer


def test_a_model_of_text_alone(vision):
    status, answer = ask(vision, "hi", encoded(["size_13x7.png"]), model="reads")
    assert (status, answer) == (400, {"error": PREFIX + "input 'image': model reads takes text only"})
