"""A hub on loopback that has one repository, for tests of downloads. A test says who may ask and what is there."""
import contextlib
import hashlib
import http.server
import json
import threading

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandInHub(http.server.BaseHTTPRequestHandler):
    """A subclass has `asked` of its own, the list of paths that were asked for."""
    asked: list
    repo: str
    folder = None
    # Names that the repository lists beside the folder's files.
    listed_too = ()

    def refusal(self):
        """The status of a request that is refused, else None."""
        return None

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        self.asked.append(self.path)
        refusal = self.refusal()
        if refusal is not None:
            return self.answer(refusal)
        if self.path == f"/api/models/{self.repo}/revision/main":
            names = [f.name for f in self.folder.iterdir()] + list(self.listed_too)
            return self.answer(200, json.dumps({"sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}).encode())
        data = (self.folder / self.path.removeprefix(f"/{self.repo}/resolve/{COMMIT}/")).read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        etag = hashlib.sha256(data).hexdigest() if self.path.endswith(".safetensors") else git
        return self.answer(200, data, ETag=f'"{etag}"')

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(hub):
    """The address of a hub of this class, while it serves."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
