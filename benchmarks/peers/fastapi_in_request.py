"""FastAPI with the forward pass in the request: what most people write first. Two worker processes."""

import base64
import io
import os
import sys
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image

from models.checkpoint import load

app = FastAPI()
classifier = load(Path(os.environ["CHECKPOINT"]))


def classify(encoded: bytes) -> dict[str, object]:
    image = Image.open(io.BytesIO(encoded)).convert("RGB").resize((32, 32))
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, 32, 32, 3)
    with torch.inference_mode():
        confidence, index = classifier(pixels)[0].max(dim=0)
    return {"label": classifier.card.classes[index], "confidence": confidence.item()}


@app.post("/predict")
async def predict(request: Request) -> dict[str, object]:
    if request.headers["content-type"] == "application/json":
        images = (await request.json())["images"]
        return {"predictions": [classify(base64.b64decode(image)) for image in images]}
    return classify(await request.body())


if __name__ == "__main__":
    app_path = "benchmarks.peers.fastapi_in_request:app"
    # By default uvicorn ends workers that do not answer for 5 s, as while they import torch on a busy machine.
    options = {"workers": 2, "timeout_worker_healthcheck": 60, "log_level": "warning", "access_log": False}
    uvicorn.run(app_path, port=int(sys.argv[1]), **options)
