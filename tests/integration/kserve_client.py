# /// script
# dependencies = ["kserve==0.21.0", "pillow"]
# ///
"""KServe's own Python client asks a service that runs, in both of its protocols and every form of their messages.

    uv run tests/integration/kserve_client.py http://127.0.0.1:8000

No part of the tests: kserve wants a psutil of 2023 beside it, and a Kubernetes client, gRPC and pandas.
"""

import asyncio
import base64
import io
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput
from PIL import Image

MODEL = "cifar_net"
SHIP = (Path(__file__).parents[2] / "docs" / "ship.png").read_bytes()
PIXELS = np.asarray(Image.open(io.BytesIO(SHIP)).convert("RGB").resize((32, 32)))[None]
AS_BYTES = {"binary_data": True}


def tensor(kind: str, binary: bool) -> Any:
    if kind == "BYTES":
        values, name = np.array([SHIP if binary else base64.b64encode(SHIP)], object), "image"
    else:
        values, name = PIXELS.astype({"UINT8": np.uint8, "FP32": np.float32}[kind]), "pixels"
    made = InferInput(name, list(values.shape), kind)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


async def ask_by_version_2(url: str) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await client.is_server_live(url)
    assert await client.is_server_ready(url)
    assert await client.is_model_ready(url, MODEL)
    assert not await client.is_model_ready(url, "other")
    for kind, binary, binary_answer in product(("BYTES", "UINT8", "FP32"), (False, True), (False, True)):
        outputs = [RequestedOutput(name, AS_BYTES if binary_answer else None) for name in ("probabilities", "label")]
        asked = InferRequest(MODEL, [tensor(kind, binary)], request_id="mine", request_outputs=outputs)
        answer = await client.infer(url, asked, model_name=MODEL)
        probabilities, label = (output.as_numpy() for output in answer.outputs)
        assert (answer.id, label.tolist(), probabilities.shape) == ("mine", ["ship"], (1, 10)), (kind, binary)
        assert probabilities.argmax() == 8
    unknown = client.infer(url, InferRequest("other", [tensor("UINT8", True)]), model_name="other")
    refusals = await asyncio.gather(unknown, return_exceptions=True)
    assert "no model is called 'other'" in str(refusals), refusals


async def ask_by_version_1(url: str) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v1"))
    assert await client.is_model_ready(url, MODEL)
    instances = [{"b64": base64.b64encode(SHIP).decode()}] * 2
    answer = await client.infer(url, {"instances": instances}, model_name=MODEL)
    assert [each["label"] for each in answer["predictions"]] == ["ship", "ship"]


if __name__ == "__main__":
    asyncio.run(ask_by_version_2(sys.argv[1]))
    asyncio.run(ask_by_version_1(sys.argv[1]))
    print("KServe's client is answered")
