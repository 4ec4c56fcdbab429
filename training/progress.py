"""A progress bar on stderr where that is a terminal, and nothing at all where it is not."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from training import distributed

Advance = Callable[[int, str], None]


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} images/s")


@contextmanager
def progress_bar(description: str, images: int) -> Iterator[Advance]:
    """Gives a function: call it with how many of the `images` are done since the last call, and a note to show."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),  # the whole line, and the ^C that a terminal adds, fits 80 columns
        TextColumn("{task.percentage:3.0f} %"),
        _Rate(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        transient=True,
        refresh_per_second=4,  # each refresh is time that the training loop does not get
        redirect_stdout=sys.stdout.isatty(),  # `cifar-train > log` must still write to the log
        disable=distributed.rank() > 0 or not (sys.stderr.isatty() and console.is_interactive),
    )
    with bar:
        task = bar.add_task(description, total=images, note="")
        yield lambda done, note: bar.update(task, advance=done, note=note)
