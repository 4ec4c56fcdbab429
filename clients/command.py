"""What the commands share: how they read arguments, report errors and end."""

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
    """A command cannot do its work; the message is one sentence for stderr."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports errors in one sentence."""

    def __init__(self, prog: str, usage: str, description: str) -> None:
        formatter = partial(argparse.HelpFormatter, max_help_position=26)
        super().__init__(prog, f"{prog} {usage}", description, formatter_class=formatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def add_service(self) -> argparse._ArgumentGroup:
        """Adds the options that say which service to ask, and returns their group."""
        key = "The API key is read only from CIFAR_API_KEY: an option would stay in the shell's history."
        service, url = self.add_argument_group("service", key), os.environ.get("CIFAR_URL") or DEFAULT_URL
        service.add_argument(
            "--url", type=address, default=url, help="its address; overrides CIFAR_URL (default: %(default)s)"
        )
        return service


def argument_type(convert: Callable[[str], Any], is_valid: Callable[[Any], bool], wanted: str) -> Callable[[str], Any]:
    """A `type` for argparse: converts the text; where that fails or is not valid, the error says what is `wanted`."""

    def read(text: str) -> Any:
        with suppress(ValueError):
            if is_valid(value := convert(text)):
                return value
        raise argparse.ArgumentTypeError(f"{wanted} is needed, not {text!r}")

    return read


address = argument_type(service_url, bool, "an address such as http://127.0.0.1:8000")


def connect(url: str) -> Client:
    """A client of the service at `url`, with the key in CIFAR_API_KEY. Raises CommandError."""
    try:
        return Client(url, api_key=os.environ.get("CIFAR_API_KEY"))
    except ValueError as error:
        raise CommandError(str(error)) from None


def run(parser: Parser, argv: Sequence[str] | None, command: Callable[[argparse.Namespace], int]) -> int:
    """Runs the command. Returns its exit code; 1, with a sentence on stderr, where it fails; 130 on Ctrl-C.

    Raises SystemExit after --help (0), and for wrong arguments (2).
    """
    if "_ARGCOMPLETE" in os.environ:  # a shell asks for completions
        import argcomplete

        argcomplete.autocomplete(parser)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may not fit into stdout's encoding
    code = 1
    try:
        try:
            return command(parser.parse_args(argv))
        finally:  # also after --help
            _flush()
    except BrokenPipeError:  # whoever reads our output, such as head, has seen enough
        return 1
    except KeyboardInterrupt:
        code, sentence = 130, "interrupted"
    except (NotFound, ServiceUnreachable) as error:
        sentence = f"{error}; start the service with cifar-serve, or say where it is with --url"
    except Unauthorized as error:
        sentence = f"{error.detail}; set CIFAR_API_KEY to the service's key"
    except (CifarError, CommandError) as error:
        sentence = str(error)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        sentence = f"{error.filename}: {reason}" if error.filename else reason  # a full disk names no file
    print(f"{parser.prog}: {escape(sentence)}", file=sys.stderr, flush=True)
    return code


def _flush() -> None:
    """Flushes stdout. Raises OSError where that fails, and keeps Python, which flushes again at exit, from failing."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def escape(text: str) -> str:
    """Names of files and answers may hold control characters, which a terminal obeys: they become Python's escapes."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def write(path: Path, content: bytes) -> None:
    """Writes a file, and makes its folder if it is missing. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
