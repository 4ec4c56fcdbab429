"""What the commands share: how their arguments are read, and how they end."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from clients.client import DEFAULT_URL, Client
from clients.errors import CifarError, NotFound, ServiceUnreachable, Unauthorized
from clients.protocol import service_url


class CommandError(Exception):
    """Why a command cannot do its work: one sentence for stderr."""


class Parser(argparse.ArgumentParser):
    """One that complains in a sentence."""

    def __init__(self, prog: str, usage: str, description: str) -> None:
        formatter = partial(argparse.HelpFormatter, max_help_position=26)
        super().__init__(prog, f"{prog} {usage}", description, formatter_class=formatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def add_service(self) -> argparse._ArgumentGroup:
        """The group of options that say which service is asked."""
        key = "Its API key is read only from CIFAR_API_KEY: an option would stay in the shell's history."
        service, url = self.add_argument_group("service", key), os.environ.get("CIFAR_URL") or DEFAULT_URL
        service.add_argument(
            "--url", type=address, default=url, help="its address, or else CIFAR_URL (default: %(default)s)"
        )
        return service


def reader(kind: Callable[[str], Any], fits: Callable[[Any], bool], wanted: str) -> Callable[[str], Any]:
    """Reads an argument of that `kind` that `fits`; of any other it says what is `wanted`."""

    def read(text: str) -> Any:
        with suppress(ValueError):
            if fits(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f"{wanted} is needed, not {text!r}")

    return read


address = reader(service_url, bool, "an address such as http://127.0.0.1:8000")


def connect(url: str) -> Client:
    """A client with the key of the environment. Raises CommandError."""
    try:
        return Client(url, api_key=os.environ.get("CIFAR_API_KEY"))
    except ValueError as error:
        raise CommandError(str(error)) from None


def run(parser: Parser, argv: Sequence[str] | None, command: Callable[[argparse.Namespace], int]) -> int:
    """The command's exit code; 1 and a sentence on stderr where it fails, 2 for bad use, 130 by Ctrl-C."""
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may come next
        import argcomplete

        argcomplete.autocomplete(parser)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what the terminal cannot show
    code = 1
    try:
        try:
            return command(parser.parse_args(argv))
        finally:  # --help has printed too
            _flush()
    except BrokenPipeError:  # whoever reads our output has seen enough
        return 1
    except KeyboardInterrupt:
        code, sentence = 130, "interrupted"
    except (NotFound, ServiceUnreachable) as error:
        sentence = f"{error}; start the service with cifar-serve, or say where it is with --url"
    except Unauthorized as error:
        sentence = f"{error.detail}; give the service's key in CIFAR_API_KEY"
    except (CifarError, CommandError) as error:
        sentence = str(error)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        sentence = f"{error.filename}: {reason}" if error.filename else reason  # a full disk has no name
    print(f"{parser.prog}: {plain(sentence)}", file=sys.stderr, flush=True)
    return code


def _flush() -> None:
    """Raises OSError where stdout takes no more; Python, which tries again at its end, does not."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def plain(text: str) -> str:
    """For a terminal. Names of files and answers of services may hold what it would obey: that is shown instead."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def write(path: Path, content: bytes) -> None:
    """In a folder that is made where it is missing. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
