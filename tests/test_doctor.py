"""The doctor: each trouble is caused for real, found, and comes with what to do about it."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from banatie.cli.main import run
from banatie.config import load_config
from banatie.doctor import Finding, examine
from banatie.records import Image
from banatie.store.database import Database
from banatie.store.files import Files, image_key
from banatie.store.images import insert_image
from banatie.store.keys import Keys
from banatie.store.locks import hold_role
from banatie.store.workers import Workers, WorkerState

NOW = 1_764_324_000_000
CHECKS = [
    *("data folder", "disk", "database", "pictures", "worker", "port", "address"),
    *("painting model", "language model", "device", "memory", "offline"),
]


@pytest.fixture(scope="session")
def good_models(tmp_path_factory, tiny_sdxl, tiny_language_model) -> Path:
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(tiny_sdxl, folder / "painting")
    shutil.copytree(tiny_language_model, folder / "language")
    return folder


@pytest.fixture
def models(good_models, tmp_path) -> Path:
    """Models of the test's own, to be damaged."""
    return Path(shutil.copytree(good_models, tmp_path / "models"))


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def settings(models, tmp_path, port) -> dict[str, object]:
    return {
        "server.port": port,
        "storage.data_dir": str(tmp_path / "data"),
        "storage.models_dir": str(models),
        "painting.model": "painting",
        "painting.devices": "cpu",
        "enhancement.model": "language",
    }


@pytest.fixture
def examined(settings, monkeypatch):
    """The findings by their checks, for the settings with these changes."""
    # The doctor tells the libraries by the environment to stay offline; the other tests' is as was.
    monkeypatch.setattr(os, "environ", os.environ.copy())

    def examined(**changes: object) -> dict[str, Finding]:
        changed = {name.replace("__", "."): value for name, value in changes.items()}
        config = load_config(None, {}, {**settings, **changed})
        found = list(examine(config, NOW))
        names = [finding.check for finding in found]
        assert names == [name for name in CHECKS if name in names]
        assert all(finding.found for finding in found)
        assert all(finding.remedy for finding in found if finding.state != "ok")
        return {finding.check: finding for finding in found}

    return examined


@pytest.fixture
def database(tmp_path) -> Path:
    """A database with something in it."""
    data = tmp_path / "data"
    data.mkdir()
    database = Database(data / "banatie.db")
    database.migrate()
    state = WorkerState("w", 7, "ready", device="cpu", plan="the UNet in the cellar")
    Workers(database).report(state, NOW)
    with database.writing() as connection:
        connection.executemany(
            "INSERT INTO organizations VALUES (?, ?, 0)",
            [(f"id-{number}", f"slug-{number}") for number in range(5000)],
        )
    database.close_checkpointed()
    return data / "banatie.db"


def test_all_is_well_and_nothing_is_made(examined, tmp_path):
    found = examined()
    found.pop("offline")
    assert {finding.state for finding in found.values()} == {"ok"}
    assert "painting: 4 weight files intact" in found["painting model"].found
    assert "cpu: paints in float32" in found["device"].found
    assert not (tmp_path / "data").exists()


def test_a_data_folder_is_left_as_it_is(examined, database):
    before = _snapshot(database.parent)
    found = examined()
    assert found["database"].state == "ok"
    assert found["database"].found.endswith("up to date")
    assert found["worker"].found == "ready on cpu (process 7)"
    assert found["memory"].found == "the UNet in the cellar (process 7)"
    assert _snapshot(database.parent) == before


def test_a_database_in_use_is_read_with_what_is_only_in_its_log(examined, database):
    writer = Database(database)
    workers = Workers(writer)
    workers.report(WorkerState("w", 8, "broken", "The model 'x' cannot be used"), NOW)
    assert database.with_name("banatie.db-wal").stat().st_size > 0
    with writer.writing() as connection:
        connection.execute("DELETE FROM organizations")
        # In the middle of somebody's write.
        found = examined()
    writer.close()
    assert found["database"].state == "ok"
    assert found["worker"] == Finding(
        "worker",
        "FAIL",
        "The model 'x' cannot be used",
        "see the models below and the worker's log",
    )


def test_of_several_workers_a_broken_one_is_told_of(examined, database):
    writer = Database(database)
    workers = Workers(writer)
    workers.report(WorkerState("v", 8, "broken", "The device 'cuda:1' cannot be used"), NOW)
    workers.report(WorkerState("x", 9, "starting"), NOW)
    writer.close_checkpointed()
    finding = examined()["worker"]
    assert finding.state == "warn"
    assert "ready on cpu (process 7); The device 'cuda:1' cannot be used" in finding.found
    assert "loading its models (process 9)" in finding.found


def test_workers_on_one_device_share_its_memory(examined):
    def free(times: int) -> float:
        found = examined(painting__devices=",".join(["cpu"] * times))["memory"].found
        return float(re.search(r"of ([\d.]+) GB free on cpu", found)[1])

    assert free(1) > 1.8 * free(2)


def test_what_the_settings_want_is_planned(examined):
    assert "up to 4 pictures at once" in examined(painting__max_batch=4)["memory"].found


