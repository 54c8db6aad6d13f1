"""What a person sees of a transcription: final text on stdout, everything else on stderr.

On a terminal the tokens appear as they come, under a progress bar, and vanish with it: what stays
is the final text. Without one the segments are written as they become final, so that what was
retracted never reaches a pipe. Knows nothing about where the events come from.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Self, TextIO, TypeAlias

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn
from rich.text import Text

Json: TypeAlias = dict[str, Any]

LIVE_CHARACTERS = 1000
"""Of the running text, as much as is shown on a terminal."""


def complain(message: str) -> None:
    """Write one line on stderr."""
    sys.stdout.flush()
    line = visible(" ".join(message.split()))
    print(f"earshot: {line}", file=sys.stderr, flush=True)  # noqa: T201 - for a person


def visible(text: str) -> str:
    """Return a text with what a terminal would obey, or could not show, spelled out.

    Names and metadata come from files of strangers.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


class TranscriptDisplay:
    """Shows the events of one file.

    Args:
        name: of the file, for the bar; written before the text too if `labelled`.
        labelled: whether there are several files to tell apart.
        as_json: write the whole result as one JSON line, and no text.
        out: where the result goes.
        console: where the progress goes.
    """

    def __init__(
        self,
        name: str,
        *,
        labelled: bool = False,
        as_json: bool = False,
        out: TextIO | None = None,
        console: Console | None = None,
    ) -> None:
        self._name = name
        self._as_json = as_json
        self._out = out or sys.stdout
        self._console = console or Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(),
            TaskProgressColumn(), TextColumn("{task.fields[seconds]}"), console=self._console,
        )  # fmt: skip
        self._task = self._progress.add_task(name, total=None, seconds="")
        self._live = Live(console=self._console, transient=True)
        self._tokens: dict[int, str] = {}
        self._label = f"{name}: " if labelled else ""
        self._written = ""

    def __enter__(self) -> Self:
        """Start the bar, if there is a terminal to draw it on."""
        if self._console.is_terminal:
            self._live.start()
            self._draw()
        return self

    def __exit__(self, *exception: object) -> None:
        """Take the bar away, and end a line that was begun."""
        self._live.stop()
        if self._written and not self._written.endswith("\n"):
            self._write("\n")

    def show(self, event: Json) -> None:
        """Show one event."""
        match event["type"]:
            case "started":
                self._progress.update(self._task, total=event["duration_s"])
                self._advance(0.0)
            case "token":
                self._tokens[event["index"]] = event["text"]
                self._advance(event.get("timestamp_s"))
            case "retract":
                kept = event["from_index"]
                self._tokens = {i: text for i, text in self._tokens.items() if i < kept}
            case "segment":
                self._advance(event["end_s"])
                self._write_segment(event["text"])
            case "done":
                self._finish(event)
        if self._live.is_started:
            self._draw()

    def _advance(self, second: float | None) -> None:
        task = self._progress.tasks[0]
        reached = max(task.completed, min(second or 0.0, task.total or 0.0))
        seconds = f"{reached:.1f} / {task.total or 0.0:.1f} s"
        self._progress.update(self._task, completed=reached, seconds=seconds)

    def _draw(self) -> None:
        running = "".join(text for _, text in sorted(self._tokens.items())).strip()
        shown = Group(self._progress, Text(running[-LIVE_CHARACTERS:]))
        self._live.update(shown, refresh=True)

    def _write_segment(self, text: str) -> None:
        """Write final text at once, unless the bar is drawn on the same terminal."""
        if self._as_json or (self._live.is_started and self._out.isatty()):
            return
        self._write(text if self._written else self._label + text.lstrip())

    def _finish(self, done: Json) -> None:
        self._live.stop()
        if self._as_json:
            self._write(json.dumps({"file": self._name} | done, ensure_ascii=False))
        elif not self._written:
            self._write(self._label + done["text"])
        self._write("\n")

    def _write(self, text: str) -> None:
        self._written += text
        self._out.write(text)
        self._out.flush()
