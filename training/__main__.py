"""`cifar-train`: train a network, score it on held-out images, write its checkpoint and model card.

On two shared x86 cores, with CIFAR-10 (JPEG copy) in the folder `cifar10-jpeg`, this takes 45 s in all:

    $ cifar-train --data cifar10-jpeg
    50000 training and 10000 test images, 10 classes
    Training net by recipe tutorial on cpu, seed 0
    [1,  2000] loss: 2.209
    ...
    [2, 12000] loss: 1.308
    Finished Training: 29.5 s, 3390 images/s
    Accuracy of the network on the 10000 test images: 53.2 % (95 % interval: 52.2 to 54.1 %)
    Accuracy for class: airplane   is  59.1 %
    ...
    Saved cifar_net.pth and cifar_net.json. Now serve it, and in another terminal ask it and score it:
      cifar-serve
      curl --data-binary @cifar10-jpeg/test/airplane/0000.jpg localhost:8000/predict
      cifar-evaluate --data cifar10-jpeg
    Report: cifar_net.run/report.html
"""

import argparse
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from pydantic import ValidationError

from training.errors import TrainingError
from training.listing import print_recipes
from training.options import Options, resume_path
from training.recipe import FIELDS, RECIPES, Recipe

_LONGEST_NAME = 200  # bytes: file systems allow 255, of which suffixes and temporary names take some


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 failed, 2 called wrongly, 141 by `| head`, 128 + its number by a signal."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may come next
        import argcomplete

        argcomplete.autocomplete(parser)
    try:
        options = parser.parse_args(arguments, Options())
        if options.recipe not in RECIPES:
            parser.error(f"there is no recipe {options.recipe!r}: choose one of {', '.join(RECIPES)}")
        if options.if_better and not options.promote:
            parser.error("--if-better says when to promote: add --promote PATH")
    except SystemExit as exit_:
        return int(exit_.code or 0)
    try:
        changes = {name: value for name, value in vars(options).items() if name in FIELDS and value is not None}
        recipe = replace(RECIPES[options.recipe], **changes)
    except ValidationError as error:
        first = error.errors()[0]
        return _say(2, f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}, not {first['input']!r}")
    try:
        options.command = shlex.join([*_program(), *arguments])
        code = _do(recipe, options)
        sys.stdout.flush()
        return code
    except ModuleNotFoundError as error:
        return _say(1, f"{error.name} is not installed: pip install '.[training]' in the folder of this repository")
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter's last flush fails otherwise
        if isinstance(error, BrokenPipeError):
            return _say(141, "stopped: the program that read its output has ended")
        return _say(1, f"{error.filename or 'its output'}: {error.strerror}")
    except _Terminated as terminated:
        return _say(128 + terminated.args[0], f"terminated; {_what_is_left(options)}")
    except KeyboardInterrupt:
        return _say(130, f"stopped; {_what_is_left(options)}")


def _do(recipe: Recipe, options: Options) -> int:
    if options.list:
        print_recipes(recipe)
        return 0
    with _signals_as_exceptions():
        try:
            if options.compare:
                from training.compare import compare  # tables that nothing else here draws

                compare(options.compare)
            else:
                from training.run import run  # seconds of imports, which a mistaken flag need not wait for

                run(recipe, options)
        except TrainingError as error:  # while SIGTERM is still ignored, if it was the last that torchrun let us do
            return _say(2 if options.compare else 1, str(error))
    return 0


def _program() -> list[str]:
    if not _by_torchrun():
        return ["cifar-train"]
    hosts = os.environ["GROUP_WORLD_SIZE"]
    several = ["--nnodes", hosts] if hosts != "1" else []
    return ["torchrun", *several, "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"], "-m", "training"]


def _by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _what_is_left(options: Options) -> str:
    restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"  # which resumes unasked
    ours = options.began or options.resume or restarted  # not an earlier command's, still to be put aside
    if ours and resume_path(options.output).exists():
        return "the same command with --resume goes on"
    return f"{options.output} was not written"


