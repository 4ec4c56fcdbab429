"""What the commands share: their address option, a progress display, and how they end."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from clients.client import DEFAULT_URL
from clients.errors import CifarError, ServiceUnreachable, Unauthorized
from clients.protocol import service_url

T = TypeVar("T")

ENVIRONMENT = """environment:
  CIFAR_URL      address of the service, where --url does not give it
  CIFAR_API_KEY  sent as X-API-Key to a service that wants a key"""


class CommandError(Exception):
    """Why a command cannot do its work: one sentence for stderr."""


def add_url(parser: argparse.ArgumentParser) -> None:
    """The --url option, and `api_key` from the environment, so that no key stands in a shell's history."""
    parser.add_argument(
        "--url",
        type=_url,
        default=os.environ.get("CIFAR_URL") or DEFAULT_URL,
        help="address of the service (%(default)s)",
    )
    parser.set_defaults(api_key=os.environ.get("CIFAR_API_KEY"))


def positive(text: str) -> int:
    """An argument that is a whole number of 1 or more."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"a whole number of 1 or more is needed, not {text!r}")
    return number


def run(name: str, command: Callable[[], int]) -> int:
    """The command's exit code; 1 and a sentence on stderr where it fails. Ctrl-C ends the process with 130."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what the terminal cannot show
    try:
        code = command()
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        _fail(name, "interrupted")
        os._exit(130)  # at once: an ordinary exit waits for the threads, and those may wait for the service
    except ServiceUnreachable as error:
        return _fail(name, f"{error}; start the service with cifar-serve, or say where it is with --url")
    except Unauthorized as error:
        return _fail(name, f"{error.detail}; give the service's key in CIFAR_API_KEY")
    except (CifarError, CommandError) as error:
        return _fail(name, str(error))


def write_whole(path: Path, chunks: Iterable[bytes]) -> None:
    """Afterwards `path` holds all of `chunks`, or is as it was. Raises CommandError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            partial.unlink()


def progress(items: Iterable[T], total: int, unit: str) -> Iterator[T]:
    """Passes `items` on while stderr shows how many of `total` there were: a bar on a terminal, else lines."""
    if sys.stderr.isatty():
        yield from _bar(items, total, unit)
        return
    step = max(1, total // 10)
    for number, item in enumerate(items, 1):
        yield item
        if number % step == 0:
            print(f"{number:,} of {total:,} {unit}", file=sys.stderr, flush=True)


def _bar(items: Iterable[T], total: int, unit: str) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield from bar.track(items, total)


def _url(text: str) -> str:
    try:
        return service_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _fail(name: str, sentence: str) -> int:
    print(f"{name}: {sentence}", file=sys.stderr, flush=True)
    return 1
