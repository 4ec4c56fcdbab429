"""What comes after a training: the checkpoint is written, perhaps promoted, and a word said on what to do with it."""

import shlex
from pathlib import Path

from models.card import ModelCard
from models.checkpoint import card_path, save, write_atomically
from models.classifier import Classifier
from training.data import Data
from training.distributed import say
from training.errors import TrainingError
from training.options import Options, held_out_path
from training.promotion import promote
from training.resume import signals_put_off


def hand_over(classifier: Classifier, card: ModelCard, data: Data, options: Options) -> None:
    """Promotes what was written where that was asked for, else says what to do with it. Raises TrainingError."""
    if options.promote:
        say(f"Saved {options.output} and {card_path(options.output)}")
        say(promote(options.promote, classifier, card, data, options.if_better))
    else:
        _print_next_steps(options.data, options.output, data)


def write_checkpoint(output: Path, classifier: Classifier, card: ModelCard, data: Data) -> ModelCard:
    """The checkpoint, its card, and which images were held out where we chose them; the card. Raises TrainingError."""
    try:
        with signals_put_off():
            card = save(output, classifier.net, card)
            if data.split_here:
                listing = "".join(f"{name}\n" for name in data.test_files)
                write_atomically({held_out_path(output): listing.encode(errors="surrogateescape")})
            else:
                held_out_path(output).unlink(missing_ok=True)  # another run's, which held out other images
    except OSError as error:
        raise TrainingError(
            f"{output} cannot be written ({error.strerror}): make room, and go on with --resume"
        ) from None
    return card


def _print_next_steps(source: str, output: Path, data: Data) -> None:
    say(f"Saved {output} and {card_path(output)}. Now serve it, and in another terminal ask it and score it:")
    checkpoint = "" if output == Path("cifar_net.pth") else f" --checkpoint {shlex.quote(str(output))}"
    image = Path(source) / data.test_files[0] if data.test_files else "cat.jpg"
    held_out = f" --files {shlex.quote(str(held_out_path(output)))}" if data.split_here else ""
    say(f"  cifar-serve{checkpoint}")
    say(f"  curl --data-binary {shlex.quote(f'@{image}')} localhost:8000/predict")
    say(f"  cifar-evaluate --data {shlex.quote(source)}{held_out}")
