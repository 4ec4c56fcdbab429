"""LitServe as its README has it: decode, predict, encode, one request at a time. Takes base64 in JSON."""

import base64
import io
import sys

import litserve
import torch
from PIL import Image

from models.card import TUTORIAL_NET
from models.checkpoint import load


class ClassifierAPI(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.classifier = load(TUTORIAL_NET).to(device)

    def decode_request(self, request: dict[str, str]) -> torch.Tensor:
        image = Image.open(io.BytesIO(base64.b64decode(request["image"]))).convert("RGB").resize((32, 32))
        return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(32, 32, 3)

    def predict(self, pixels: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            batch = pixels if pixels.dim() == 4 else pixels[None]
            return self.classifier(batch)

    def encode_response(self, probabilities: torch.Tensor) -> dict[str, object]:
        confidence, index = probabilities.view(-1, 10)[0].max(dim=0)
        return {"label": self.classifier.card.classes[index], "confidence": confidence.item()}


def serve(api: ClassifierAPI, http_processes: int = 1) -> None:
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(port=int(sys.argv[1]), num_api_servers=http_processes, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    serve(ClassifierAPI())
