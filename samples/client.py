#!/usr/bin/env python3
"""Sends the prompts of a text file over one gRPC stream and writes the answers down. Needs `pip install tritonclient[grpc]`.

The same options as NVIDIA's sample of that name, so that either may be used with either backend.
"""
import argparse
import asyncio
import json
import sys

import grpc
import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

SAMPLING = {"temperature": 0.1, "top_p": 0.95, "max_tokens": 100}


def tensor(name, value, kind):
    made = triton.InferInput(name, [1], kind)
    made.set_data_from_numpy(np.array([value], dtype=np.bool_ if kind == "BOOL" else np.object_))
    return made


def request(args, number, prompt):
    """Inputs of the model `vllm` as a tensor each. Sampling parameters travel as one JSON text."""
    inputs = [tensor("text_input", prompt.encode(), "BYTES"),
              tensor("stream", args.streaming_mode, "BOOL"),
              tensor("exclude_input_in_output", args.exclude_inputs_in_outputs or args.streaming_mode, "BOOL"),
              tensor("sampling_parameters", json.dumps(args.sampling).encode(), "BYTES")]
    return {"model_name": args.model, "inputs": inputs, "request_id": str(number),
            "outputs": [triton.InferRequestedOutput("text_output")]}


async def run(args):
    """{request id: pieces of its answer}. All requests go out at once; their answers come mixed."""
    with open(args.input_prompts) as file:
        prompts = [line.rstrip("\n") for line in file]
    answers = {}

    async def requests():
        for number, prompt in enumerate(prompts * args.iterations, args.offset):
            answers[str(number)] = []
            yield request(args, number, prompt)

    failed = 0
    async with triton.InferenceServerClient(args.url, verbose=args.verbose) as client:
        async for result, error in client.stream_infer(requests(), stream_timeout=args.stream_timeout):
            if error:
                failed += 1
                print(f"a request failed: {error}", file=sys.stderr)
                continue
            texts = result.as_numpy("text_output")
            answers[result.get_response().id] += [t.decode() for t in texts]
    return answers, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="vllm_model", help="default: %(default)s")
    parser.add_argument("-u", "--url", default="localhost:8001", help="host and gRPC port (default: %(default)s)")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every request and the results")
    parser.add_argument("-t", "--stream-timeout", type=float, metavar="SECONDS", help="for the whole stream")
    parser.add_argument("-s", "--streaming-mode", action="store_true", help="a response per token instead of per prompt")
    parser.add_argument("--input-prompts", default="prompts.txt", metavar="FILE", help="a prompt per line")
    parser.add_argument("--results-file", default="results.txt", metavar="FILE", help="default: %(default)s")
    parser.add_argument("--iterations", type=int, default=1, help="how often all prompts are sent (default: 1)")
    parser.add_argument("--offset", type=int, default=0, help="number of the first request (default: 0)")
    parser.add_argument("--exclude-inputs-in-outputs", action="store_true", help="answers without their prompts")
    parser.add_argument("--sampling", type=json.loads, default=SAMPLING, metavar="JSON",
                        help=f"sampling parameters (default: {json.dumps(SAMPLING)})")
    args = parser.parse_args()
    try:
        answers, failed = asyncio.run(run(args))
    except InferenceServerException as error:
        sys.exit(f"{args.url}: {error}")
    except grpc.RpcError as error:
        sys.exit(f"{args.url}: {error.code().name}: {error.details()}")
    with open(args.results_file, "w") as file:
        for pieces in answers.values():
            file.write("".join(pieces) + "\n\n=========\n\n")
    print(f"{len(answers) - failed} of {len(answers)} answers are in {args.results_file}")
    if args.verbose:
        print(open(args.results_file).read())
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
