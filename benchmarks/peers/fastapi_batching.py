"""FastAPI with micro-batching in the process: waiting images share a forward pass. Two worker processes."""

import asyncio
import base64
import contextlib
import io
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image

from models.checkpoint import load

classifier = load(Path(os.environ["CHECKPOINT"]))
waiting: asyncio.Queue[tuple[torch.Tensor, asyncio.Future[torch.Tensor]]] = asyncio.Queue()


async def run_batches() -> None:
    while True:
        batch = [await waiting.get()]
        while len(batch) < 64 and not waiting.empty():
            batch.append(waiting.get_nowait())
        with torch.inference_mode():
            rows = classifier(torch.stack([pixels for pixels, _ in batch]))
        for (_, answer), row in zip(batch, rows, strict=True):
            answer.set_result(row)


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    task = asyncio.create_task(run_batches())
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)


async def classify(encoded: bytes) -> dict[str, object]:
    image = Image.open(io.BytesIO(encoded)).convert("RGB").resize((32, 32))
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(32, 32, 3)
    answer: asyncio.Future[torch.Tensor] = asyncio.get_running_loop().create_future()
    waiting.put_nowait((pixels, answer))
    confidence, index = (await answer).max(dim=0)
    return {"label": classifier.card.classes[index], "confidence": confidence.item()}


@app.post("/predict")
async def predict(request: Request) -> dict[str, object]:
    if request.headers["content-type"] == "application/json":
        images = [base64.b64decode(image) for image in (await request.json())["images"]]
        return {"predictions": await asyncio.gather(*map(classify, images))}
    return await classify(await request.body())


if __name__ == "__main__":
    app_path = "benchmarks.peers.fastapi_batching:app"
    # By default uvicorn ends workers that do not answer for 5 s, as while they import torch on a busy machine.
    options = {"workers": 2, "timeout_worker_healthcheck": 60, "log_level": "warning", "access_log": False}
    uvicorn.run(app_path, port=int(sys.argv[1]), **options)
