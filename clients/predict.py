"""`cifar-predict cat.jpg *.png`: the classes of image files, by the service.

$ cifar-predict docs/ship.png --top-k 2
image          class
docs/ship.png  ship 0.5928  airplane 0.3338
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence

from clients.client import DEFAULT_TOP_K, Client
from clients.command import ENVIRONMENT, add_url, positive, run
from clients.errors import ImageError
from clients.results import Prediction

Answers = Iterable[tuple[str, Prediction | ImageError]]


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every image has a prediction, 1 when one has none or the service fails."""
    arguments = _parser().parse_args(argv)
    return run("cifar-predict", lambda: _predict(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cifar-predict",
        description="Classify image files through the service.",
        epilog=ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="an image file: JPEG, PNG, GIF, WebP, BMP, TIFF, PPM"
    )
    parser.add_argument(
        "--top-k", type=positive, default=DEFAULT_TOP_K, metavar="K", help="classes shown for each image (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for programs")
    add_url(parser)
    return parser


def _predict(arguments: argparse.Namespace) -> int:
    show = _show_json if arguments.json else _show_table if sys.stdout.isatty() else _show_lines
    with Client(arguments.url, api_key=arguments.api_key) as client:
        answers = client.predict_many(arguments.images, top_k=arguments.top_k)
        failed = show(zip(arguments.images, answers, strict=True))
    if failed:
        print(f"cifar-predict: no prediction for {failed} of {len(arguments.images)} images", file=sys.stderr)
    return 1 if failed else 0


def _show_json(answers: Answers) -> int:
    """Each `_show_…` writes to stdout and returns how many images have no prediction."""
    failed = 0
    for name, answer in answers:
        if isinstance(answer, ImageError):
            failed += 1
            line = {"file": name, "error": {"code": answer.code, "detail": answer.detail}}
        else:
            line = {"file": name, **dataclasses.asdict(answer)}
        print(json.dumps(line))
    return failed


def _show_lines(answers: Answers) -> int:
    failed = 0
    for name, answer in answers:
        failed += isinstance(answer, ImageError)
        print(name, *_cells(answer), sep="\t")
    return failed


def _show_table(answers: Answers) -> int:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(Column("image", overflow="fold"), Column("class", no_wrap=True), "", box=None, pad_edge=False)
    failed = 0
    for name, answer in answers:
        failed += isinstance(answer, ImageError)
        best, *others = _cells(answer)
        style = "red" if isinstance(answer, ImageError) else "bold"
        table.add_row(Text(name), Text(best, style), Text("  ".join(others), "dim"))
    Console().print(table)
    return failed


def _cells(answer: Prediction | ImageError) -> list[str]:
    if isinstance(answer, ImageError):
        return ["error", answer.detail]
    return [f"{each.label} {each.probability:.4f}" for each in answer.top]


if __name__ == "__main__":
    sys.exit(main())
