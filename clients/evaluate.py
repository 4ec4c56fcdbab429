"""`cifar-evaluate --data DIR`: held-out accuracy measured through the service, which is the accuracy that users get."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clients import datasets, report, scores
from clients.command import CommandError, Parser, address, argument_type, connect, escape, run, write
from clients.datasets import Dataset

if TYPE_CHECKING:
    import httpx

    from clients.client import Client

_ALL_CLASSES = 1_000_000  # a top_k past their number gives all of them
_DOT = b"P6 1 1 255\n\0\0\0"  # one black pixel, as PPM


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0; 1 when the run fails or the accuracy is below --min-accuracy."""
    return run(_parser(), argv, _evaluate)


def _parser() -> Parser:
    description = "Measure a running service's accuracy, speed and latency on labelled images."
    parser = Parser("cifar-evaluate", "--data DIR|cifar10 [options]", description)
    data = "DIR/test/<class>/* or else DIR/<class>/*; cifar10: its 10,000 test images, downloaded into data/"
    images = parser.add_argument_group("images")
    images.add_argument("--data", required=True, metavar="DIR|cifar10", help=data)
    files = "use only the images that this file lists, one path in DIR per line"
    images.add_argument("--files", type=Path, metavar="LIST", help=files)
    file = argument_type(Path, lambda path: not path.is_dir(), "a file that is not a folder")
    fraction = argument_type(float, lambda number: 0 <= number <= 1, "a fraction from 0 to 1")
    results = parser.add_argument_group("results")
    results.add_argument("--json", type=file, metavar="FILE", help="write all results and every prediction to FILE")
    results.add_argument("--confusion", type=file, metavar="PNG", help="draw the confusion matrix to PNG")
    least = "exit with 1 if the accuracy is below this, 0..1"
    results.add_argument("--min-accuracy", type=fraction, metavar="FRACTION", help=least)
    against = "another service: say whether one of the two is better by more than chance"
    parser.add_service().add_argument("--against", type=address, metavar="URL", help=against)
    return parser


def _evaluate(arguments: argparse.Namespace) -> int:
    dataset = datasets.load(arguments.data, arguments.files)
    if not dataset.held_out:
        _say(
            f"warning: {dataset.name} has no test folder, so images that the model was trained on may be among them; "
            "list only held-out images with --files"
        )
    for url in (arguments.url, arguments.against) if arguments.against else ():  # first, as each run may take minutes
        with connect(url) as client:
            _classes(client, dataset)
    found = {"data": dataset.name, **_score(arguments.url, dataset)}
    if arguments.against:
        found["against"] = _score(arguments.against, dataset)
        found["comparison"] = scores.compare(found, found["against"])
    lines = [*report.as_text(found), *(report.verdict(found) if arguments.against else ())]
    print(*map(escape, lines), sep="\n")
    if arguments.json:  # first: a picture that fails must not cost the results
        write(arguments.json, json.dumps(found, indent=1).encode() + b"\n")
    if arguments.confusion:
        write(arguments.confusion, report.draw_confusion(found))
    if arguments.min_accuracy is not None and found["accuracy"] < arguments.min_accuracy:
        _say(f"the accuracy, {found['accuracy']:.4f}, is below --min-accuracy {arguments.min_accuracy:g}")
        return 1
    return 0


def _score(url: str, dataset: Dataset) -> dict[str, Any]:
    """Sends every example through the service, and summarises its answers. Raises CifarError and CommandError."""
    latencies_s: list[float] = []

    async def note_latency(response: "httpx.Response") -> None:
        await response.aread()  # only then is the time until the answer's end known
        if response.is_success:  # a refusal is quicker than an answer
            latencies_s.append(response.elapsed.total_seconds())

    with connect(url) as client:
        classes = _classes(client, dataset)
        client.http.event_hooks = {"response": [note_latency]}
        start = time.perf_counter()
        answers = list(client.predict_many([example.image for example in dataset.examples], top_k=1, progress=True))
        seconds = time.perf_counter() - start
    if not latencies_s:
        raise CommandError(f"none of the images was accepted; the first: {answers[0]}")
    return {"service": client.url, **scores.summarise(classes, dataset.examples, answers, seconds, latencies_s)}


def _classes(client: "Client", dataset: Dataset) -> list[str]:
    """The service's classes, by class_id. Raises CifarError, and CommandError where it lacks a class of the data."""
    ranked = client.predict(_DOT, top_k=_ALL_CLASSES).ranked
    classes = [each.label for each in sorted(ranked, key=lambda each: each.class_id)]
    unknown = sorted({example.truth for example in dataset.examples} - set(classes))
    if unknown:
        known = f"which {dataset.name} has; it knows {', '.join(classes)}"
        raise CommandError(f"{client.url} does not know {', '.join(unknown)}, {known}")
    return classes


def _say(sentence: str) -> None:
    print(f"cifar-evaluate: {sentence}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
