"""BentoML with its adaptive batching."""

import os
from pathlib import Path

import bentoml
import numpy as np
import torch
from PIL.Image import Image

from models.checkpoint import load


@bentoml.service(workers=2, traffic={"timeout": 60}, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Cifar:
    def __init__(self) -> None:
        self.classifier = load(Path(os.environ["CHECKPOINT"]))

    @bentoml.api(batchable=True, max_batch_size=256, max_latency_ms=10_000)
    def predict(self, images: list[Image]) -> list[dict[str, object]]:
        pixels = np.stack([np.asarray(image.convert("RGB").resize((32, 32))) for image in images])
        with torch.inference_mode():
            confidences, indices = self.classifier(torch.from_numpy(pixels)).max(dim=1)
        answers = zip(confidences.tolist(), indices.tolist(), strict=True)
        classes = self.classifier.card.classes
        return [{"label": classes[index], "confidence": confidence} for confidence, index in answers]
