"""All drawing: the result on stdout, everything else on stderr.

rich is imported where something is drawn with it: a text needs none of it, and it takes a tenth of a second.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

Item = TypeVar("Item")


def out() -> Console:
    """Return the console for results; wide when piped, so that nothing is cut."""
    from rich.console import Console

    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160, highlight=False, soft_wrap=False)


def err() -> Console:
    """Return the console for progress and remarks."""
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False)


def say(text: str) -> None:
    """Print a remark on stderr, as it is (no markup)."""
    click.echo(text, err=True)


def result(value: Any, as_json: bool, draw: Callable[[], None]) -> None:
    """Print one JSON document, or draw for a person."""
    if as_json:
        click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))
    else:
        draw()


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None, right: Sequence[str] = ()
) -> None:
    """Draw a table on stdout; columns named in `right` are aligned right; cells are not read as markup."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title, header_style="bold", title_justify="left")
    for column in columns:
        drawn.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(cell if isinstance(cell, Text) else Text(_cell(cell)) for cell in row))
    out().print(drawn)


def progress(items: Iterable[Item], what: str, total: int | None = None, unit: str = "") -> Iterator[Item]:
    """Yield the items while drawing a bar with count, rate and time left on stderr; silent where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    console = err()
    with bar(console, unit) as drawn:
        task = drawn.add_task(what, total=total)
        for item in items:
            yield item
            drawn.advance(task)


def bar(console: Console, unit: str = "") -> Progress:
    """Return the one progress bar of the house."""
    from rich import progress as p
    from rich.text import Text

    class Rate(p.ProgressColumn):
        """Items per second."""

        def render(self, task: p.Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.1f} {unit}/s" if speed else "")

    return p.Progress(
        p.SpinnerColumn(), p.TextColumn("{task.description}", markup=False), p.BarColumn(), p.MofNCompleteColumn(), Rate(),
        p.TimeElapsedColumn(), p.TimeRemainingColumn(), console=console, transient=True,
        disable=not console.is_terminal,
    )  # fmt: skip


def size(count: float) -> str:
    """Return a byte count for people, such as `1.5 GB` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
