"""Ray Serve with its own batching: replicas that decode and classify behind its proxy."""

import asyncio
import base64
import io
import os
from pathlib import Path

import torch
from PIL import Image
from ray import serve
from starlette.requests import Request

from models.checkpoint import load


# Not in a method: where one uses `torch` and `.classes`, Ray takes this for torch.classes, which it cannot pickle.
def load_with_labels() -> tuple[torch.nn.Module, tuple[str, ...]]:
    classifier = load(Path(os.environ["CHECKPOINT"]))
    return classifier, classifier.card.classes


def pixels_of(encoded: bytes) -> torch.Tensor:
    image = Image.open(io.BytesIO(encoded)).convert("RGB").resize((32, 32))
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(32, 32, 3)


@serve.deployment(num_replicas=2, max_ongoing_requests=1000, ray_actor_options={"num_cpus": 1})
class Classifier:
    def __init__(self) -> None:
        self.classifier, self.labels = load_with_labels()

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)
    async def classify(self, images: list[bytes]) -> list[dict[str, object]]:
        with torch.inference_mode():
            confidences, indices = self.classifier(torch.stack([pixels_of(image) for image in images])).max(dim=1)
        answers = zip(confidences.tolist(), indices.tolist(), strict=True)
        return [{"label": self.labels[index], "confidence": confidence} for confidence, index in answers]

    async def __call__(self, request: Request) -> dict[str, object]:
        if request.headers["content-type"] == "application/json":
            images = [base64.b64decode(image) for image in (await request.json())["images"]]
            return {"predictions": await asyncio.gather(*map(self.classify, images))}
        return await self.classify(await request.body())
