"""What a command says besides its recipe, and where its run writes."""

import argparse
from pathlib import Path


class Options(argparse.Namespace):
    """Of one run, as `__main__` parses them; the recipe's own fields are left to it."""

    command: str  # for the card: what to type for the same run
    data: str  # `cifar10`, or a folder
    output: Path
    seed: int
    device: str
    resume: bool  # a run that was stopped goes on
    report: bool  # pictures and a page of it are made
    promote: Path | None  # where the checkpoint goes as well,
    if_better: bool  # only where it scores more than the one that is there


def held_out_path(output: Path) -> Path:
    return output.with_suffix(".held-out.txt")


def resume_path(output: Path) -> Path:
    return output.with_suffix(".resume")


def report_folder(output: Path) -> Path:
    return output.with_suffix(".run")
