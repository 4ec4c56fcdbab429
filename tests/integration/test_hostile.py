"""Requests made to hurt: each gets the 4xx that it deserves, while others are served by the same worker as before."""

import itertools
import json
import select
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from tests.integration.load import Load, address, answer_to, post
from tests.integration.running import RunningService, processes, worker_of
from tests.pictures import draw_shape, encode

PICTURE = encode(draw_shape("circle", 1, (32, 32)), "JPEG")
BOMB = encode(Image.new("RGB", (8000, 8000)), "WEBP", lossless=True, method=0)  # 34 bytes, as many pixels as are taken
JSON = b"Content-Type: application/json"
FILE = b'Content-Disposition: form-data; name="files"; filename="a.jpg"'
BAD, NOT_FOUND = (400, "bad_request"), (404, "not_found")
TOO_LARGE, TOO_MANY, CORRUPT = (413, "too_many_pixels"), (413, "too_many_images"), (422, "corrupt_image")


@pytest.fixture(scope="module", autouse=True)
def unharmed(service: RunningService) -> Iterator[None]:
    """Others ask meanwhile."""
    worker = worker_of(service)
    with Load(service.url, PICTURE, connections=4, due_a_second=200).running() as load:
        yield
    assert (set(load.statuses), load.errors) == ({200}, [])
    assert worker_of(service) == worker
    assert "Traceback" not in service.log.read_text()


def gif(screen: int, frame: int) -> bytes:
    head = struct.pack("<HHBBB6x", screen, screen, 0x80, 0, 0) + b"," + struct.pack("<HHHHB", 0, 0, frame, frame, 0)
    return b"GIF89a" + head + b"\x02\x02\x4c\x01\x00;"


def tiff(side: int, tile: int | None = None) -> bytes:
    """A TIFF that claims `side` pixels a side, in one deflated strip or tile, which holds only 100 bytes."""
    pixels = zlib.compress(bytes(100))
    place = {322: tile, 323: tile, 324: 8, 325: len(pixels)} if tile else {273: 8, 278: side, 279: len(pixels)}
    tags = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1, **place}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


