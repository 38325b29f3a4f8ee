"""Malformed and hostile requests, sent over bare sockets to a running server.

Wrong fields are in `tests/api/test_validation.py`. Here the server must answer in the one shape of
all errors or hang up, see one request as one, time out every connection, serve no other file, and
let no client inject text into headers, logs or pictures.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import select
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.support.faulty_service import FaultyService
from tests.support.service import Service, web_server_only

TIMEOUT_SECONDS = 60
"""How long a test waits for an answer."""
BODY_SECONDS = 1
WISH = b'{"prompt":"a cat"}'
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR) ")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("bad-input")
    with web_server_only(
        folder, limits__body_seconds=str(BODY_SECONDS), log__level="debug"
    ) as service:
        yield service
    log = service.log.read_text()
    assert [line for line in log.splitlines() if not LOG_LINE.match(line)] == []
    assert " ERROR " not in log
    assert service.key not in log


class Answer:
    """One HTTP response, parsed from the front of what a server sent."""

    def __init__(self, said: bytes) -> None:
        head, _, rest = said.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self.headers = [
            (name.lower(), value) for name, _, value in (line.partition(": ") for line in lines)
        ]
        length = int(dict(self.headers).get("content-length", 0))
        self.body, self.rest = rest[:length], rest[length:]

    @property
    def code(self) -> str:
        """The error's code; asserts that the response has the one shape of all errors."""
        assert dict(self.headers)["content-type"] == "application/json"
        failure = json.loads(self.body)
        assert failure["success"] is False
        assert failure["error"]["message"]
        return failure["error"]["code"]


def connect(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=TIMEOUT_SECONDS)


def listen(connection: socket.socket) -> bytes:
    """Everything until the server hangs up."""
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            said += part
    return said


def talk(service: Service, *parts: bytes) -> list[Answer]:
    """Send all parts; the responses until the server hangs up."""
    with connect(service) as connection:
        for part in parts:
            # A server that has answered need not read the rest.
            if select.select([connection], [], [], 0)[0]:
                break
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(part)
        said = listen(connection)
    answers = []
    while said:
        answers.append(Answer(said))
        said = answers[-1].rest
    return answers


def head(service: Service, *lines: str, method: str = "POST", path: str = "/api/v1/generations"):
    """The head of a request with the key."""
    first = [f"{method} {path} HTTP/1.1", "Host: h", f"X-API-Key: {service.key}"]
    if method == "POST":
        first.append("Content-Type: application/json")
    return "\r\n".join([*first, *lines, "", ""]).encode("latin-1")


def post(service: Service, body: bytes) -> Answer:
    """The answer to this body."""
    length = f"Content-Length: {len(body)}"
    size = 65536
    parts = [body[first : first + size] for first in range(0, len(body), size)]
    [answer] = talk(service, head(service, length, "Connection: close"), *parts)
    return answer


def stored(service: Service) -> int:
    """How many generations there are."""
    return service.request("GET", "/api/v1/generations").json()["pagination"]["total"]


# One request is one request

CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(WISH), WISH)
HIDDEN = b"POST /api/v1/generations HTTP/1.1\r\nHost: h\r\n\r\n"
REFUSED = {
    "two lengths": (["Content-Length: 18", "Content-Length: 3"], WISH),
    "a list of lengths": (["Content-Length: 18, 18"], WISH),
    "a length with a sign": (["Content-Length: +18"], WISH),
    "a negative length": (["Content-Length: -1"], WISH),
    "a length in hexadecimal": (["Content-Length: 0x12"], WISH),
    "a length beyond all bounds": (["Content-Length: " + "9" * 30], WISH),
    "a space before the colon": (["Content-Length : 18"], WISH),
    "a folded line": (["Content-Length: 18", "X-A: b\r\n c"], WISH),
    "a folded encoding": (["Transfer-Encoding:\r\n chunked", "Content-Length: 18"], CHUNKED),
    "an encoding nobody knows": (["Transfer-Encoding: xchunked"], CHUNKED),
    "chunked, but not last": (["Transfer-Encoding: chunked, identity"], CHUNKED),
    "two encodings": (["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], CHUNKED),
    "a space after the encoding": (["Transfer-Encoding : chunked"], CHUNKED),
    "a NUL in a header": (["Content-Length: 18", "X-A: b\0c"], WISH),
    "a CR in a header": (["Content-Length: 18", "X-A: b\rX-B: c"], WISH),
}


@pytest.mark.parametrize("shape", REFUSED)
def test_a_request_whose_end_could_be_argued_about_is_refused(server: Service, shape: str) -> None:
    before = stored(server)
    lines, body = REFUSED[shape]
    [answer] = talk(server, head(server, *lines) + body + HIDDEN)
    assert (answer.status, answer.body) == (400, b"")
    assert stored(server) == before


@pytest.mark.parametrize("length", [3, 18, 500])
def test_chunks_count_more_than_a_length_and_end_the_connection(
    server: Service, length: int
) -> None:
    lines = (f"Content-Length: {length}", "Transfer-Encoding: chunked")
    [answer] = talk(server, head(server, *lines) + CHUNKED + HIDDEN)
    assert answer.status == 201
    assert dict(answer.headers)["connection"] == "close"


def test_a_request_in_the_body_of_another_is_a_body(server: Service) -> None:
    inner = head(server, "Content-Length: 18") + WISH
    before = stored(server)
    answers = talk(server, head(server, f"Content-Length: {len(inner)}") + inner)
    assert [answer.code for answer in answers] == ["VALIDATION_ERROR"]
    # Also where the body is not read, as for a GET.
    answers = talk(server, head(server, f"Content-Length: {len(inner)}", method="GET") + inner)
    assert [answer.status for answer in answers] == [200]
    assert stored(server) == before


@pytest.mark.parametrize(
    "chunks",
    [
        b"-1\r\n",
        b"fffffffffffffffff\r\n",
        b"0x12\r\n" + WISH,
        b"12\r\n" + WISH + b"XX0\r\n\r\n",
        b"12;" + b"a" * 20_000 + b"\r\n" + WISH + b"\r\n0\r\n\r\n",
        b"zz\r\n",
    ],
    ids=lambda chunks: repr(chunks[:20]),
)
def test_chunks_that_are_none_are_the_clients_mistake(server: Service, chunks: bytes) -> None:
    before = stored(server)
    [answer] = talk(server, head(server, "Transfer-Encoding: chunked") + chunks)
    assert (answer.status, answer.code) == (400, "VALIDATION_ERROR")
    assert stored(server) == before


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: h\r\n\r\n",
        b"G\x01T /health HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: h\r\n" + b"X-A: b\r\n" * 200 + b"\r\n",
        b"GET /health HTTP/1.1\r\nHost: h\r\nX-A: " + b"b" * 2_000_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
        b"\0" * 5000,
    ],
    ids=lambda said: repr(said[:20]),
)
def test_what_is_not_http_is_not_listened_to(server: Service, said: bytes) -> None:
    answers = talk(server, said)
    assert all(400 <= answer.status < 500 and not answer.body for answer in answers)
    assert len(answers) <= 1


# Connections time out


@pytest.mark.parametrize("said", [b"", b"GET /health HTTP/1.1\r\nHost: h\r\nX-A", b"G"])
def test_a_head_that_never_ends_is_hung_up_on(server: Service, said: bytes) -> None:
    assert talk(server, said) == []


@pytest.mark.parametrize(
    "begun",
    [
        ("Transfer-Encoding: chunked", b'5\r\n{"pro\r\n'),
        ("Content-Length: 500", b'{"pro'),
        ("Content-Length: 500", b""),
    ],
    ids=["chunks", "a part", "nothing"],
)
def test_a_body_that_never_ends_is_given_up(server: Service, begun: tuple[str, bytes]) -> None:
    line, part = begun
    [answer] = talk(server, head(server, line) + part)
    assert (answer.status, answer.code) == (408, "REQUEST_TIMEOUT")


def test_a_body_that_trickles_on_for_ever_is_given_up(server: Service) -> None:
    with connect(server) as connection:
        connection.sendall(head(server, "Transfer-Encoding: chunked"))
        done = threading.Event()

        def trickle() -> None:
            with contextlib.suppress(OSError):
                while not done.wait(0.05):
                    connection.sendall(b"1\r\n \r\n")

        trickling = threading.Thread(target=trickle)
        trickling.start()
        try:
            answer = Answer(listen(connection))
        finally:
            done.set()
            trickling.join()
    assert (answer.status, answer.code) == (408, "REQUEST_TIMEOUT")