def test_a_damaged_database_is_found(examined, database):
    content = bytearray(database.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = os.urandom(3000)
    database.write_bytes(content)
    finding = examined()["database"]
    assert finding.state == "FAIL"
    assert "banatie restore" in finding.remedy


def test_what_is_no_database_is_found(examined, database):
    database.write_bytes(b"not a database " * 1000)
    assert examined()["database"].state == "FAIL"


def test_a_database_that_is_not_up_to_date_is_told_of(examined, database):
    with sqlite3.connect(database) as connection:
        connection.execute("DELETE FROM _sqlite_migrations WHERE name = 'add_measures'")
    connection.close()
    finding = examined()["database"]
    assert finding.state == "warn"
    assert "add_measures" in finding.found
    assert "banatie migrate" in finding.remedy


def test_a_worker_that_has_fallen_silent_is_none(examined, database):
    writer = Database(database)
    Workers(writer).report(WorkerState("w", 7, "ready", device="cpu"), NOW - 60_000)
    writer.close_checkpointed()
    assert "none is running" in examined()["worker"].found


def test_a_restore_is_advised_only_for_damage(examined, tmp_path):
    (tmp_path / "data" / "banatie.db").mkdir(parents=True)
    finding = examined()["database"]
    assert finding.state == "FAIL"
    assert "restore" not in finding.remedy


def test_a_network_disk_is_found(examined, monkeypatch):
    share = SimpleNamespace(fstype="nfs4", mountpoint="/")
    monkeypatch.setattr("psutil.disk_partitions", lambda all: [share])
    finding = examined()["data folder"]
    assert finding.state == "warn"
    assert "network disk, nfs4 at /" in finding.found


def test_a_file_in_the_place_of_the_data_folder_is_found(examined, tmp_path):
    (tmp_path / "file").touch()
    for place in ("file", "file/data"):
        finding = examined(storage__data_dir=str(tmp_path / place))["data folder"]
        assert finding.state == "FAIL"
        assert f"{tmp_path}/file is not a folder" in finding.found


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_that_cannot_be_written_is_found(examined, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    assert examined(storage__data_dir=str(closed / "data"))["data folder"].state == "FAIL"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system without room")
def test_a_disk_without_room_is_found(examined):
    finding = examined(storage__data_dir="/proc/banatie")["disk"]
    assert (finding.state, finding.found) == ("FAIL", "0 bytes free for /proc/banatie")


class _Stranger(http.server.BaseHTTPRequestHandler):
    """Some other server; what it answers is put in `answer`."""

    answer = b"<html>"

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"data": 3}', b'{"data": {}}', b""])
def test_a_port_that_another_program_has_is_found(examined, port, answer):
    handler = type("Handler", (_Stranger,), {"answer": answer})
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as stranger:
        threading.Thread(target=stranger.serve_forever, args=(0.01,), daemon=True).start()
        finding = examined()["port"]
        stranger.shutdown()
    assert finding.state == "FAIL"
    assert "is taken" in finding.found
    assert "server.port" in finding.remedy


def test_a_server_at_another_address_is_not_overlooked(examined, tmp_path):
    with hold_role(tmp_path / "data", "serve"):
        finding = examined()["port"]
    assert finding.state == "warn"
    assert f"`banatie serve` (process {os.getpid()}) runs on this data folder" in finding.found
    assert "--port" in finding.remedy
    assert examined()["port"].found.endswith("is free; no server is running")


def test_the_doctor_takes_the_servers_options(port, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    options = ["--host", "127.0.0.2", "--port", str(port), "--data-dir", str(tmp_path)]
    run(["doctor", *options])
    assert f"127.0.0.2:{port} is free" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2"),
        ("0.0.0.0", "127.0.0.1"),
        ("::1", "[::1]"),
        ("::", "[::1]"),
    ],
)
def test_the_server_is_asked_where_it_listens(examined, port, host, asked):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((host, 0))
    except OSError:
        pytest.skip(f"this machine has no {host}")
    assert examined(server__host=host)["port"].found.startswith(f"{asked}:{port} is free")
    handler = type("Handler", (_Stranger,), {"answer": b'{"data": {"status": "broken"}}'})
    server = type("Server", (http.server.ThreadingHTTPServer,), {"address_family": family})
    with server((host, port), handler) as banatie:
        threading.Thread(target=banatie.serve_forever, args=(0.01,), daemon=True).start()
        finding = examined(server__host=host)["port"]
        banatie.shutdown()
    assert finding.state == "FAIL"
    assert f"answers on {asked}:{port}" in finding.found
    assert f"http://{asked}:{port}/health" in finding.remedy


def test_an_address_that_others_reach_is_warned_about(examined):
    assert examined(server__host="0.0.0.0")["address"].state == "warn"
    assert examined(server__host="::1")["address"].state == "ok"
    assert examined(server__host="localhost")["address"].state == "ok"


def test_an_address_that_is_none_is_found(examined):
    assert examined(server__host="192.0.2.1")["port"].state == "FAIL"


