"""`cifar-evaluate --data DIR`: held-out accuracy measured through the service, which is the accuracy that users get."""

import argparse
import io
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clients import datasets, report
from clients.client import DEFAULT_BATCH_SIZE, DEFAULT_CONCURRENCY, Client
from clients.command import ENVIRONMENT, CommandError, add_url, positive, progress, run, write_whole
from clients.datasets import Dataset
from clients.scores import Scores

if TYPE_CHECKING:
    import httpx

_ALL_CLASSES = 1_000_000  # the service gives as many as it has


def main(argv: Sequence[str] | None = None) -> int:
    """0; 1 when the run fails or the accuracy is below --min-accuracy."""
    arguments = _parser().parse_args(argv)
    return run("cifar-evaluate", lambda: _evaluate(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cifar-evaluate",
        description="Measure a running service's accuracy, speed and latency on labelled images.",
        epilog=ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR|cifar10",
        help="DIR/test/<class>/* or else DIR/<class>/*; cifar10: its 10,000 test images, downloaded into data/",
    )
    parser.add_argument("--files", type=Path, metavar="LIST", help="score only these paths in DIR, one a line")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, each prediction too")
    parser.add_argument("--min-accuracy", type=_fraction, metavar="FRACTION", help="exit with 1 below it, 0..1")
    parser.add_argument(
        "--batch-size", type=positive, default=DEFAULT_BATCH_SIZE, metavar="N", help="images a request (%(default)s)"
    )
    parser.add_argument(
        "--concurrency",
        type=positive,
        default=DEFAULT_CONCURRENCY,
        metavar="N",
        help="requests under way at a time (%(default)s)",
    )
    add_url(parser)
    return parser


def _fraction(text: str) -> float:
    try:
        fraction = float(text)
    except ValueError:
        fraction = -1.0
    if not 0 <= fraction <= 1:
        raise argparse.ArgumentTypeError(f"a fraction from 0 to 1 is needed, not {text!r}")
    return fraction


def _evaluate(arguments: argparse.Namespace) -> int:
    if arguments.json is not None and arguments.json.is_dir():
        raise CommandError(f"{arguments.json} cannot be written: it is a folder")
    dataset = datasets.load(arguments.data, arguments.files)
    if not dataset.held_out:
        _say(
            f"warning: {dataset.name} has no test folder, so images that the model was trained on may be among these; "
            "--files names those that it was not"
        )
    with Client(arguments.url, api_key=arguments.api_key) as client:
        scores = _score(client, dataset, arguments.batch_size, arguments.concurrency)
    print(report.as_text(scores, arguments.batch_size, arguments.concurrency))
    if arguments.json is not None:
        settings = {"batch_size": arguments.batch_size, "concurrency": arguments.concurrency}
        content = report.as_json(scores, service=arguments.url, data=dataset.name, **settings)
        write_whole(arguments.json, [json.dumps(content, indent=1).encode(), b"\n"])
    if arguments.min_accuracy is not None and scores.accuracy < arguments.min_accuracy:
        _say(f"the accuracy, {scores.accuracy:.4f}, is below --min-accuracy {arguments.min_accuracy:g}")
        return 1
    return 0


def _score(client: Client, dataset: Dataset, batch_size: int, concurrency: int) -> Scores:
    """Every example through the service. Raises CifarError and CommandError."""
    classes = _service_classes(client)
    unknown = sorted({example.truth for example in dataset.examples} - set(classes))
    if unknown:
        raise CommandError(
            f"the service does not know {', '.join(unknown)}, which {dataset.name} has; it knows {', '.join(classes)}"
        )
    latencies_s: list[float] = []

    def note_latency(response: "httpx.Response") -> None:
        response.read()  # an answer's time is known when it is complete
        latencies_s.append(response.elapsed.total_seconds())

    client.http.event_hooks = {"response": [note_latency]}
    images = [example.image for example in dataset.examples]
    start = time.perf_counter()
    stream = client.predict_many(images, top_k=1, batch_size=batch_size, concurrency=concurrency)
    answers = list(progress(stream, len(images), "images"))
    seconds = time.perf_counter() - start
    if not latencies_s:
        raise CommandError(f"not one of the images can be read: {answers[0]}")
    return Scores(classes, dataset.examples, answers, seconds, latencies_s)


def _service_classes(client: Client) -> list[str]:
    """All classes of the service's model, by their ids."""
    from PIL import Image

    blank = io.BytesIO()
    Image.new("RGB", (32, 32)).save(blank, "PNG")
    prediction = client.predict(blank.getvalue(), top_k=_ALL_CLASSES)
    return [each.label for each in sorted(prediction.top, key=lambda each: each.class_id)]


def _say(sentence: str) -> None:
    print(f"cifar-evaluate: {sentence}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
