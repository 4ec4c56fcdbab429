"""MLServer's runtime: an inference request, or several batched into one, in; their answers out."""

import io
import os
from pathlib import Path

import numpy as np
import torch
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from PIL import Image

from models.checkpoint import load


def pixels_of(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB").resize((32, 32)))


class Cifar(MLModel):
    async def load(self) -> bool:
        self.classifier = load(Path(os.environ["CHECKPOINT"]))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = self.decode(payload.inputs[0], default_codec=Base64Codec)
        with torch.inference_mode():
            pixels = np.stack([pixels_of(image) for image in images])
            confidences, indices = self.classifier(torch.from_numpy(pixels)).max(dim=1)
        labels = [self.classifier.card.classes[index] for index in indices]
        outputs = [
            StringCodec.encode_output("label", labels),
            NumpyCodec.encode_output("confidence", confidences.numpy()),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)
