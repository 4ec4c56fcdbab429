"""`cifar-predict cat.jpg photos/ 'archive/**/*.png'`: the classes of images, as the service sees them.

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

from clients.command import CommandError, Parser, argument_type, connect, escape, run
from clients.errors import ImageError
from clients.images import SUFFIXES, ImageInput, is_to_be_read
from clients.results import Prediction

Show = Callable[[str, Prediction | ImageError], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when every image has a prediction, 1 when one has none or the service fails."""
    return run(_parser(), argv, _predict)


def _parser() -> Parser:
    parser = Parser("cifar-predict", "[options] IMAGE [IMAGE ...]", "Classify images through the service.")
    images = "a file, a folder and all below it, a quoted glob such as 'photos/**/*.jpg', or - for stdin"
    parser.add_argument("images", nargs="+", metavar="IMAGE", help=images)
    answers, classes = parser.add_argument_group("answers"), "classes to show for each image (default: %(default)s)"
    positive = argument_type(int, lambda number: number >= 1, "a whole number of 1 or more")
    answers.add_argument("--top-k", type=positive, default=3, metavar="K", help=classes)
    json_lines = "print a line of JSON for each image; the default where stdout is not a terminal"
    answers.add_argument("--json", action="store_true", help=json_lines)
    parser.add_service()
    return parser


def _predict(arguments: argparse.Namespace) -> int:
    show = _show_json if arguments.json or not sys.stdout.isatty() else _table()
    names: deque[str] = deque()  # the images that have been taken, and not answered yet

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
    """The paths of the images; those of a folder are sorted. One that does not exist is kept: its error shows there."""
    for argument in arguments:
        there = os.path.exists(argument)
        for name in [argument] if there else sorted(glob.glob(argument, recursive=True)) or [argument]:
            if not os.path.isdir(name):
                if there or is_to_be_read(name):  # a pipe is read only where it is named itself
                    yield name
            elif there or "**" not in argument:  # ** has matched what is in the folder already
                yield from _walk(name)


def _walk(root: str) -> Iterator[str]:
    """The images in and below a folder, except hidden ones; then the folders that cannot be listed, whose errors show
    when they are read as images."""
    unreadable: list[OSError] = []
    ancestors: dict[str, tuple[str, ...]] = {root: ()}  # the real paths of the folders above each one still to walk
    for folder, folders, files in os.walk(root, onerror=unreadable.append, followlinks=True):
        above = (*ancestors.pop(folder), os.path.realpath(folder))
        visible = (name for name in folders if name[0] != ".")
        folders[:] = sorted(name for name in visible if not _leads_back(os.path.join(folder, name), above))
        ancestors |= {os.path.join(folder, name): above for name in folders}
        images = (name for name in sorted(files) if name[0] != "." and name.lower().endswith(SUFFIXES))
        paths = (os.path.join(folder, name) for name in images)
        yield from filter(is_to_be_read, paths)
    yield from (error.filename for error in unreadable)


def _leads_back(path: str, above: tuple[str, ...]) -> bool:
    """Whether `path` is a link to a folder that contains it: to follow it would never end."""
    if not os.path.islink(path):
        return False
    target = os.path.realpath(path)
    return any(os.path.commonpath([target, each]) == target for each in above)


def _show_json(name: str, answer: Prediction | ImageError) -> None:
    found = dataclasses.asdict(answer)
    if isinstance(answer, ImageError):
        found = {"error": found}
    else:
        found["top"] = found.pop("ranked")
    print(json.dumps({"file": name, **found}))


def _table() -> Show:
    """Shows answers on a terminal, as a table: each class of an image with a bar for its probability."""
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
            row.add_row(Text(escape(name)), Text(escape(answer.detail), "red"))
        else:
            row = Table.grid(*cells, expand=True, padding=(0, 2, 0, 0))
            labels = Text("\n").join(Text(escape(each.label)) for each in answer.ranked)
            labels.stylize("bold yellow" if answer.uncertain else "bold", 0, len(answer.label))
            percents = "\n".join(f"{each.probability:6.1%}" for each in answer.ranked)
            bars = Group(*(Bar(1, 0, each.probability, width=24, color="cyan") for each in answer.ranked))
            row.add_row(Text(escape(name)), labels, percents, bars)
        console.print(row)

    return show


if __name__ == "__main__":
    sys.exit(main())
