"""A real HTTP server that speaks the service's contract and fails on demand, as the real one cannot be made to.

An image's class is the red value of its first pixel, so that tests can say what they expect of each image.
"""

import base64
import io
import json
import ssl
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image, UnidentifiedImageError


def png(red: int) -> bytes:
    """An image that FakeService takes for class number `red`."""
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1), (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class Reply:
    status: int
    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


class Drop:
    """A reply: close the connection without a word."""


class Silence:
    """A reply: none, until the test is over."""


def problem(status: int, code: str, detail: str = "because", **headers: str) -> Reply:
    body = {"type": "about:blank", "title": "Title", "status": status, "code": code, "detail": detail}
    content = json.dumps({**body, "request_id": "r-1"}).encode()
    return Reply(status, content, "application/problem+json", {k.replace("_", "-"): v for k, v in headers.items()})


@dataclass
class Asked:
    """One request as it came."""

    headers: dict[str, str]
    body: bytes
    top_k: int
    connection: tuple[str, int]

    @property
    def images(self) -> list[bytes]:
        if self.headers["content-type"] == "application/json":
            return [base64.b64decode(text) for text in json.loads(self.body)["images"]]
        return [self.body]


class FakeService:
    """Answers at `url`; `script` holds replies to give before the true ones, `before` runs before each true one."""

    def __init__(self) -> None:
        self.classes = ["circle", "square", *(f"class{number}" for number in range(2, 256))]
        self.mistakes: dict[int, int] = {}  # what a class is taken for
        self.versions = deque(["0123456789ab"])  # used in turn
        self.script: deque[Reply | Drop | Silence] = deque()
        self.before: Callable[[Asked], None] = lambda asked: None
        self.max_body_bytes = 25 * 2**20
        self.max_images = 1024
        self.files: dict[str, bytes] = {}  # what GET finds
        self.asked: list[Asked] = []
        self.over = threading.Event()
        self._first_came = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.fake = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def start(self) -> None:
        self._thread.start()

    def encrypt(self, context: ssl.SSLContext) -> None:
        """From now on it speaks TLS."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def stop(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wait_until_asked(self) -> None:
        assert self._first_came.wait(10)

    def answer(self, asked: Asked) -> Reply | Drop | Silence:
        self.asked.append(asked)
        self._first_came.set()
        if self.script:
            return self.script.popleft()
        if len(asked.body) > self.max_body_bytes:
            return problem(413, "body_too_large")
        if len(asked.images) > self.max_images:
            return problem(413, "too_many_images")
        self.before(asked)
        self.versions.rotate(-1)
        items = [self._item(image, asked.top_k) for image in asked.images]
        model = {"name": "cifar_net", "version": self.versions[-1]}
        if asked.headers["content-type"] == "application/json":
            return Reply(200, json.dumps({"predictions": items, "model": model}).encode())
        if "error" in items[0]:
            return problem(422, **items[0]["error"])
        return Reply(200, json.dumps({**items[0], "model": model}).encode())

    def _item(self, image: bytes, top_k: int) -> dict[str, Any]:
        try:
            with Image.open(io.BytesIO(image)) as picture:
                best = picture.convert("RGB").tobytes()[0]
        except UnidentifiedImageError:
            return {"error": {"code": "not_an_image", "detail": "not an image"}}
        best = self.mistakes.get(best, best)
        ids = [best, *(number for number in range(len(self.classes)) if number != best)][:top_k]
        rest = 0.1 / (len(self.classes) - 1)
        top = [
            {"label": self.classes[number], "class_id": number, "probability": 0.9 if number == best else rest}
            for number in ids
        ]
        return {"label": self.classes[best], "class_id": best, "confidence": 0.9, "top": top}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    fake: FakeService

    def handle_error(self, *_: object) -> None:
        """A client that has hung up is no error here."""
        if not isinstance(sys.exception(), ConnectionError):
            raise


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:  # the client has hung up
            return
        query = parse_qs(urlsplit(self.path).query)
        asked = Asked(
            {k.lower(): v for k, v in self.headers.items()}, body, int(query["top_k"][0]), self.client_address
        )
        reply = self.server.fake.answer(asked)
        if isinstance(reply, Silence):
            self.server.fake.over.wait()
        if isinstance(reply, Reply):
            self._send(reply)
        else:
            self.close_connection = True

    def do_GET(self) -> None:
        content = self.server.fake.files.get(self.path)
        self._send(Reply(404, b"") if content is None else Reply(200, content))

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""