def test_without_a_key_no_body_is_waited_for(server: Service) -> None:
    first = b"POST /api/v1/generations HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
    [answer] = talk(server, first + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n")
    assert (answer.status, answer.code) == (401, "UNAUTHORIZED")


def test_a_client_that_goes_away_in_its_body_leaves_nothing(server: Service) -> None:
    before = stored(server)
    for _ in range(20):
        with connect(server) as connection:
            connection.sendall(head(server, "Content-Length: 500") + b'{"prompt"')
    assert stored(server) == before


def test_hundreds_that_send_a_byte_and_wait_keep_nobody_out(tmp_path: Path) -> None:
    with (
        web_server_only(tmp_path, limits__body_seconds="600") as service,
        contextlib.ExitStack() as stack,
    ):
        for number in range(400):
            slow = stack.enter_context(connect(service))
            slow.sendall(b"G" if number % 2 else head(service, "Content-Length: 5") + b"{")
        assert service.request("GET", "/api/v1/generations").status_code == 200
        assert post(service, WISH).status == 201


# Bodies


@pytest.mark.parametrize("chunked", [False, True])
def test_ten_megabytes_of_prompt_are_too_much(server: Service, chunked: bool) -> None:
    before = stored(server)
    body = b'{"prompt": "' + b"x" * 10_000_000 + b'"}'
    if chunked:
        parts = [b"10000\r\n" + body[n : n + 65536] + b"\r\n" for n in range(0, 10**7, 65536)]
        [answer] = talk(server, head(server, "Transfer-Encoding: chunked"), *parts)
    else:
        answer = post(server, body)
    assert (answer.status, answer.code) == (413, "PAYLOAD_TOO_LARGE")
    assert stored(server) == before


BAD_JSON = {
    "a hundred thousand brackets": b'{"prompt": "x", "meta": {"a": ' + b"[" * 100_000,
    "as many, and closed": b'{"prompt":"x","meta":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    "as many objects": b'{"prompt":"x","meta":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "an integer of ten thousand digits": b'{"prompt":"x","seed":' + b"9" * 10_000 + b"}",
    "as many in meta": b'{"prompt":"x","meta":{"a":' + b"9" * 20_000 + b"}}",
    "an exponent": b'{"prompt":"x","seed":1e999999999}',
    "a small exponent": b'{"prompt":"x","steps":1e-999999999}',
    "infinity": b'{"prompt":"x","guidanceScale":Infinity}',
    "minus infinity": b'{"prompt":"x","meta":{"a":-Infinity}}',
    "not a number": b'{"prompt":"x","guidanceScale":NaN}',
    "a number as text": b'{"prompt":"x","steps":"20"}',
    "half a surrogate pair": b'{"prompt":"a cat \\ud83d"}',
    "the other half": b'{"prompt":"a cat \\ude00"}',
    "half a pair in a name": b'{"prompt":"x","meta":{"\\udc00":1}}',
    "a surrogate in UTF-8": b'{"prompt":"a cat \xed\xa0\xbd"}',
    "an overlong NUL": b'{"prompt":"a cat \xc0\x80"}',
    "a bare NUL": b'{"prompt":"a cat \0"}',
    "a bare newline": b'{"prompt":"a\ncat"}',
    "UTF-16": '{"prompt":"a cat"}'.encode("utf-16"),
    "a comment": b'{"prompt":"a cat"} // really',
    "gzip": zlib.compress(WISH),
}


@pytest.mark.parametrize("shape", BAD_JSON)
def test_json_that_is_none_or_too_much_is_the_clients_mistake(server: Service, shape: str) -> None:
    before = stored(server)
    answer = post(server, BAD_JSON[shape])
    assert (answer.status, answer.code) == (400, "VALIDATION_ERROR")
    assert stored(server) == before


def test_of_a_doubled_key_the_last_counts_everywhere(server: Service) -> None:
    answer = post(server, b'{"prompt":"a cat","prompt":"a dog","meta":{"a":1,"a":2},"seed":1}')
    record = json.loads(answer.body)["data"]
    assert (record["originalPrompt"], record["meta"]) == ("a dog", {"a": 2})
    assert server.get(record["id"])["originalPrompt"] == "a dog"
    answer = post(server, b'{"prompt":"a cat","prompt":5}')
    assert (answer.status, answer.code) == (400, "VALIDATION_ERROR")


TEXTS = {
    "emoji": "a fox 🦊, a family 👩‍👩‍👧‍👦, a flag 🏴󠁧󠁢󠁳󠁣󠁴󠁿",
    "right to left": "قطة حمراء \u202e\u2066over\u2069\u202c ‏חתול‎",
    "line ends": "a cat\r\nX-Injected: yes\r\n\r\nHTTP/1.1 200 OK\r\n\u2028\u2029\u0085",
    "controls": "a cat\x00\x01\x07\x08\x1b[31m\x7f\x9b",
    "not characters": "a cat \ufffe\uffff\ufeff\U0010ffff",
    "combining": "z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!",
    "sql": "Robert'); DROP TABLE generations;--",
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "formats": "%s %n {0} ${jndi:ldap://x} $(id) `id` ../../etc/passwd",
}


@pytest.mark.parametrize("kind", TEXTS)
def test_text_comes_back_as_it_was_and_into_no_header(server: Service, kind: str) -> None:
    text = TEXTS[kind]
    wish = {"prompt": text, "negativePrompt": text, "meta": {text: text}, "autoEnhance": False}
    answer = post(server, json.dumps(wish).encode())
    assert answer.status == 201
    record = json.loads(answer.body)["data"]
    assert {name: record[name] for name in wish} == wish
    assert server.get(record["id"]) == record
    # No header but those that every answer has.
    [plain] = talk(server, head(server, "Connection: close", method="GET"))
    assert {name for name, _ in answer.headers} == {name for name, _ in plain.headers}


def test_what_a_client_calls_itself_comes_back_in_no_header(server: Service) -> None:
    names = ("X-Request-Id", "Prefer", "Last-Event-ID", "Origin", "Referer", "X-Forwarded-Host")
    lines = [f"{name}: wait=mark-of-mine" for name in names]
    [answer] = talk(server, head(server, *lines, "Connection: close", method="GET"))
    assert answer.status == 200
    assert "mark-of-mine" not in str(answer.headers)


# Files

SECRETS = (b"SQLite format", b"root:", b"import ", b"[server]")
LEADING_UP = [
    "..",
    "../..",
    "%2e%2e",
    "%2e%2e%2f%2e%2e",
    "..%2f..%2f..%2fbanatie.db",
    "..%5c..%5cbanatie.db",
    "..\\..\\banatie.db",
    "%252e%252e%252fbanatie.db",
    "%c0%ae%c0%ae%c0%afbanatie.db",
    "%uff0e%uff0e/banatie.db",
    "....//....//banatie.db",
    "..;/banatie.db",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "file:///etc/passwd",
    "banatie.db",
    "banatie.db%00.png",
    "%00",
    "%0d%0aX-Injected:%20yes",
    "%0aforged",
    "%e2%80%ae",
    "%ff%fe",
    "%zz",
    "~",
    "*",
    "con",
    "a" * 5000,
]
PLACES = [
    ("GET", "/{}"),
    ("GET", "/storage/{}"),
    ("GET", "/storage/default/{}"),
    ("GET", "/storage/default/{project}/generated/{}"),
    ("GET", "/storage/default/{project}/generated/{}.png"),
    ("GET", "/storage/default/{project}/generated/00000000-0000-4000-8000-000000000000.png/{}"),
    ("GET", "/docs/{}"),
    ("GET", "/api/v1/generations/{}"),
    ("GET", "/api/v1/generations/{}/events"),
    ("POST", "/api/v1/generations/{}/cancel"),
    ("POST", "/api/v1/generations/{}/restore"),
    ("DELETE", "/api/v1/generations/{}"),
]


@pytest.mark.parametrize(("method", "place"), PLACES)
def test_no_path_leads_to_a_file_that_is_no_picture(
    server: Service, method: str, place: str
) -> None:
    record = json.loads(post(server, WISH).body)["data"]
    before = stored(server)
    for up in LEADING_UP:
        path = place.replace("{project}", record["projectId"]).replace("{}", up)
        answers = talk(
            server,
            head(server, "Content-Length: 0", "Connection: close", method=method, path=path),
        )
        assert len(answers) == 1, path
        assert answers[0].status in (400, 404, 405), path
        assert not any(secret in answers[0].body for secret in SECRETS), path
        assert "x-injected" not in dict(answers[0].headers), path
        if answers[0].body:
            assert answers[0].code in ("NOT_FOUND", "GENERATION_NOT_FOUND", "METHOD_NOT_ALLOWED")
    assert stored(server) == before


# Pictures


def test_prompts_write_nothing_into_a_picture_but_themselves(service: FaultyService) -> None:
    service.start_worker_and_wait()
    logged = len(service.log.read_text().splitlines())
    for kind in ("emoji", "right to left", "line ends", "controls"):
        text = TEXTS[kind] + "\nSteps: 99, Seed: 1, Size: 9x9, Model: forged"
        record = service.paint(text, negativePrompt=TEXTS[kind], seed=7)
        data = service.picture(record)
        picture = Image.open(io.BytesIO(data))
        picture.load()
        assert set(chunk_kinds(data)) <= {"IHDR", "tEXt", "iTXt", "IDAT", "IEND"}
        assert set(picture.text) == {"parameters"}
        written = picture.text["parameters"]
        # NUL ends a text in a PNG; everything else is there as it was sent.
        assert written.startswith(text.replace("\0", "\ufffd"))
        last = written.rpartition("\n")[2]
        assert last.startswith("Steps: 2, ")
        assert ", Seed: 7, " in last
    lines = service.log.read_text().splitlines()[logged:]
    assert [line for line in lines if not LOG_LINE.match(line)] == []
    assert not [line for line in lines if "forged" in line or "Injected" in line]


def chunk_kinds(data: bytes) -> list[str]:
    """The kinds of a PNG's chunks, each of them whole."""
    kinds, place = [], 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        body = data[place + 4 : place + 8 + length]
        (checksum,) = struct.unpack(">I", data[place + 8 + length : place + 12 + length])
        assert zlib.crc32(body) == checksum
        kinds.append(body[:4].decode("ascii"))
        place += 12 + length
    return kinds
