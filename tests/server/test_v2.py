"""However a message of the Open Inference Protocol is broken, it is refused in words."""

import json
import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.card import ModelCard
from server.errors import BadRequest, ServiceError
from server.v2 import read_request

CARD = ModelCard()
PIXELS = np.zeros((2, 32, 32, 3), np.uint8).tobytes()
HEAD: dict[str, Any] = {
    "id": "7",
    "inputs": [
        {
            "name": "pixels",
            "datatype": "UINT8",
            "shape": [2, 32, 32, 3],
            "parameters": {"binary_data_size": len(PIXELS)},
        }
    ],
    "outputs": [{"name": "probabilities", "parameters": {"binary_data": True, "classification": 2}}],
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def broken_heads(draw: st.DrawFn) -> bytes:
    """The message with one of its values replaced by another."""
    head = json.loads(json.dumps(HEAD))
    place: Any = head
    while True:
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or draw(st.booleans()):
            place[key] = draw(json_values)
            return json.dumps(head).encode()
        place = place[key]


@settings(max_examples=500, deadline=None)
@given(head=broken_heads() | st.binary(max_size=50), tail=st.sampled_from([PIXELS, b"", b"\x00" * 7]))
def test_a_broken_message_is_refused_and_nothing_worse(head: bytes, tail: bytes) -> None:
    statuses = []
    try:
        assert len(read_request(head + tail, str(len(head)), CARD, max_images=10).images) == 2
    except ServiceError as refusal:
        statuses.append(int(refusal.status))
    assert statuses in ([], [400], [413])


@pytest.mark.parametrize("length", ["", "-1", "9999", "1.0", "²", "9" * 5000])
def test_a_length_that_is_none_is_refused(length: str) -> None:
    with pytest.raises(ServiceError, match="is not a length within the body"):
        read_request(json.dumps(HEAD).encode(), length, CARD, max_images=10)


@pytest.mark.parametrize("data", [b"\x01", b"\xff\xff\xff\xff1234", b"\x02\x00\x00\x00a"])
def test_elements_that_are_cut_off_are_refused(data: bytes) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(ServiceError, match="each after its length"):
        read_request(head + data, str(len(head)), CARD, max_images=10)


@pytest.mark.parametrize(
    ("shape", "status"),
    [([11], 413), ([1, 11], 413), ([11, 1], 413), ([0], 400), ([1, 0], 400), ([], 400), ([1] * 5, 400)],
)
def test_images_are_counted_however_they_are_laid_out(shape: list[int], status: int) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": shape, "data": ["QQ=="] * math.prod(shape)}
    with pytest.raises(ServiceError) as refusal:
        read_request(json.dumps({"inputs": [tensor]}).encode(), None, CARD, max_images=10)
    assert refusal.value.status == status


def test_pictures_as_base64_may_be_nested_as_their_shape_is() -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2, 1], "data": [["QQ=="], ["Qg=="]]}
    assert read_request(json.dumps({"inputs": [tensor]}).encode(), None, CARD, max_images=10).images == [b"A", b"B"]


def test_more_numbers_than_the_images_have_are_refused_before_they_are_parsed() -> None:
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [2, 32, 32, 3], "data": [0] * 2 * 32 * 32 * 3}
    body = json.dumps({"inputs": [tensor]}).encode()
    assert len(read_request(body, None, CARD, max_images=2).images) == 2
    with pytest.raises(ServiceError, match="more values than 1 images need") as refusal:
        read_request(body[:-1], None, CARD, max_images=1)  # which would not parse
    assert (refusal.value.status, refusal.value.code) == (413, "too_many_images")


def test_a_shape_without_end_is_refused_before_it_is_multiplied() -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2**63 - 1] * 400_000, "data": []}
    body = json.dumps({"inputs": [tensor]}).encode()
    start = time.perf_counter()
    with pytest.raises(ServiceError, match="1 to 4 whole numbers") as refusal:
        read_request(body, None, CARD, max_images=1000)
    assert time.perf_counter() - start < 5, "their product takes minutes"
    assert len(refusal.value.detail) < 200


@pytest.mark.parametrize(
    "tensor",
    [
        {"name": "image", "datatype": "BYTES", "shape": "DEEP", "data": []},
        {"name": "\x7f" * 10**6, "datatype": "BYTES", "shape": [1], "data": []},
    ],
)
def test_what_a_request_says_is_not_said_back_without_end(tensor: dict[str, Any]) -> None:
    body = json.dumps({"inputs": [tensor]}).replace('"DEEP"', "[" * 990 + "]" * 990).encode()
    with pytest.raises(BadRequest) as refusal:
        read_request(body, None, CARD, max_images=10)
    assert len(refusal.value.detail) < 1100


def test_elements_beyond_those_of_the_shape_are_not_gone_through() -> None:
    data = bytes(4 * 10**6)  # a million of length 0
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(BadRequest, match="image has more elements, but 1 by its shape"):
        read_request(head + data, str(len(head)), CARD, max_images=10)


def test_an_output_that_is_asked_for_twice_is_refused() -> None:
    head = json.dumps(HEAD | {"outputs": HEAD["outputs"] * 2}).encode()
    with pytest.raises(ServiceError, match="asked for once"):
        read_request(head + PIXELS, str(len(head)), CARD, max_images=10)
