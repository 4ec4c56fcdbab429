"""Lines for machines parse; lines for people are plain; all say the same."""

import json
import logging
import os
import sys

import pytest

from server import logs


def test_a_json_line_has_the_fields_and_the_exception_and_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info")
    try:
        raise ValueError("of two\nlines")
    except ValueError:
        logging.getLogger("server").exception("it %s", "failed", extra=logs.fields(request_id="r1", images=None))
    (line,) = capsys.readouterr().err.splitlines()
    document = json.loads(line)
    assert (document["message"], document["level"], document["request_id"]) == ("it failed", "error", "r1")
    assert "ValueError: of two\nlines" in document["exception"]
    assert document["time"].endswith("Z")
    assert "images" not in document


def test_a_name_in_bytes_that_are_not_utf_8_costs_no_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info")
    logging.getLogger("server").info("no picture: %s", os.fsdecode(b"caf\xe9.jpg"))
    assert json.loads(capsys.readouterr().err)["message"] == "no picture: caf\udce9.jpg"


def test_a_plain_line_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("plain", "info")
    logging.getLogger("server").info("answered", extra=logs.fields(request_id="r1", status=200))
    assert capsys.readouterr().err.endswith("INFO answered request_id=r1 status=200\n")


@pytest.mark.parametrize(("terminal", "starts_with"), [(True, "2"), (False, "{")])
def test_auto_is_plain_on_a_terminal_and_json_elsewhere(
    terminal: bool, starts_with: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    logs.configure("auto", "info")
    logging.getLogger("server").info("hello")
    assert capsys.readouterr().err.startswith(starts_with)


def test_the_libraries_log_through_us_and_only_what_matters(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("litserve", "uvicorn.error"):
        logging.getLogger(name).addHandler(logging.StreamHandler(sys.stdout))
    logs.configure("json", "info")
    for name in ("litserve", "uvicorn.error"):
        logging.getLogger(name).info("chatter")
        logging.getLogger(name).warning("news")
    output = capsys.readouterr()
    assert [json.loads(line)["message"] for line in output.err.splitlines()] == ["news", "news"]
    assert not output.out


def test_a_level_hides_what_is_below(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("plain", "error")
    logging.getLogger("server").warning("not this")
    logging.getLogger("litserve").warning("nor this")
    assert not capsys.readouterr().err


def test_a_trace_id_is_taken_from_a_traceparent_of_the_known_form_only() -> None:
    assert logs.trace_id(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01") == (
        "0af7651916cd43dd8448eb211c80319c"
    )
    for header in (None, b"", b"00-xyz-b7ad6b7169203331-01", b"00-0af7651916cd43dd8448eb211c80319c-1-01\n"):
        assert logs.trace_id(header) is None
