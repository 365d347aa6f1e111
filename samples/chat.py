#!/usr/bin/env python3
"""A chat with a model behind /generate_stream. Needs `pip install jinja2`.

    samples/chat.py --model smol --template ~/SmolLM2-135M-Instruct

The server continues texts and knows no roles: the client turns the messages into one text with the template that came
with the checkpoint (chat_template.jinja, or `chat_template` in tokenizer_config.json). /exit or Ctrl-D ends it.
"""
import argparse
import json
import sys
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Template:
    """The chat template of a checkpoint's folder."""

    def __init__(self, folder):
        self.config = json.loads((folder / "tokenizer_config.json").read_text())
        file = folder / "chat_template.jinja"
        text = file.read_text() if file.exists() else self.config.get("chat_template")
        if isinstance(text, list):  # Several, by name.
            text = next((t["template"] for t in text if t["name"] == "default"), None)
        if not text:
            sys.exit(f"{folder} has no chat template: it is not a model for chats")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = self.refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self.template = environment.from_string(text)

    def refuse(self, text):
        raise TemplateError(text)

    def token(self, name):
        value = self.config.get(name) or ""
        return value["content"] if isinstance(value, dict) else value

    def text(self, messages):
        """The prompt. Without the mark of its beginning, which the server's tokenizer adds by itself."""
        begin = self.token("bos_token")
        text = self.template.render(messages=messages, add_generation_prompt=True, bos_token=begin,
                                    eos_token=self.token("eos_token"))
        return text[len(begin):] if begin and text.startswith(begin) else text


def stream(url, prompt, parameters):
    """Pieces of the answer as they come."""
    body = {"text_input": prompt, "stream": True, "exclude_input_in_output": True, "parameters": parameters}
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        for line in answer:
            if line.startswith(b"data:"):
                event = json.loads(line[5:])
                if "error" in event:
                    raise RuntimeError(event["error"])
                yield event["text_output"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://localhost:8000", help="the server (default: %(default)s)")
    parser.add_argument("--model", default="vllm_model", help="its name at the server (default: %(default)s)")
    parser.add_argument("--template", type=Path, required=True, metavar="FOLDER", help="the checkpoint's folder")
    parser.add_argument("--system", help="a system message")
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--temperature", type=float, default=0.7)
    args = parser.parse_args()
    template = Template(args.template)
    parameters = {"max_tokens": args.max_tokens, "temperature": args.temperature}
    messages = [{"role": "system", "content": args.system}] if args.system else []
    while True:
        print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line or line.strip() == "/exit":
            return
        messages.append({"role": "user", "content": line.strip()})
        pieces = []
        try:
            for piece in stream(f"{args.url}/v2/models/{args.model}/generate_stream", template.text(messages), parameters):
                pieces.append(piece)
                print(piece, end="", flush=True)
        except urllib.error.HTTPError as refused:
            sys.exit(f"{refused.code}: {refused.read().decode()}")
        except (urllib.error.URLError, RuntimeError, TemplateError) as error:
            sys.exit(f"{args.url}: {error}")
        print()
        messages.append({"role": "assistant", "content": "".join(pieces)})


if __name__ == "__main__":
    main()
