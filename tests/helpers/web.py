"""A web server on this machine that serves a folder, with or without byte ranges, and counts what it sends."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread


class Web(ThreadingHTTPServer):
    """Attributes: url, without a slash behind it; sent, the bytes of all files sent so far."""

    ranges = True
    sent = 0
    requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(SimpleHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return super().do_GET()
        self.server.requests += 1
        body, wanted = path.read_bytes(), self.headers.get("Range")
        if wanted and self.server.ranges:
            begin, _, end = wanted.removeprefix("bytes=").partition("-")
            body = body[int(begin) : int(end) + 1]
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.server.sent += len(body)
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def serve(folder: Path) -> Iterator[Web]:
    """Serves a folder for the length of the block."""
    with Web(("127.0.0.1", 0), partial(_Handler, directory=str(folder))) as web:
        Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield web
        finally:
            web.shutdown()