def test_models_that_are_not_there_are_found(examined, models):
    found = examined(painting__model="none", enhancement__model="smollm2-135m-instruct")
    assert found["painting model"].state == "FAIL"
    assert found["language model"].state == "warn"
    assert "banatie models pull smollm2-135m-instruct" in found["language model"].found
    assert found["device"].state == "ok"


def test_weights_that_are_cut_are_found(examined, models):
    for name in ("painting/unet/diffusion_pytorch_model", "language/model"):
        file = models / f"{name}.safetensors"
        os.truncate(file, file.stat().st_size - 1)
    found = examined()
    for check in ("painting model", "language model"):
        assert found[check].state == "FAIL"
        assert "is incomplete" in found[check].found


def test_a_model_that_is_not_what_the_catalog_knows_is_found(examined, models):
    (models / "language").rename(models / "smollm2-135m-instruct")
    finding = examined(enhancement__model="smollm2-135m-instruct")["language model"]
    assert finding.state == "FAIL"
    assert "SHA-256 differs" in finding.found
    assert finding.remedy.endswith("run: banatie models pull smollm2-135m-instruct")


def test_of_a_taught_model_no_hash_is_claimed(examined, models):
    folder = (models / "language").rename(models / "smollm2-135m-instruct")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "merged_adapter": "9e0a"}))
    finding = examined(enhancement__model="smollm2-135m-instruct")["language model"]
    assert finding.state == "ok"
    assert "no hashes known" in finding.found


def test_models_that_no_memory_holds_are_found(examined, models):
    file = models / "painting" / "unet" / "diffusion_pytorch_model.safetensors"
    numbers = 10**12
    tensor = {"dtype": "F32", "shape": [numbers], "data_offsets": [0, 4 * numbers]}
    head = json.dumps({"w": tensor}).encode()
    with file.open("wb") as opened:
        opened.write(len(head).to_bytes(8, "little") + head)
        # Four terabytes of nothing, which take no room.
        opened.truncate(8 + len(head) + 4 * numbers)
    found = examined()
    assert found["painting model"].state == "ok"
    assert found["memory"].state == "FAIL"
    # In bfloat16, with the little that the other parts take.
    assert "with about 2000." in found["memory"].found
    # And a processor would take for ever.
    assert found["device"].state == "warn"


@pytest.mark.parametrize("device", ["gpu", "cuda:63", "mps:9"])
def test_a_device_that_is_not_there_is_found(examined, device):
    found = examined(painting__devices=device)
    assert found["device"].state == "FAIL"
    assert f"{device!r} cannot be used: " in found["device"].found
    assert "memory" not in found


def test_wrong_settings_are_a_finding(capsys):
    assert run(["--set", "server.prot=1", "doctor"]) == 1
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("FAIL  settings ")
    assert "unknown setting 'server.prot'" in line


@pytest.mark.end_to_end
def test_the_command_says_it_in_lines_and_in_json(settings, tmp_path):
    """In processes of their own, so that what is said about being offline is about them."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "HF_HUB_OFFLINE": "0",
        "HTTPS_PROXY": "http://proxy.invalid:3128",
        **{
            f"BANATIE_{name.upper().replace('.', '__')}": str(value)
            for name, value in settings.items()
        },
    }

    def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "banatie", *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )

    well = doctor("doctor")
    assert (well.returncode, well.stderr) == (0, ""), well.stdout + well.stderr
    lines = well.stdout.splitlines()
    assert [line[6:22].rstrip() for line in lines] == ["settings", *CHECKS]
    assert {line[:4] for line in lines} == {"ok  "}
    assert "set to download nothing" in lines[-1]
    assert "(https)" in lines[-1]
    ill = doctor("--set", "painting.model=none", "doctor", "--json")
    assert (ill.returncode, ill.stderr) == (1, "")
    told = json.loads(ill.stdout)
    assert told["ok"] is False
    [failed] = [check for check in told["checks"] if check["state"] == "FAIL"]
    assert (failed["check"], set(failed)) == (
        "painting model",
        {"check", "state", "found", "remedy"},
    )


def _snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    time.sleep(0.02)
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*.*")}


def test_pictures_that_do_not_match_their_rows_are_found(examined, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    with contextlib.closing(Database(data / "banatie.db")) as database:
        database.migrate()
        project_id = Keys(database).default_project_id(1)
        stray = image_key("default", project_id, "stray", "uploaded", "png")
        Files(data / "storage").save(stray, b"png")
        finding = examined()["pictures"]
        assert finding.state == "warn"
        assert stray in finding.found
        lost = image_key("default", project_id, "lost", "uploaded", "png")
        image = Image("i", project_id, lost, "image/png", 1, 1, 3, 1, source="uploaded")
        with database.writing() as connection:
            insert_image(connection, image)
        finding = examined()["pictures"]
        assert finding.state == "FAIL"
        assert lost in finding.found
        Files(data / "storage").save(lost, b"png")
        Files(data / "storage").remove(stray)
        assert examined()["pictures"].state == "ok"
