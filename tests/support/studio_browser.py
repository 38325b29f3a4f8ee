"""A real browser, headless, with pages that tell everything that went wrong in them."""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

ROOT = Path(__file__).parents[2]
AXE = Path(__file__).parent / "axe" / "axe.min.js.gz"
PATIENCE_MILLISECONDS = 20_000
"""How long a page may take to show what a test expects, on a busy machine."""
WIDE, NARROW = (1280, 900), (390, 844)


class Problems:
    """What a browser's pages complain of: console errors and warnings, and uncaught exceptions.

    A violation of the content security policy is a console error.
    """

    def __init__(self) -> None:
        self.found: list[str] = []
        self._allowed: list[str] = []

    def allow(self, part: str) -> None:
        """Expect problems whose text has this part, such as a status that a test provokes."""
        self._allowed.append(part)

    def unexpected(self) -> list[str]:
        """Those that no test has allowed."""
        return [each for each in self.found if not any(part in each for part in self._allowed)]

    def watch(self, context: BrowserContext) -> None:
        """Collect the problems of all pages of the context."""
        context.on("console", self._on_console)
        context.on("weberror", lambda error: self.found.append(f"uncaught: {error.error}"))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.found.append(f"{message.type}: {message.text} ({message.location.get('url')})")


@contextmanager
def running_browser() -> Iterator[Browser]:
    """The browser that `scripts/find-browser` finds. Fails if there is none."""
    found = subprocess.run(
        [ROOT / "scripts" / "find-browser"], capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 0, found.stderr
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found.stdout.strip())
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def new_context(
    browser: Browser, url: str, size: tuple[int, int] = WIDE, **options: Any
) -> Iterator[tuple[BrowserContext, Problems]]:
    """A browser's fresh profile. Fails at its end if a page complained of anything."""
    problems = Problems()
    context = browser.new_context(
        base_url=url, viewport={"width": size[0], "height": size[1]}, **options
    )
    context.set_default_timeout(PATIENCE_MILLISECONDS)
    problems.watch(context)
    try:
        yield context, problems
    finally:
        context.close()
    assert not problems.unexpected(), problems.unexpected()


def accessibility_violations(page: Page) -> list[str]:
    """What axe-core finds, each as its rule and the elements that break it."""
    # Through the debugger and not as a script of the page, which its policy would refuse.
    page.evaluate(gzip.decompress(AXE.read_bytes()).decode())
    found = page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{violation['id']}: {', '.join(str(node['target']) for node in violation['nodes'])}"
        for violation in found["violations"]
    ]
