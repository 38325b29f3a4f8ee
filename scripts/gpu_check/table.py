"""The table of docs/performance.md from the results, and everything as one JSON file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def print_summary(found: Sequence[dict[str, Any]], out: Path) -> None:
    """Print one line for each step as a Markdown table, and write summary.json and table.md."""
    lines = ["| group | step | found |", "|---|---|---|"]
    for line in found:
        rest = {
            key: value
            for key, value in line.items()
            if key not in ("group", "step", "trace", "took")
        }
        figures = ", ".join(f"{key} {value}" for key, value in rest.items())
        lines.append(f"| {line['group']} | {line['step']} | {figures[:160]} |")
    text = "\n".join(lines)
    (out / "table.md").write_text(text + "\n", "utf-8")
    (out / "summary.json").write_text(json.dumps(list(found), indent=1), "utf-8")
    print(text)
