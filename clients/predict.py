"""`cifar-predict cat.jpg photos/ 'archive/**/*.png'`: the classes of images, by the service.

$ cifar-predict docs/ship.png --top-k 2
docs/ship.png                     ship           98.9%  ███████████████████████▋
                                  automobile      0.1%
"""

import argparse
import dataclasses
import glob
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from clients.command import CommandError, Parser, connect, plain, reader, run
from clients.errors import ImageError
from clients.images import SUFFIXES, ImageInput
from clients.results import Prediction

Show = Callable[[str, Prediction | ImageError], None]


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every image has a prediction, 1 when one has none or the service fails."""
    return run(_parser(), argv, _predict)


def _parser() -> Parser:
    parser = Parser("cifar-predict", "[options] IMAGE [IMAGE ...]", "Classify images through the service.")
    images = "a file, a folder with all that is in it, a quoted glob such as 'photos/**/*.jpg', or - for stdin"
    parser.add_argument("images", nargs="+", metavar="IMAGE", help=images)
    answers, classes = parser.add_argument_group("answers"), "classes for each image (default: %(default)s)"
    positive = reader(int, lambda number: number >= 1, "a whole number of 1 or more")
    answers.add_argument("--top-k", type=positive, default=3, metavar="K", help=classes)
    answers.add_argument("--json", action="store_true", help="a line of JSON for each, as where stdout is no terminal")
    parser.add_service()
    return parser


def _predict(arguments: argparse.Namespace) -> int:
    show = _show_json if arguments.json or not sys.stdout.isatty() else _table()
    names: deque[str] = deque()  # of the images that are under way

    def images() -> Iterator[ImageInput]:
        for name in _expand(arguments.images):
            names.append(name)
            yield sys.stdin.buffer.read() if name == "-" else name

    count = failed = 0
    with connect(arguments.url) as client:
        for answer in client.predict_many(images(), top_k=arguments.top_k):
            show(names.popleft(), answer)
            count += 1
            failed += isinstance(answer, ImageError)
    if not count:
        raise CommandError(
            f"there are no images in {', '.join(arguments.images)}: {', '.join(SUFFIXES)} are looked for"
        )
    if failed:
        print(f"cifar-predict: no prediction for {failed} of {count} images", file=sys.stderr)
    return 1 if failed else 0


def _expand(arguments: Sequence[str]) -> Iterator[str]:
    """The images that are meant, those of a folder sorted. What is not there is passed on, to be told in its place."""
    for argument in arguments:
        there = os.path.exists(argument)
        for name in [argument] if there else sorted(glob.glob(argument, recursive=True)) or [argument]:
            if not os.path.isdir(name):
                if there or os.path.isfile(name) or not os.path.exists(name):  # a pipe that a glob found would block
                    yield name
            elif there or "**" not in argument:  # which has gone into the folders itself
                yield from _walk(name)


def _walk(root: str) -> Iterator[str]:
    """A folder's images, hidden ones left out; last the folders that cannot be read: to read them will say why."""
    unreadable: list[OSError] = []
    around: dict[str, tuple[str, ...]] = {root: ()}  # the real folders above each that is still to be walked
    for folder, folders, files in os.walk(root, onerror=unreadable.append, followlinks=True):
        walked = (*around.pop(folder), os.path.realpath(folder))
        shown = (name for name in folders if name[0] != ".")
        folders[:] = sorted(name for name in shown if not _leads_back(os.path.join(folder, name), walked))
        around |= {os.path.join(folder, name): walked for name in folders}
        images = (name for name in sorted(files) if name[0] != "." and name.lower().endswith(SUFFIXES))
        paths = (os.path.join(folder, name) for name in images)
        yield from (path for path in paths if os.path.isfile(path) or not os.path.exists(path))  # a pipe would block
    yield from (error.filename for error in unreadable)


def _leads_back(path: str, walked: tuple[str, ...]) -> bool:
    """Whether a link leads to a folder that it lies in, which would have no end."""
    if not os.path.islink(path):
        return False
    there = os.path.realpath(path)
    return any(os.path.commonpath([there, each]) == there for each in walked)


def _show_json(name: str, answer: Prediction | ImageError) -> None:
    found = dataclasses.asdict(answer)
    if isinstance(answer, ImageError):
        found = {"error": found}
    else:
        found["top"] = found.pop("ranked")
    print(json.dumps({"file": name, **found}))


def _table() -> Show:
    """For a terminal: each image's classes, each with a bar as long as it is likely."""
    from rich.bar import Bar
    from rich.console import Console, Group
    from rich.table import Column, Table
    from rich.text import Text

    console = Console(highlight=False)
    console.width = min(console.width, 100)

    def show(name: str, answer: Prediction | ImageError) -> None:
        cells = [Column(ratio=1, overflow="fold"), Column(min_width=12), Column(width=6), Column(width=24)]
        if isinstance(answer, ImageError):
            row = Table.grid(cells[0], Column(width=46), expand=True, padding=(0, 2, 0, 0))
            row.add_row(Text(plain(name)), Text(plain(answer.detail), "red"))
        else:
            row = Table.grid(*cells, expand=True, padding=(0, 2, 0, 0))
            labels = Text("\n").join(Text(plain(each.label)) for each in answer.ranked)
            labels.stylize("bold yellow" if answer.uncertain else "bold", 0, len(answer.label))
            percents = "\n".join(f"{each.probability:6.1%}" for each in answer.ranked)
            bars = Group(*(Bar(1, 0, each.probability, width=24, color="cyan") for each in answer.ranked))
            row.add_row(Text(plain(name)), labels, percents, bars)
        console.print(row)

    return show


if __name__ == "__main__":
    sys.exit(main())
