"""LitServe as its README has it: decode, predict, encode, one request at a time. Takes base64 in JSON."""

import base64
import io
import os
import sys
from pathlib import Path

import litserve
import torch
from PIL import Image

from models.checkpoint import load


def pixels_of(encoded: str) -> torch.Tensor:
    image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB").resize((32, 32))
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(32, 32, 3)


class ClassifierAPI(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.classifier = load(Path(os.environ["CHECKPOINT"])).to(device)

    def decode_request(self, request: dict[str, list[str]]) -> torch.Tensor:
        return torch.stack([pixels_of(image) for image in request["images"]])

    def predict(self, pixels: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self.classifier(pixels)

    def encode_response(self, probabilities: torch.Tensor) -> dict[str, object]:
        confidences, indices = probabilities.max(dim=1)
        answers = zip(confidences.tolist(), indices.tolist(), strict=True)
        classes = self.classifier.card.classes
        return {"predictions": [{"label": classes[index], "confidence": confidence} for confidence, index in answers]}


def serve(api: ClassifierAPI, http_processes: int = 1) -> None:
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(port=int(sys.argv[1]), num_api_servers=http_processes, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    serve(ClassifierAPI())
