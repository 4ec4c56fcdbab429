"""A progress bar on stderr where that is a terminal, and nothing where it is not."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with how many more are done; `total` is None where it is not known."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn()
    shown, redirect = console.is_terminal, sys.stdout.isatty()  # what is printed to a file must not go through the bar
    with Progress(*columns, console=console, transient=True, redirect_stdout=redirect, disable=not shown) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)
