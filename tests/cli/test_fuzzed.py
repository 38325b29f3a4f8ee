"""Any arguments at all: hypothesis looks for a command line that ends in a traceback."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from banatie.cli.main import run

# No slash, so that no command gets at a file elsewhere; no NUL, which no argument can contain.
CHARACTERS = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=12
)
BYTES = st.binary(max_size=6).map(
    lambda data: os.fsdecode(data.replace(b"/", b"").replace(b"\0", b""))
)
NUMBERS = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["9" * 30, "-1", "1e3", "nan", "inf", "٣", "1_0", "0x10", "9" * 5000, ""]),
)
VALUES = st.one_of(CHARACTERS, BYTES, NUMBERS)
COMMANDS = {
    # A LoRA that is not installed is refused before a worker is started.
    ("generate", "--lora", "none"): [
        "--aspect-ratio", "--template", "--negative-prompt", "--seed", "--steps",
        "--guidance-scale", "--lora", "--output", "--data-dir",
    ],
    ("keys", "create", "--name", "k"): [
        "--name", "--type", "--organization", "--project", "--requests-per-hour",
        "--expires-in-days", "--data-dir",
    ],
    ("keys", "list"): ["--data-dir"],
    ("projects", "create"): ["--organization", "--data-dir"],
    ("projects", "list"): ["--data-dir"],
    ("projects", "set", "--no-new-scopes"): ["--organization", "--data-dir"],
    ("keys", "revoke"): ["--data-dir"],
    ("migrate",): ["--data-dir"],
    ("backup",): ["--data-dir"],
    ("version",): [],
}  # fmt: skip


SETTINGS = ("limits.queue_size", "limits.prompt_characters", "storage.data_dir", "log.level", "x.y")
TAKES_ONE = (
    ("generate", "--lora", "none"),
    ("keys", "revoke"),
    ("projects", "create"),
    ("projects", "set", "--no-new-scopes"),
    ("backup",),
)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """Mostly lines that are right but for a value, so that the commands themselves are reached."""
    before: list[str] = []
    if draw(st.integers(0, 4)) == 0:
        before = ["--set", f"{draw(st.sampled_from(SETTINGS))}={draw(VALUES)}"]
    elif draw(st.integers(0, 9)) == 0:
        before = [draw(st.sampled_from(["--set", "--config"])), draw(VALUES)]
    command = draw(st.sampled_from(list(COMMANDS)))
    after: list[str] = []
    if options := COMMANDS[command]:
        for option in draw(st.lists(st.sampled_from(options), max_size=2, unique=True)):
            after += [option, draw(VALUES)]
    count = 1 if command in TAKES_ONE else 0
    count += draw(st.integers(0, 9)) == 0
    return [*before, *command, *after, *(draw(VALUES) for _ in range(count))]


def test_no_command_line_ends_in_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # The encoding is that of a real terminal, where surrogates cannot be written.
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))

    @settings(
        max_examples=150,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(command_lines())
    def check(arguments: list[str]) -> None:
        for stream in (out, err):
            stream.seek(0)
            stream.truncate()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run(arguments)
        said = err.buffer.getvalue().decode("utf-8", "surrogateescape")
        assert status in (0, 1, 2), said
        assert "unexpected error" not in said
        assert "Traceback" not in said
        if status:
            assert said.startswith("banatie: ")
            assert said.count("\n") == 1

    check()
