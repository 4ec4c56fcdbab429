# /// script
# dependencies = ["mlserver==1.7.1", "httpx"]
# ///
"""MLServer's own codecs and types make requests to a service that runs, and read its answers.

    uv run tests/integration/mlserver_client.py http://127.0.0.1:8000

No part of the tests: mlserver wants a fastapi of 2025 beside it.
"""

import sys
from pathlib import Path

import httpx
import numpy as np
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse, MetadataModelResponse, MetadataServerResponse

MODEL = "/v2/models/cifar_net"
SHIP = (Path(__file__).parents[2] / "docs" / "ship.png").read_bytes()
BLACK = np.zeros((2, 32, 32, 3))

if __name__ == "__main__":
    with httpx.Client(base_url=sys.argv[1]) as client:
        MetadataServerResponse.model_validate_json(client.get("/v2").content)
        MetadataModelResponse.model_validate_json(client.get(MODEL).content)
        for tensor, first in (
            (Base64Codec.encode_input("image", [SHIP, SHIP]), "ship"),
            (Base64Codec.encode_input("image", [SHIP, SHIP], use_bytes=False), "ship"),
            (NumpyCodec.encode_input("pixels", BLACK.astype(np.uint8)), None),
            (NumpyCodec.encode_input("pixels", BLACK.astype(np.float32)), None),
        ):
            asked = InferenceRequest(id="mine", inputs=[tensor]).model_dump_json(exclude_none=True)
            reply = client.post(f"{MODEL}/infer", content=asked, headers={"Content-Type": "application/json"})
            answer = InferenceResponse.model_validate_json(reply.raise_for_status().content)
            probabilities, label, class_id = answer.outputs
            labels, best = StringCodec.decode_output(label), NumpyCodec.decode_output(class_id)
            assert NumpyCodec.decode_output(probabilities).argmax(axis=1).tolist() == best.tolist()
            assert (answer.id, len(labels)) == ("mine", 2)
            assert first is None or labels == [first] * 2
    print("MLServer's requests are answered")
