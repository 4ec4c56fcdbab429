"""FastAPI with micro-batching in the process: waiting requests share a forward pass. Two worker processes."""

import asyncio
import contextlib
import io
import sys
from collections.abc import AsyncIterator

import torch
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image

from models.card import TUTORIAL_NET
from models.checkpoint import load

torch.set_num_threads(1)
classifier = load(TUTORIAL_NET)
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


@app.post("/predict")
async def predict(request: Request) -> dict[str, object]:
    image = Image.open(io.BytesIO(await request.body())).convert("RGB").resize((32, 32))
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(32, 32, 3)
    answer: asyncio.Future[torch.Tensor] = asyncio.get_running_loop().create_future()
    waiting.put_nowait((pixels, answer))
    confidence, index = (await answer).max(dim=0)
    return {"label": classifier.card.classes[index], "confidence": confidence.item()}


if __name__ == "__main__":
    uvicorn.run(
        "benchmarks.peers.fastapi_batching:app",
        port=int(sys.argv[1]),
        workers=2,
        log_level="warning",
        access_log=False,
        timeout_worker_healthcheck=3600,  # it would replace workers that the benchmark has stopped for a while
    )
