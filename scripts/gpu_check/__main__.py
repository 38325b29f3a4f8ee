"""Run every group in a process of its own, each within its time, and print the table."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

GROUPS = {"right": 60.0, "fast": 100.0, "service": 150.0, "fits": 80.0, "compiled": 150.0}
"""The groups in the order of their value, with the seconds that each can use on a fast card.

They are shares of `--seconds`: what a group leaves is shared by those after it.
"""
SHORTEST = 5.0
"""Seconds within which no group can find anything."""
MARGIN = 5.0
"""Seconds that a group gets beyond its deadline before it is ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Check this machine's card; 1 when something is wrong or failed, or a group was not begun."""
    parser = argparse.ArgumentParser(prog="scripts/check-gpu", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="for everything")
    parser.add_argument("--only", default=",".join(GROUPS), help="groups, of " + ", ".join(GROUPS))
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="for the results")
    parser.add_argument("--scratch", type=Path, help="a fast disk with 8 GB for the model")
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--group", help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if unknown := set(options.only.split(",")) - set(GROUPS):
        parser.error(f"no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    if options.group:
        _run_group(options)
        return 0
    return _run_all(options)


def _run_all(options: argparse.Namespace) -> int:
    end = time.monotonic() + options.seconds
    options.tiny = options.tiny or not _has_card()
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.jsonl"
    results.unlink(missing_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="banatie-gpu-", dir=options.scratch))
    try:
        # Nothing can be done without the model, so its time is not shared.
        groups = ["model", *options.only.split(",")]
        for number, group in enumerate(groups):
            later = sum(GROUPS[name] for name in groups[number:] if name != "model")
            share = 1 if group == "model" else GROUPS[group] / later
            seconds = share * (end - time.monotonic()) - MARGIN
            if seconds < SHORTEST:
                _note(results, group, skipped="no time left")
            else:
                _spawn(options, group, scratch, time.monotonic() + seconds)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    from scripts.gpu_check.results import has_failed, read_results
    from scripts.gpu_check.table import print_summary

    found = read_results(results)
    print_summary(found, options.out)
    tried = {line["group"] for line in found if "skipped" not in line}
    return int(any(has_failed(line) for line in found) or not tried >= {*groups})


def _has_card() -> bool:
    import torch

    return torch.cuda.is_available()


def _spawn(options: argparse.Namespace, group: str, scratch: Path, deadline: float) -> None:
    command = [sys.executable, "-m", "scripts.gpu_check", "--group", group]
    command += ["--out", str(options.out), "--scratch", str(scratch)]
    command += ["--deadline", str(deadline), *(["--tiny"] if options.tiny else [])]
    results = options.out / "results.jsonl"
    environment = os.environ | {
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
    }
    print(f"== {group}", flush=True)
    # A process group of its own, so that whatever it started ends with it.
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        try:
            code = process.wait(deadline - time.monotonic() + MARGIN)
        except subprocess.TimeoutExpired:
            _note(results, group, error="it did not end in time")
            code = 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if code:
        _note(results, group, error=f"the process ended with {code}")


def _note(results: Path, group: str, **found: str) -> None:
    line = json.dumps({"group": group, "step": "the whole group", **found})
    with results.open("a", encoding="utf-8") as opened:
        opened.write(line + "\n")
    print(line, flush=True)


def _run_group(options: argparse.Namespace) -> None:
    import torch

    from banatie.offline import stay_offline
    from scripts.gpu_check import fast, fits, right, service
    from scripts.gpu_check.context import Context
    from scripts.gpu_check.results import Recorder

    stay_offline()
    device = "cpu" if options.tiny else "cuda"
    results = options.out / "results.jsonl"
    recorder = Recorder(results, options.group, options.deadline, device)
    model = options.scratch / "sdxl-random"
    if options.group == "model":
        recorder.record("machine", **_machine(torch))
        recorder.step("written", lambda: _write_model(model, device, options.tiny))
        return
    groups: dict[str, Callable[[Context], None]] = {
        "right": right.run,
        "fast": fast.run,
        "service": service.run,
        "fits": fits.run,
        "compiled": fast.run_compiled,
    }
    groups[options.group](Context.of(recorder, options.out, model, options.tiny))


def _write_model(folder: Path, device: str, tiny: bool) -> dict:
    if tiny:
        from tests.support.tiny_models import make_tiny_sdxl

        make_tiny_sdxl(folder)
    else:
        from scripts.gpu_check.model import write_full_size

        write_full_size(folder, device)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {"GB": round(size / 1e9, 2)}


def _machine(torch) -> dict:
    found = {"torch": torch.__version__, "cuda": torch.version.cuda, "python": sys.version[:6]}
    if not torch.cuda.is_available():
        return {**found, "card": "none"}
    properties = torch.cuda.get_device_properties(0)
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, timeout=10)
        found["driver"] = driver.stdout.strip()
    return {**found, "card": properties.name, "GB": round(properties.total_memory / 1e9, 1)}


if __name__ == "__main__":
    sys.exit(main())
