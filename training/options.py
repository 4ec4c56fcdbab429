"""What a command says besides its recipe, and where its run writes."""

import argparse
from collections.abc import Sequence
from pathlib import Path

REPORT_SUFFIX = ".run"
EVENTS_PREFIX = "events.out.tfevents."  # how TensorBoard knows its files, in a report's folder too


class Options(argparse.Namespace):
    """The command line, as `__main__` parses it. The recipe's fields are there too, unchecked: as text, or None."""

    recipe: str  # its name
    list: bool  # show the recipes, and train nothing
    compare: Sequence[Path] | None  # the runs to compare, and train nothing

    command: str  # for the card: what to type for the same run
    data: str  # `cifar10`, or a folder
    output: Path
    seed: int
    device: str
    resume: bool  # a run that was stopped goes on
    report: bool  # pictures and a page of it are made
    promote: Path | None  # where the checkpoint is written as well
    if_better: bool  # promote only a checkpoint that scores higher than the one there

    began: bool = False  # whether training has begun, so that a stopped run of this very command can be resumed


def held_out_path(output: Path) -> Path:
    return output.with_suffix(".held-out.txt")


def resume_path(output: Path) -> Path:
    return output.with_suffix(".resume")


def report_folder(output: Path) -> Path:
    return output.with_suffix(REPORT_SUFFIX)
