"""TorchServe's handler: a batch of requests in, a list of answers out."""

import base64
import io
from pathlib import Path

import torch
from PIL import Image
from ts.torch_handler.base_handler import BaseHandler

from models.checkpoint import load


def pixels_of(encoded):
    image = Image.open(io.BytesIO(encoded)).convert("RGB").resize((32, 32))
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(32, 32, 3)


class Handler(BaseHandler):
    def initialize(self, context):
        folder = Path(context.system_properties["model_dir"])
        self.classifier = load(folder / context.manifest["model"]["serializedFile"])
        self.initialized = True

    def preprocess(self, data):
        bodies = [row.get("body") for row in data]
        self.many = [isinstance(body, dict) for body in bodies]
        images = [
            [base64.b64decode(i) for i in body["images"]] if many else [body]
            for body, many in zip(bodies, self.many, strict=True)
        ]
        self.sizes = [len(of_one) for of_one in images]
        return torch.stack([pixels_of(image) for of_one in images for image in of_one])

    def inference(self, pixels):
        with torch.inference_mode():
            return self.classifier(pixels)

    def postprocess(self, probabilities):
        answers = []
        for many, rows in zip(self.many, probabilities.split(self.sizes), strict=True):
            confidences, indices = rows.max(dim=1)
            predictions = [
                {"label": self.classifier.card.classes[index], "confidence": confidence}
                for confidence, index in zip(confidences.tolist(), indices.tolist(), strict=True)
            ]
            answers.append({"predictions": predictions} if many else predictions[0])
        return answers
