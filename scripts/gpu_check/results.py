"""Results as JSON lines, each written out at once; one step with its error caught; verdicts."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from banatie.devices.runtime import free_memory


@dataclass
class Recorder:
    """Runs the steps of one group until the deadline and appends what each of them found."""

    file: Path
    group: str
    deadline: float
    """In the seconds of `time.monotonic`."""
    device: str

    def step(self, name: str, work: Callable[[], Any], needs: float = 3.0) -> Any:
        """Do the work and record its result; None after an error or without `needs` seconds."""
        if time.monotonic() + needs > self.deadline:
            self.record(name, skipped="no time left")
            return None
        started = time.monotonic()
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - one failed step must not end the others
            self.record(
                name,
                error=f"{type(error).__name__}: {str(error)[:500]}",
                trace=traceback.format_exc()[-1500:],
                took=round(time.monotonic() - started, 2),
            )
            free_memory(self.device)
            return None
        took = round(time.monotonic() - started, 2)
        shown = result if isinstance(result, dict) else {"seconds": took}
        self.record(name, **shown, took=took)
        return result

    def record(self, name: str, **found: Any) -> None:
        """Append one line to the file, and print it."""
        line = json.dumps({"group": self.group, "step": name, **found}, default=str)
        with self.file.open("a", encoding="utf-8") as opened:
            opened.write(line + "\n")
        print(line[:300], flush=True)


def wrong_unless(*expectations: tuple[bool, str]) -> dict[str, str]:
    """What to add to a step's figures: `wrong` with the text of each expectation not met."""
    failures = [text for met, text in expectations if not met]
    return {"wrong": "; ".join(failures)} if failures else {}


def has_failed(line: dict[str, Any]) -> bool:
    """Whether a step found something wrong or could not be done; one without time has not."""
    return "wrong" in line or "error" in line


def read_results(file: Path) -> list[dict[str, Any]]:
    """The lines so far; a line that was cut off is left out."""
    found = []
    for line in file.read_text("utf-8").splitlines() if file.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
