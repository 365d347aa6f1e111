"""Just enough of KServe's gRPC protocol to stream one request: messages written and read by hand.

For smoke.py on machines that have grpcio but no tritonclient. Field numbers are those of the public
grpc_service.proto (inference.GRPCInferenceService/ModelStreamInfer).
"""
import queue
import struct

import grpc

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number, payload):
    """A length-delimited field: text, bytes or a message."""
    data = payload.encode() if isinstance(payload, str) else payload
    return varint(number << 3 | 2) + varint(len(data)) + data


def input_tensor(name, datatype):
    """An input of shape [1]; its value follows in the raw contents."""
    return field(5, field(1, name) + field(2, datatype) + field(3, varint(1)))


def bytes_value(text):
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def infer_request(model, text, sampling):
    """stream = true, with the sampling parameters as JSON text."""
    return b"".join([
        field(1, model), field(3, "smoke"),
        input_tensor("text_input", "BYTES"), input_tensor("stream", "BOOL"),
        input_tensor("sampling_parameters", "BYTES"),
        field(7, bytes_value(text)), field(7, b"\1"), field(7, bytes_value(sampling))])


def fields(message):
    """(number, value) of a message; numbers for varints, bytes for the rest."""
    at = 0

    def read():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
    while at < len(message):
        key = read()
        kind = key & 7
        if kind == 0:
            yield key >> 3, read()
            continue
        size = {1: 8, 5: 4}.get(kind)
        size = read() if size is None else size
        yield key >> 3, message[at:at + size]
        at += size


def final(response):
    """Is it the request's last? Triton says so in the parameter triton_final_response (bool_param = 1)."""
    for number, value in fields(response):
        if number == 4:
            entry = dict(fields(value))
            if entry.get(1) == b"triton_final_response":
                return bool(dict(fields(entry[2])).get(1))
    return False


def texts_of(response):
    """The text_output of a ModelInferResponse."""
    names, raw = [], []
    for number, value in fields(response):
        if number == 5:
            names.append(dict(fields(value))[1])
        elif number == 6:
            raw.append(value)
    for name, data in zip(names, raw):
        if name == b"text_output" and len(data) >= 4:
            yield data[4:4 + struct.unpack("<I", data[:4])[0]].decode("utf-8", "replace")


def stream(address, model, text, sampling, timeout_s=60):
    """The texts of all responses to one request. RuntimeError with the server's words if it fails."""
    waiting = queue.SimpleQueue()
    waiting.put(infer_request(model, text, sampling))
    answers, refused = [], None
    with grpc.insecure_channel(address) as channel:
        call = channel.stream_stream(STREAM, request_serializer=bytes, response_deserializer=bytes)
        for message in call(iter(waiting.get, None), timeout=timeout_s):
            parts = dict(fields(message))
            if parts.get(1):
                # Read to the end: a stream that is cancelled may cost an older server its model.
                refused = parts[1].decode("utf-8", "replace")
                waiting.put(None)
                continue
            response = parts.get(2, b"")
            answers.extend(texts_of(response))
            if final(response):
                waiting.put(None)
    if refused is not None:
        raise RuntimeError(refused)
    return answers
