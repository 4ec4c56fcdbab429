"""Triton through PyTriton: its server takes requests and batches them, this process decodes and classifies."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from models.checkpoint import load

classifier = load(Path(os.environ["CHECKPOINT"]))
labels = np.array([name.encode() for name in classifier.card.classes], dtype=object)


def pixels_of(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB").resize((32, 32)))


@batch
def classify(image: np.ndarray) -> dict[str, np.ndarray]:
    pixels = np.stack([pixels_of(encoded) for encoded in image[:, 0]])
    with torch.inference_mode():
        confidence, index = classifier(torch.from_numpy(pixels)).max(dim=1, keepdim=True)
    return {"label": labels[index.numpy()], "confidence": confidence.numpy()}


if __name__ == "__main__":
    http_port, grpc_port, metrics_port = map(int, sys.argv[1:])
    config = TritonConfig(http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port)
    with Triton(config=config) as triton:
        triton.bind(
            model_name="cifar",
            infer_func=classify,
            inputs=[Tensor(name="image", dtype=bytes, shape=(1,))],
            outputs=[
                Tensor(name="label", dtype=bytes, shape=(1,)),
                Tensor(name="confidence", dtype=np.float32, shape=(1,)),
            ],
            config=ModelConfig(max_batch_size=256),
        )
        triton.serve()
