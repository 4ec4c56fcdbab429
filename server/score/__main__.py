"""cifar-score: classifies all images below a folder, however many, into one Parquet file.

$ cifar-score photos --output predictions.parquet
"""

import argparse
import importlib.util
import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NoReturn

from models.card import SHIPPED, find_checkpoint

_LABELS = 5  # the most frequent ones, which the last line counts


def main(argv: Sequence[str] | None = None) -> int:
    """0 if every image is in the output, 1 and a sentence on stderr if not, 2 for wrong arguments, 130 after Ctrl-C."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what the terminal cannot show
    arguments = _parser().parse_args(argv)
    if not all(importlib.util.find_spec(module) for module in ("litserve", "pyarrow")):
        print(
            "cifar-score: packages are missing: pip install '.[server,score]' in the folder of this repository",
            file=sys.stderr,
        )
        return 1
    from models.checkpoint import CheckpointError
    from server.score.images import ScoreError

    code = 1
    try:
        print(_score(arguments))
        return 0
    except KeyboardInterrupt:
        code, sentence = 130, "interrupted; the same command continues from here"
    except (CheckpointError, ScoreError) as error:
        sentence = str(error)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        sentence = f"{error.filename or arguments.output}: {reason}"  # a full disk has no name
    print(f"cifar-score: {sentence}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> _Parser:
    parser = _Parser(
        "cifar-score",
        description="Classify all images below a folder into a Parquet file: path, label, class_id, confidence and "
        "probabilities, or the error. If it was stopped, the same command continues from there.",
    )
    own = Path("cifar_net.pth")
    shipped = f"a file, or one that ships: {' or '.join(SHIPPED)}"
    checkpoint = f"{shipped} (default: {own} if it exists, else {SHIPPED[0]})"
    ray = "address of a Ray cluster to run on; all its nodes must see DIR (default: RAY_ADDRESS, else no cluster)"
    add, shown = parser.add_argument, "(default: %(default)s)"
    add("folder", metavar="DIR", type=os.path.abspath, help="folder with images at any depth")
    add("--output", type=_file, metavar="FILE", default="predictions.parquet", help=f"where to write {shown}")
    add("--overwrite", action="store_true", help="replace an output of another model, or of images that have changed")
    add("--checkpoint", type=Path, metavar="FILE", default=own if own.exists() else SHIPPED[0], help=checkpoint)
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help=f"where the network runs {shown}")
    add("--workers", type=_positive, metavar="N", help="processes (default: one per core, or 4 per GPU)")
    add("--ray", metavar="ADDRESS", default=os.environ.get("RAY_ADDRESS"), help=ray)
    return parser


def _file(text: str) -> Path:
    if os.path.isdir(text or "."):
        raise argparse.ArgumentTypeError(f"a file is needed, not the folder {text or '.'!r}")
    return Path(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"a whole number of 1 or more is needed, not {text!r}")
    return int(text)


def _score(arguments: argparse.Namespace) -> str:
    """Makes the output; returns the sentence to end with. Raises CheckpointError, OSError or ScoreError."""
    from models.checkpoint import read
    from server.score.images import ScoreError, describe, list_images
    from server.score.parts import Parts
    from server.score.workers import score_in_processes, score_on_ray

    started, root, path = time.monotonic(), arguments.folder, find_checkpoint(arguments.checkpoint)
    images = sum(1 for _ in list_images(root))
    if not images:
        raise ScoreError(f"there are no images in {root}")
    weights, card = read(path)
    parts = Parts(arguments.output, root, describe(path.stem, card), arguments.overwrite)
    with parts.locked(), _progress(images) as advance:
        if parts.output_is_complete():
            return f"{arguments.output} is complete already, for the same model and images"
        work = (root, path, weights, card), arguments.device, arguments.workers
        missing, scored = parts.missing(advance), 0
        results = score_on_ray(arguments.ray, *work, missing) if arguments.ray else score_in_processes(*work, missing)
        with closing(results):
            for part in results:
                parts.add(part)
                scored += part["images"]
                advance(part["images"])
        labels = parts.merge()
    seconds, errors = time.monotonic() - started, labels.pop(None, 0)
    before = f", {images - scored:,} of them scored before" if scored < images else ""
    most = ", ".join(f"{label} {count:,}" for label, count in labels.most_common(_LABELS)) or "none"
    return (
        f"{arguments.output}: {images:,} images{before}, {errors:,} with an error, in {seconds:.1f} s "
        f"({scored / seconds:,.0f} a second) by {path.stem} {card.version}; most are {most}"
    )


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, if that is a terminal. Gives a function to call with how many more images are done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console, rate = Console(stderr=True), TextColumn("images, {task.fields[rate]:,.0f}/s,")
    columns = BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(), TextColumn("left")
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, rate=0)
        yield lambda count: bar.update(task, advance=count, rate=bar.tasks[0].speed or 0)


if __name__ == "__main__":
    sys.exit(main())