def bmp(side: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(9)


def jpeg(side: int, scans: int = 0) -> bytes:
    """Its header says `side`, whatever it holds; with `scans`, that many after the first, all of them empty."""
    whole = encode(draw_shape("circle", 1), "JPEG", progressive=bool(scans))
    size = whole.find(b"\xff\xc2" if scans else b"\xff\xc0") + 5
    last = whole.rfind(b"\xff\xda")
    empty_scan = whole[last : last + 2 + whole[last + 3]] + b"\0"
    return whole[:size] + struct.pack(">HH", side, side) + whole[size + 4 : last] + empty_scan * scans + whole[last:]


def webp(canvas: int) -> bytes:
    """An animation whose canvas is larger than its frames."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    whole = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    size = whole.find(b"VP8X") + 12
    return whole[:size] + struct.pack("<I", canvas - 1)[:3] * 2 + whole[size + 6 :]


def code_of(answer: bytes) -> str:
    document: dict[str, Any] = json.loads(answer)
    return str((document if "code" in document else document["predictions"][0]["error"])["code"])


@pytest.mark.parametrize(
    ("picture", "refusal"),
    [
        pytest.param(encode(Image.new("1", (8001, 8000))), TOO_LARGE, id="a real PNG just over the limit"),
        pytest.param(
            encode(Image.new("RGB", (8100, 8000)), "WEBP", lossless=True, method=0), TOO_LARGE, id="34 bytes of WebP"
        ),
        pytest.param(webp(16_384), TOO_LARGE, id="WebP canvas"),
        pytest.param(webp(2**24), CORRUPT, id="WebP canvas past its format"),
        pytest.param(gif(65_535, 1), TOO_LARGE, id="GIF screen"),
        pytest.param(gif(1, 60_000), TOO_LARGE, id="GIF frame larger than its screen"),
        pytest.param(tiff(40_000), TOO_LARGE, id="TIFF"),
        pytest.param(tiff(2**31 - 1), TOO_LARGE, id="TIFF of 2^62 pixels"),
        pytest.param(tiff(8000), CORRUPT, id="TIFF with less than it says"),
        pytest.param(tiff(32, tile=40_000), TOO_LARGE, id="TIFF tile larger than its picture"),
        pytest.param(bmp(40_000), TOO_LARGE, id="BMP"),
        pytest.param(b"P6 40000 40000 255\n" + bytes(100), TOO_LARGE, id="PPM"),
        pytest.param(b"P6 " + b"9" * 5000 + b" 1 255\n", CORRUPT, id="PPM with a huge number"),
        pytest.param(jpeg(65_535), TOO_LARGE, id="JPEG"),
        pytest.param(jpeg(8000, scans=600), CORRUPT, id="JPEG of many scans over many pixels"),
        pytest.param(jpeg(32, scans=600), CORRUPT, id="JPEG of many scans of the size that the network takes"),
    ],
)
def test_a_pixel_bomb_is_refused(service: RunningService, picture: bytes, refusal: tuple[int, str]) -> None:
    status, media_type, answer = answer_to(service.url, post(picture))
    assert (status, media_type, code_of(answer)) == (refusal[0], "application/problem+json", refusal[1])


def test_a_large_picture_in_few_bytes_holds_nobody_up(service: RunningService) -> None:
    assert len(BOMB) < 100
    with socket.create_connection(address(service.url), timeout=60) as slow:
        slow.sendall(post(BOMB) * 3)
        assert answer_to(service.url, post(PICTURE))[0] == 200
        answered = slow.recv(2**20, socket.MSG_DONTWAIT) if select.select([slow], [], [], 0)[0] else b""
        assert answered.count(b"200 OK") < 3, "they came first, and yet the other one is answered before the last"


def multipart(*parts: tuple[bytes, bytes], charset: bytes = b"utf-8", boundary: bytes = b"x") -> bytes:
    body = b"".join(b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, head, content) for head, content in parts)
    content_type = b"Content-Type: multipart/form-data; charset=%b; boundary=%b" % (charset, boundary)
    return post(body + b"--%b--\r\n" % boundary, content_type)


NESTED = b"--y\r\n" + FILE + b"\r\n\r\n" + PICTURE + b"\r\n--y--"
FORMS = {
    "an empty part": (multipart((FILE, b"")), 200, "empty"),
    "5,000 files": (multipart(*[(FILE, b"")] * 5000), *TOO_MANY),
    "5,000 fields": (multipart(*[(b'Content-Disposition: form-data; name="a"', b"")] * 5000), *TOO_MANY),
    "a field of 2 MB": (multipart((b'Content-Disposition: form-data; name="a"', bytes(2**21))), *BAD),
    "multipart in a field": (
        multipart((b"Content-Disposition: form-data; name=a\r\nContent-Type: multipart/mixed; boundary=y", NESTED)),
        400,
        "no_images",
    ),
    "multipart in a file": (
        multipart((FILE + b"\r\nContent-Type: multipart/mixed; boundary=y", NESTED)),
        200,
        "not_an_image",
    ),
    "a header that is no token": (multipart((FILE + b"\r\nX-\xff: \xff", PICTURE)), *BAD),
    "a header of 1 MB": (multipart((b"X-A: " + b"a" * 2**20, PICTURE)), *BAD),
    "20,000 headers": (multipart((FILE + b"\r\nX-A: b" * 20_000, PICTURE)), *BAD),
    "a name in no charset": (multipart((b"Content-Disposition: form-data; name*=nonsense''%ff%00", PICTURE)), *BAD),
    "no name": (multipart((b"Content-Disposition: form-data", PICTURE)), *BAD),
    "no disposition": (multipart((b"X-A: b", PICTURE)), *BAD),
    "charset punycode": (multipart((FILE, PICTURE), charset=b"punycode"), *BAD),
    "charset undefined": (multipart((FILE, PICTURE), charset=b"undefined"), *BAD),
    "a boundary of 60 KB": (
        post(b"-" * 100_000, b"Content-Type: multipart/form-data; boundary=" + b"a" * 60_000),
        *BAD,
    ),
    "cut off": (multipart((FILE, PICTURE)).replace(b"--x--", b"     "), 400, "no_images"),
}
DOCUMENTS = {
    "arrays 10,000 deep": (b'{"images": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", *BAD),
    "objects 10,000 deep": (b'{"images":' * 10_000 + b"1" + b"}" * 10_000, *BAD),
    "a million brackets": (b"[" * 10**6, *BAD),
    "a million lists": (b'{"images": [' + b"[]," * 10**6 + b"[]]}", *TOO_MANY),
    "a number of 100,000 digits": (b'{"images": ' + b"9" * 100_000 + b"}", *BAD),
    "1e999999": (b'{"images": [1e999999]}', *BAD),
    "NaN": (b'{"images": [NaN]}', *BAD),
    "half a surrogate": (b'{"images": ["\\ud800"]}', *BAD),
    "not UTF-8": (b'{"images": ["\xff"]}', *BAD),
    "UTF-16": ('{"images": ["QQ=="]}'.encode("utf-16"), *BAD),
    "an address": (b'{"images": ["http://169.254.169.254/latest/meta-data"]}', 200, "not_base64"),
    "a NUL": (b'{"images": ["\\u0000"]}', 200, "not_base64"),
    "letters beyond ASCII": ('{"images": ["é"]}'.encode(), 200, "not_base64"),
    "padding alone": (b'{"images": ["===="]}', 200, "not_base64"),
    "a megabyte of garbage": (json.dumps({"images": ["%" * 2**20]}).encode(), 200, "not_base64"),
    "the same member twice": (b'{"images": ["QQ=="], "images": 1}', *BAD),
}
HEADS = {
    "a NUL in the path": (post(b"", line=b"GET /a\0b HTTP/1.1"), *BAD),
    "an escape in the path": (post(b"", line=b"GET /\x1b[31m HTTP/1.1"), *BAD),
    "an escaped NUL in the path": (post(b"", line=b"GET /a%00%ff%zz HTTP/1.1"), *NOT_FOUND),
    "a route's own pattern": (post(b"", line=b"GET /v2/models/%7Bname%7D HTTP/1.1"), 404, "unknown_model"),
    "a pattern of files": (post(b"", line=b"GET /static/%7Bname%7D HTTP/1.1"), *NOT_FOUND),
    "an escaped NUL in a name": (
        post(b"", line=b"POST /v2/repository/models/%00%ff/load HTTP/1.1"),
        404,
        "unknown_model",
    ),
    "a path beyond ASCII": (post(b"", line=b"GET /\xff HTTP/1.1"), *BAD),
    "a request line of 100 KB": (post(b"", line=b"GET /" + b"a" * 100_000 + b" HTTP/1.1"), *BAD),
    "a header of 1 MB": (post(PICTURE, b"X-A: " + b"a" * 2**20), *BAD),
    "two lengths": (post(PICTURE, b"Content-Length: 5"), *BAD),
    "a negative length": (post(PICTURE, length=-5), *BAD),
    "a length past 2^64": (post(PICTURE, length=10**30), *BAD),
    "a length of 9e18": (post(PICTURE, length=9 * 10**18), 413, "body_too_large"),
    "a length and chunks": (post(b"0\r\n\r\n", b"Transfer-Encoding: chunked"), *BAD),
    "a type beyond ASCII": (post(PICTURE, b"Content-Type: \xff\xfe"), 415, "unsupported_media_type"),
    "a compressed body": (post(PICTURE, b"Content-Encoding: gzip"), 415, "unsupported_media_type"),
    "two types": (post(PICTURE, JSON, b"Content-Type: image/jpeg"), *BAD),
    "a folded header": (post(PICTURE, b"X-A: b\r\n c"), *BAD),
    "no colon": (post(PICTURE, b"nonsense"), *BAD),
    "a NUL in a header": (post(PICTURE, b"X-A: a\0b"), *BAD),
    "no such method": (post(b"", line=b"BREW / HTTP/1.1"), *BAD),
    "a tunnel": (post(b"", line=b"CONNECT example.org:443 HTTP/1.1"), *BAD),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", *BAD),
    "TLS": (bytes.fromhex("16030100c8010000c40303") + bytes(190), *BAD),
    "a WebSocket": (post(b"", b"Connection: Upgrade", b"Upgrade: websocket", line=b"GET /socket HTTP/1.1"), *NOT_FOUND),
}


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        *(pytest.param(*case, id=name) for name, case in FORMS.items()),
        *(pytest.param(post(body, JSON), status, code, id=name) for name, (body, status, code) in DOCUMENTS.items()),
        *(pytest.param(*case, id=name) for name, case in HEADS.items()),
    ],
)
def test_a_hostile_request_gets_its_refusal(
    service: RunningService, request_bytes: bytes, status: int, code: str
) -> None:
    answered, media_type, answer = answer_to(service.url, request_bytes)
    assert (answered, code_of(answer)) == (status, code)
    of_a_protocol = b" /v2/" in request_bytes.partition(b"\r\n")[0]
    assert media_type == ("application/json" if status == 200 or of_a_protocol else "application/problem+json")
    assert status == 200 or {"detail", "request_id", "status", "title", "type"} < set(json.loads(answer))


ABSURD = [
    [b"X-Request-ID: \xff\xfe", b"X-A: \xff", b"Authorization: \xff", b"traceparent: \xff"],
    [b"Host: y", b"X-Request-ID: a", b"X-Request-ID: b", b"Range: bytes=9-1", b"Accept: nonsense"],
    [b"X-%d: 1" % number for number in range(2000)],
    [b"Cookie: " + b"a=b;" * 10_000],
    [
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
    ],  # Java, curl
]


@pytest.mark.parametrize("headers", ABSURD, ids=itertools.count())
def test_headers_that_mean_nothing_to_us_change_nothing(service: RunningService, headers: list[bytes]) -> None:
    status, _, answer = answer_to(service.url, post(PICTURE, *headers))
    assert (status, "label" in json.loads(answer)) == (200, True)


def test_a_name_in_any_bytes_is_only_a_name(service: RunningService) -> None:
    names = (b"\xff\xfe", b"a\0b", b"../../etc/passwd", b"a" * 2000)
    parts = [(b'Content-Disposition: form-data; name="%b"; filename="%b"' % (name, name), PICTURE) for name in names]
    status, _, answer = answer_to(service.url, multipart(*parts))
    assert (status, answer.count(b'"label":"') >= len(names)) == (200, True)


def test_it_listens_where_it_was_told_and_calls_nobody(service: RunningService) -> None:
    """Not even where a request names an address, as those above did."""
    port = address(service.url)[1]
    for pid in processes(service):
        for connection in psutil.Process(pid).net_connections("inet"):
            assert connection.laddr.port == port, "either it listens there, or somebody has called it there"


def test_only_its_own_user_can_reach_its_workers(service: RunningService) -> None:
    sockets = [psutil.Process(pid).net_connections("unix") for pid in processes(service)]
    paths = {Path(str(each.laddr)) for each in itertools.chain(*sockets) if Path(str(each.laddr)).is_socket()}
    assert any(path.name == "worker-0.sock" for path in paths)
    assert {path.parent.stat().st_mode & 0o777 for path in paths} == {0o700}
