"""The results as the table of docs/performance.md, one row a step, and as one JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LONGEST_CELL = 160
SECONDS = ("to the first step", "after the last", "shortest", "longest", "together", "apart")
"""Names of seconds, beside those that begin with the word."""


def print_summary(found: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Print the table, and write table.md and summary.json."""
    text = markdown(found)
    (out / "table.md").write_text(text + "\n", "utf-8")
    (out / "summary.json").write_text(json.dumps(list(found), indent=1), "utf-8")
    print(text)


def markdown(found: Sequence[Mapping[str, Any]]) -> str:
    """One row for each step; the column is named after the card."""
    machine = next((line for line in found if line["step"] == "machine"), {})
    lines = [f"| | measured | {machine.get('card', 'unknown')} |", "|---|---|---|"]
    lines += [f"| {line['group']} | {line['step']} | {cell(line)} |" for line in found]
    return "\n".join(lines)


def cell(line: Mapping[str, Any]) -> str:
    """What a step found, in words: its verdict first, then its figures."""
    figures = [
        _figure(name, value)
        for name, value in line.items()
        if name not in ("group", "step", "card", "took", "trace", "wrong", "error")
    ]
    if "error" in line:
        figures.insert(0, f"**FAILED**: {line['error']}")
    if "wrong" in line:
        figures.insert(0, f"**WRONG**: {line['wrong']}")
    # A line break or a bar would end the cell.
    text = " ".join(", ".join(figures).split()).replace("|", "/")
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def _figure(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"{name}: {'yes' if value else 'no'}"
    if name in SECONDS or name.startswith("seconds"):
        text = f"{value:.2f} s" if value >= 1 else f"{value * 1000:.3g} ms"
        return f"{text} {name.removeprefix('seconds').strip()}".strip()
    if name.endswith("GB"):
        return f"{value} {name}" if name == "GB" else f"{name.removesuffix(' GB')} {value} GB"
    return f"{name} {value}"
