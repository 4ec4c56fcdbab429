"""Out-of-distribution detection: does the service notice pictures of other things? Three scores, and the drift figures.

    CIFAR_DATA=data PHOTOS=photos python -m benchmarks.out_of_depth [CHECKPOINT.pth ...]

AUROC is the probability that a picture of other things scores as more uncertain than a test image: 0.5 is guessing.
PHOTOS is a folder of JPEG photographs of other things; of each, its centre square and nine smaller ones are classified.
"""

import argparse
import io
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import mannwhitneyu

from benchmarks.images import cifar10_folder
from models.card import CONFIDENCE_BOUNDS, STRONG, TUTORIAL_NET, ModelCard
from models.checkpoint import load
from models.classifier import Classifier
from models.pixels import Pixels, decode

SIZE = 32
_DRAWN = 1000  # pictures of noise, and of one colour

# float32 [N, C] logits divided by the temperature → float32 [N], higher for the less certain.
SCORES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "confidence": lambda logits: -logits.softmax(dim=1).amax(dim=1),
    "entropy": lambda logits: torch.special.entr(logits.softmax(dim=1)).sum(dim=1),
    "energy": lambda logits: -logits.logsumexp(dim=1),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.out_of_depth", description="Pictures of other things.")
    shipped = [TUTORIAL_NET, STRONG]
    parser.add_argument("checkpoints", nargs="*", type=Path, default=shipped, help="default: those of the package")
    options = parser.parse_args(argv)
    files = sorted((cifar10_folder() / "test").glob("*/*"))
    photos = sorted(Path(os.environ["PHOTOS"]).glob("*.jpg")) if "PHOTOS" in os.environ else []
    if "PHOTOS" in os.environ and not photos:
        print(f"benchmarks.out_of_depth: no *.jpg in PHOTOS={os.environ['PHOTOS']}", file=sys.stderr)
        return 1
    test = np.stack([decode(path.read_bytes(), SIZE) for path in files])
    others = draw_others(test)
    if photos:
        others = {f"{len(photos)} photographs": np.stack([crop for path in photos for crop in crops(path)]), **others}
    for path in options.checkpoints:
        compare(path, test, [file.parent.name for file in files], others, len(photos))
    return 0


def crops(path: Path) -> Iterator[Pixels]:
    """Yields uint8 [32, 32, 3]: the photograph as the service sees it, and nine squares with half its shorter side."""
    yield decode(path.read_bytes(), SIZE)
    with Image.open(path) as photo:
        side = min(photo.size) // 2
        for row in range(3):
            for column in range(3):
                left, top = (photo.width - side) * column // 2, (photo.height - side) * row // 2
                buffer = io.BytesIO()
                photo.crop((left, top, left + side, top + side)).save(buffer, "PNG")
                yield decode(buffer.getvalue(), SIZE)


def draw_others(test: Pixels) -> dict[str, Pixels]:
    """Pictures of nothing, and test images as another camera might take them."""
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 256, (_DRAWN, 1, 1, 3), dtype=np.uint8)
    return {
        "noise": generator.integers(0, 256, (_DRAWN, SIZE, SIZE, 3), dtype=np.uint8),
        "one colour": np.broadcast_to(colours, (_DRAWN, SIZE, SIZE, 3)),
        "test, a quarter as bright": test[generator.permutation(len(test))[:_DRAWN]] // 4,
    }


def compare(path: Path, test: Pixels, labels: Sequence[str], others: dict[str, Pixels], photos: int) -> None:
    """Print the table of one checkpoint."""
    classifier = load(path)
    card, known = classifier.card, logits_of(classifier, test)
    true = torch.tensor([card.classes.index(label) for label in labels])
    right = known.argmax(dim=1) == true
    below = "no threshold" if card.uncertain_below is None else f"uncertain below {card.uncertain_below:.2%} confidence"
    print(f"{path.stem} ({card.version}): {float(right.double().mean()):.2%} of {len(test):,} test images, {below}")
    print(f"{'AUROC':38}{''.join(f'{name:>16}' for name in SCORES)}  marked  drift of confidence, of classes")
    print_row("test, wrong against right", known[~right], known[right], card)
    rows = {name: logits_of(classifier, pixels) for name, pixels in others.items()}
    rows |= {"test, half of the classes": known[true % 2 == 0], "test, every tenth": known[::10], "test": known}
    for name, logits in rows.items():
        drift = f"{confidence_distance(logits, known):21.3f}{class_distance(logits, known):12.3f}"
        print_row(name, logits, known, card, photos if "photo" in name else 0, drift)


def print_row(
    name: str, outside: torch.Tensor, inside: torch.Tensor, card: ModelCard, photos: int = 0, drift: str = ""
) -> None:
    cells = ""
    for score in SCORES.values():
        # Crops of one photograph are not independent: the 95 % interval is over photographs.
        parts = [auroc(part, score(inside)) for part in score(outside).chunk(photos or 1)]
        spread = f" ± {1.96 * statistics.stdev(parts) / photos**0.5:.3f}" if photos else ""
        cells += f"{f'{statistics.mean(parts):.3f}{spread}':>16}"
    confidence, below = outside.softmax(dim=1).amax(dim=1), card.uncertain_below
    marked = "–" if below is None else f"{float((confidence < below).double().mean()):.1%}"
    print(f"{f'{name}, n = {len(outside):,}':38}{cells}{marked:>8}{drift}")


def auroc(outside: torch.Tensor, inside: torch.Tensor) -> float:
    pairs = len(outside) * len(inside)
    return float(mannwhitneyu(outside.numpy(), inside.numpy()).statistic) / pairs


# Both are 0 to 1, and computed as by the queries in docs/uncertainty.md.
def confidence_distance(seen: torch.Tensor, expected: torch.Tensor) -> float:
    """The Kolmogorov-Smirnov distance, at the histogram's bounds."""
    bounds = torch.tensor(CONFIDENCE_BOUNDS)
    shares = [
        (logits.softmax(dim=1).amax(dim=1)[:, None] <= bounds).double().mean(dim=0) for logits in (seen, expected)
    ]
    return float((shares[0] - shares[1]).abs().max())


def class_distance(seen: torch.Tensor, expected: torch.Tensor) -> float:
    """The part of the predictions that is in excess of what is expected of their classes (total variation)."""
    shares = [
        torch.bincount(logits.argmax(dim=1), minlength=logits.shape[1]) / len(logits) for logits in (seen, expected)
    ]
    return float((shares[0] - shares[1]).clamp(min=0).sum())


def logits_of(classifier: Classifier, pixels: Pixels) -> torch.Tensor:
    """uint8 [N, 32, 32, 3] → float32 [N, C], divided by the card's temperature."""
    with torch.inference_mode():
        parts = [classifier.logits(part) for part in torch.split(torch.tensor(pixels), 500)]
    return torch.cat(parts) / classifier.card.temperature


if __name__ == "__main__":
    sys.exit(main())
