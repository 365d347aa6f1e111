"""Requests with pictures for bench.py: JPEG files that are made here, each another, and a client of /generate_stream.
perf_analyzer has none for that, and the machine with the GPU has Python's own library alone.

A picture's rows of blocks stand between restart markers, so that each is a piece of the file: a few rows are coded once,
and files differ in their order. Coefficients are made up: of a decoder they want what a photograph wants.
"""
import http.client
import json
import random
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from urllib.parse import urlsplit

# Pixels of a side that a row of the coded blocks covers: two blocks of brightness, one of each colour.
UNIT = 16
# Codes of one length: categories of the first coefficient in 4 bits, (zeros before, category) of others in 5.
FIRST = list(range(8))
OTHERS = [0x00] + [zeros << 4 | category for zeros in range(3) for category in range(1, 6)]
# Of a block's other coefficients: as many as a photograph of quality 80 has, about.
COEFFICIENTS = 9
# Rows that are coded.
ROWS = 16
LIMIT_S = 150


def bits_of(value):
    """Category of a coefficient, and its bits."""
    category = abs(value).bit_length()
    return category, format(value if value > 0 else value + (1 << category) - 1, f"0{category}b") if category else ""


def block(source, change):
    category, bits = bits_of(change)
    parts = [format(FIRST.index(category), "04b"), bits]
    for _ in range(source.randrange(2 * COEFFICIENTS)):
        category, bits = bits_of(source.choice((-1, 1)) * source.choice((1, 1, 1, 2, 3, 6)))
        parts += [format(OTHERS.index(source.randrange(3) << 4 | category), "05b"), bits]
    return "".join(parts) + format(OTHERS.index(0), "05b")


def row_of_units(source, units):
    """Coded bytes from one restart marker to the next."""
    bits = []
    for _ in range(units):
        bits += [block(source, source.randrange(-12, 13)) for _ in range(4)]
        bits += [block(source, source.randrange(-3, 4)) for _ in range(2)]
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")


@lru_cache
def coded_rows(side):
    source = random.Random(side)
    return [row_of_units(source, -(-side // UNIT)) for _ in range(ROWS)]


def marker(code, payload):
    return struct.pack(">BBH", 0xFF, code, len(payload) + 2) + payload


def head(side):
    def codes(kind, length, symbols):
        return bytes([kind]) + bytes(len(symbols) if n == length else 0 for n in range(1, 17)) + bytes(symbols)
    sampling = bytes([1, 0x22, 0, 2, 0x11, 0, 3, 0x11, 0])
    tables = b"".join(codes(kind, length, symbols)
                      for kind, length, symbols in ((0x00, 4, FIRST), (0x10, 5, OTHERS)))
    return b"".join([
        b"\xff\xd8", marker(0xDB, b"\x00" + bytes([8] * 64)),
        marker(0xC0, struct.pack(">BHHB", 8, side, side, 3) + sampling), marker(0xC4, tables),
        marker(0xDD, struct.pack(">H", -(-side // UNIT))), marker(0xDA, bytes([3, 1, 0, 2, 0, 3, 0, 0, 63, 0]))])


def jpeg(side, seed):
    """A file of side x side pixels, 4:2:0."""
    source = random.Random(seed)
    rows = source.choices(coded_rows(side), k=-(-side // UNIT))
    parts = [head(side)]
    for n, row in enumerate(rows):
        parts += [row, bytes([0xFF, 0xD0 + n % 8]) if n + 1 < len(rows) else b"\xff\xd9"]
    return b"".join(parts)


def ask(address, path, body):
    """One stream: when it was sent and when its events came, in nanoseconds, and these."""
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=LIMIT_S)
    try:
        sent = time.monotonic_ns()
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise OSError(f"{answer.status}: {answer.read(500).decode(errors='replace')}")
        came, events = [], []
        while line := answer.readline():
            if line.startswith(b"data:"):
                if b'"error"' in line:
                    raise OSError(line.decode(errors="replace"))
                came.append(time.monotonic_ns())
                events.append(line)
        return {"timestamp": sent, "response_timestamps": came, "events": events}
    finally:
        connection.close()


def answer_of(stream):
    """The text that came, all events together."""
    events = (json.loads(line.partition(b":")[2]) for line in stream["events"])
    return "".join(event["text_output"] for event in events)


def conversations(url, model, bodies, turns, streams):
    """Conversations of `turns` requests each, so many at the same time: a request's text is all that was said before,
    by both, and what is new. `bodies` are those of the first conversation's turns, then the next one's. Raises OSError."""
    address, path = urlsplit(url), f"/v2/models/{model}/generate_stream"

    def one(first):
        said, answers = "", []
        for body in bodies[first:first + turns]:
            said += body["text_input"]
            answers.append(ask(address, path, json.dumps({**body, "text_input": said}).encode()))
            said += answer_of(answers[-1])
        return answers

    with ThreadPoolExecutor(streams) as pool:
        conversations = pool.map(one, range(0, len(bodies), turns))
        return [answer for answers in conversations for answer in answers]


def generate_streams(url, model, bodies, streams):
    """All bodies over /generate_stream, so many at the same time. Raises OSError."""
    address, path = urlsplit(url), f"/v2/models/{model}/generate_stream"
    encoded = [json.dumps(body).encode() for body in bodies]
    with ThreadPoolExecutor(streams) as pool:
        return list(pool.map(lambda body: ask(address, path, body), encoded))
