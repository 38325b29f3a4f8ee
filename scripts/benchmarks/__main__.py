"""`scripts/bench [service|load|workers|paint|png|pictures|enhance] …`: dispatch to a benchmark."""

from __future__ import annotations

import sys
from collections.abc import Callable

USAGE = """usage: scripts/bench [service|load|workers|paint|png|pictures|enhance] [options]

  service   the HTTP server, the queue, and the time from POST to picture
  load      a hundred clients at once, and a hundred thousand generations
  workers   pictures per second by one worker and by several on the same device
  paint     memory plans, batches, previews and compilation of a painting model
  png       the PNG encoder against Pillow's default
  pictures  a sheet of references and what is painted from them
  enhance   the seven templates on three sets of prompts, with the embedded language model

Without a name: service and png. `scripts/bench NAME --help` lists the options."""


def main(arguments: list[str]) -> int:
    """Run the named benchmark."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    names = arguments[:1] or ["service", "png"]
    for name in names:
        run = _find(name)
        if run is None:
            print(f"scripts/bench: no benchmark is called {name!r}\n{USAGE}", file=sys.stderr)
            return 2
        if run(arguments[1:]):
            return 1
    return 0


def _find(name: str) -> Callable[[list[str]], object] | None:
    # Imported here, because some load torch, which the others must not.
    if name == "service":
        from scripts.benchmarks.service import main as run
    elif name == "load":
        from scripts.benchmarks.load_test import main as run
    elif name == "workers":
        from scripts.benchmarks.workers import main as run
    elif name == "paint":
        from scripts.benchmarks.painting import main as run
    elif name == "png":
        from scripts.benchmarks.imaging import main as run
    elif name == "pictures":
        from scripts.benchmarks.pictures import main as run
    elif name == "enhance":
        from scripts.benchmarks.enhance import main as run
    else:
        return None
    return run


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
