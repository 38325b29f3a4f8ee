"""`python -m banatie` and the `banatie` command."""

from __future__ import annotations

import sys

from banatie.cli.main import run


def main() -> None:
    """Run the command line of this process."""
    sys.exit(run())


if __name__ == "__main__":
    main()
