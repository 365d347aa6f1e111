"""A bucket on loopback: the four calls of S3 with which the stock server reads a model repository."""
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
               "AWS_EC2_METADATA_DISABLED": "true"}


class Bucket:
    """`folder` as a bucket of the name `bucket`: `with Bucket(folder) as bucket: bucket.url`."""

    def __init__(self, folder):
        self.folder = Path(folder)
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                self.answer(body=False)

            def do_GET(self):
                self.answer(body=True)

            def answer(self, body):
                parts = urlsplit(self.path)
                query = parse_qs(parts.query, keep_blank_values=True)
                key = unquote(parts.path).removeprefix("/bucket").lstrip("/")
                if "list-type" in query or (not key and body):
                    data, status = bucket.listing(query).encode(), 200
                else:
                    data, status = bucket.read(key), 200
                    if data is None:
                        data, status = b"<Error><Code>NoSuchKey</Code></Error>" if body else b"", 404
                self.send_response(status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Last-Modified", formatdate(0, usegmt=True))
                self.send_header("ETag", '"1"')
                self.end_headers()
                if body:
                    self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"s3://http://127.0.0.1:{self.server.server_port}/bucket"

    def read(self, key):
        if not key:
            return b""  # HEAD of the bucket: it is there.
        path = self.folder / key
        return path.read_bytes() if path.is_file() else None

    def listing(self, query):
        """ListObjects, versions 1 and 2, in one page."""
        prefix = query.get("prefix", [""])[0]
        delimiter = query.get("delimiter", [""])[0]
        keys = sorted(str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file())
        contents, folders = [], set()
        for key in (k for k in keys if k.startswith(prefix)):
            rest = key[len(prefix):]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                contents.append(key)
        items = "".join(f"<Contents><Key>{escape(k)}</Key><LastModified>1970-01-01T00:00:00.000Z</LastModified>"
                        f"<ETag>&quot;1&quot;</ETag><Size>{(self.folder / k).stat().st_size}</Size>"
                        "<StorageClass>STANDARD</StorageClass></Contents>" for k in contents)
        items += "".join(f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in sorted(folders))
        return ('<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                f"<Name>bucket</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(contents) + len(folders)}</KeyCount>"
                f"<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{items}</ListBucketResult>")

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
