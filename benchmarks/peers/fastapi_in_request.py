"""FastAPI with the forward pass in the request: what most people write first. Two worker processes."""

import io
import sys

import torch
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image

from models.card import TUTORIAL_NET
from models.checkpoint import load

app = FastAPI()
torch.set_num_threads(1)
classifier = load(TUTORIAL_NET)


@app.post("/predict")
async def predict(request: Request) -> dict[str, object]:
    image = Image.open(io.BytesIO(await request.body())).convert("RGB").resize((32, 32))
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, 32, 32, 3)
    with torch.inference_mode():
        confidence, index = classifier(pixels)[0].max(dim=0)
    return {"label": classifier.card.classes[index], "confidence": confidence.item()}


if __name__ == "__main__":
    uvicorn.run(
        "benchmarks.peers.fastapi_in_request:app",
        port=int(sys.argv[1]),
        workers=2,
        log_level="warning",
        access_log=False,
        timeout_worker_healthcheck=3600,  # it would replace workers that the benchmark has stopped for a while
    )