class _Terminated(KeyboardInterrupt):
    """SIGTERM, or SIGHUP of a terminal that is closed: they end a run as Ctrl-C does. Holds the signal's number."""


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        raise _Terminated(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(status: int, sentence: str) -> int:
    """Of the processes that torchrun started, each tells of its own error; of a mistake or a stop, the first."""
    rank = os.environ["RANK"] if _by_torchrun() else ""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which torchrun sends to all as soon as it misses one
    try:
        if status == 1 or rank in ("", "0"):
            print(f"cifar-train{rank and f' {rank}'}: {sentence}", file=sys.stderr)
    finally:
        signal.signal(signal.SIGTERM, before)
    return status


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help, and --list for a recipe's fields)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cifar-train",
        usage="%(prog)s [RECIPE] [--data cifar10|DIR] [--FIELD VALUE] [options]",
        description="Train a network, score it on held-out images, write its checkpoint and card.",
        formatter_class=partial(argparse.HelpFormatter, max_help_position=22),
    )
    add, shown = parser.add_argument, "(default: %(default)s)"
    default, *others = RECIPES
    recipes = f"{default} (the default), {', '.join(others)}"
    # Not by `choices`: the value of an unknown flag would be called a recipe, and the flag not be told.
    recipe: Any = add("recipe", nargs="?", default=default, metavar="RECIPE", help=recipes)
    recipe.completer = lambda **_: list(RECIPES)  # argcomplete's
    add(
        "--data",
        type=_data,
        default="cifar10",
        metavar="cifar10|DIR",
        help="cifar10, downloaded into ./data, or a folder of images: DIR/{train,test}/<class>/*, "
        f"or DIR/<class>/*, a fifth of which is held out for testing {shown}",
    )
    output = f"checkpoint, card beside it {shown}"
    add("--output", type=_output, default="cifar_net.pth", metavar="PATH", help=output)
    seed = f"seed of weights, shuffling and augmentation {shown}"
    add("--seed", type=_whole_number, default=0, metavar="N", help=seed)
    add("--device", type=_device, default="auto", help=f"auto, cpu, cuda, cuda:N or mps {shown}")
    add("--promote", type=_output, metavar="PATH", help="also write it to PATH, from where a service loads it")
    better = "promote only if it scores higher than that in PATH"
    add("--if-better", action=argparse.BooleanOptionalAction, default=False, help=better)
    add("--resume", action="store_true", help="continue a stopped run; repeat its other flags")
    add("--no-report", action="store_false", dest="report", help="write no report (a folder beside the checkpoint)")
    add("--compare", nargs="+", type=Path, metavar="RUN", help="compare finished runs: checkpoints, cards or reports")
    add("--list", action="store_true", help="show the recipes, and every FIELD that a flag can set")
    add("--epochs", metavar="N", help="passes over the training images (default: the recipe's)")
    for name in FIELDS.keys() - {"epochs"}:
        add(f"--{name.replace('_', '-')}", help=argparse.SUPPRESS)
    return parser


def _output(text: str) -> Path:
    path = Path(text)
    if os.path.isdir(path) or text.endswith("/"):
        raise argparse.ArgumentTypeError(f"{path} is a folder; name a file, such as {path / 'cifar_net.pth'}")
    if "://" in text or (os.path.exists(path) and not os.path.isfile(path)):  # /dev/null would be replaced, for all
        raise argparse.ArgumentTypeError(f"{text} is not a file of this machine; name one, such as cifar_net.pth")
    if len(os.fsencode(path.name)) > _LONGEST_NAME:
        raise argparse.ArgumentTypeError(f"{path.name} is too long a name: choose one of {_LONGEST_NAME} bytes at most")
    others = {".json": "the model card", ".resume": "the state of a stopped run", ".run": "the report"}
    if other := others.get(path.suffix):
        raise argparse.ArgumentTypeError(f"{path} is where {other} would go; name it {path.with_suffix('.pth')}")
    # The names of card and report replace it: net-0.1 and net-0.3 would share them.
    if path.suffix not in ("", ".pth", ".pt"):
        raise argparse.ArgumentTypeError(f"{path} does not end in .pth; name it {path}.pth")
    return path


def _data(text: str) -> str:
    if not text:  # an unset variable in a script: Path would make it the working directory
        raise argparse.ArgumentTypeError("it is empty; name a folder of images, or leave it out for cifar10")
    return text


def _whole_number(text: str) -> int:
    if not text.isdecimal() or not int(text) < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not one of auto, cpu, cuda, cuda:N, mps")
    return text


if __name__ == "__main__":
    sys.exit(main())
