"""Requests that a server must survive: every one gets a status below 500, and /health answers within half a second.

    isoflop serve RUN_ID --port 8000 &
    python -m tests.proofs.doors.server_attack 8000 RUN_ID [--generated 300] [--seed 0]

Requests that are written down, then generated ones: good bodies with values and bytes changed, by (seed, number), and
heads that are no HTTP. Prints one line a failure and a total. The server must be on 127.0.0.1; it takes about a minute.
"""

import argparse
import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from tests.support.doors.damage import damaged, with_other_values

HEALTH_SECONDS, ANSWER_SECONDS = 0.5, 120
AT_ONCE = 16  # heads
COMPLETIONS, CHAT, RESPONSES = "/v1/completions", "/v1/chat/completions", "/v1/responses"
GOOD = {
    COMPLETIONS: {"prompt": "ab", "max_tokens": 2},
    CHAT: {"messages": [{"role": "user", "content": "ab"}], "max_tokens": 2},
    RESPONSES: {"input": "ab", "max_output_tokens": 2},
}
WRONG: list[Any] = ["x", -1, True, [], {}, 1e300, 10**30, [[1]], "\ud800"]
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Attack:
    """One request and the statuses that it may get; () for any below 500."""

    name: str
    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    statuses: tuple[int, ...] = ()


@dataclass
class Outcome:
    """How many requests were sent, and one line for each that failed."""

    sent: int = 0
    failures: list[str] = field(default_factory=list)
    slowest_health: float = 0.0
    current: str = ""


def attacks(model: str) -> list[Attack]:
    """At least 150 requests."""
    made = [
        Attack(f"{method} {path}", method, path, b'{"model": "/"}', JSON, (404, 405))
        for path in (
            "/load_model",
            "/reset",
            "/v1/systemone",
            "/v1/audio/transcriptions",
            "/docs",
            "/openapi.json",
            "/",
        )
        for method in ("GET", "POST")
    ]
    for path, good in GOOD.items():
        made.append(Attack(f"good {path}", "POST", path, _json(good), JSON, (200,)))
        made += [Attack(f"{method} {path}", method, path, statuses=(405,)) for method in ("GET", "OPTIONS", "PUT")]
        for content in (b"", b"{", b"[]", b"5", b"null", b"\xff\xfe", b"[" * 10**5, b'{"a":' * 10**5):
            made.append(Attack(f"{path} {content[:9]!r}", "POST", path, content, JSON, (400, 422)))
        fields = ["temperature", "top_p", "top_k", "seed", "stream", "num_beams", "generation_config", *list(good)]
        for name in [*fields, *(["stop", "n"] if path != RESPONSES else ["instructions"])]:
            for value in WRONG:
                status = () if (name, value) in _TAKEN else (400,)
                body = _json(good | {name: value})
                made.append(Attack(f"{path} {name}={value!r:.20}", "POST", path, body, JSON, status))
        made.append(Attack(f"{path} model", "POST", path, _json(good | {"model": "/etc"}), JSON, (404,)))
        for header in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
            made.append(Attack(f"{path} {header}", "POST", path, _json(good), JSON | header, (403,)))
        made.append(Attack(f"{path} text", "POST", path, _json(good), {"Content-Type": "text/plain"}, (415,)))
        made.append(Attack(f"{path} 10 MB", "POST", path, b" " * 10**7, JSON, (413,)))
    for unit in ("x", " ", "\n", "1 ", "\u65e5", "a\u0301", "\x00"):
        text = unit * (900_000 // len(_json(unit)))
        made.append(Attack(f"1 MB of {unit!r}", "POST", COMPLETIONS, _json({"prompt": text}), JSON, (400,)))
        chat = {"messages": [{"role": "user", "content": text}]}
        made.append(Attack(f"1 MB of {unit!r} in a chat", "POST", CHAT, _json(chat), JSON, (400,)))
    many = {"messages": [{"role": "user", "content": ""}] * 20_000}
    made.append(Attack("20,000 messages", "POST", CHAT, _json(many), JSON, (400,)))
    made.append(Attack("300,000 token ids", "POST", COMPLETIONS, _json({"prompt": [1] * 300_000}), JSON, (400,)))
    for stop in ("\n", "\u65e5", "\u00e9", "ab", " ", "\x00", ["a", "b"], "z" * 64, "z" * 65, ["a"] * 17, [""], []):
        made.append(Attack(f"stop {stop!r:.20}", "POST", COMPLETIONS, _json(GOOD[COMPLETIONS] | {"stop": stop}), JSON))
    for extra in ({"top_k": 1}, {"top_p": 0}, {"temperature": 0.001}, {"temperature": 100}, {"frequency_penalty": 0}):
        body = _json(GOOD[COMPLETIONS] | extra | {"model": model})
        made.append(Attack(f"allowed {extra}", "POST", COMPLETIONS, body, JSON, (200,)))
    return made


_TAKEN = [
    ("prompt", [[1]]),
    ("stream", True),
    ("stop", "x"),
    ("stop", []),
    ("prompt", "x"),
    ("instructions", "x"),
    ("input", "x"),
]


def generated(count: int, seed: int) -> Iterator[Attack]:
    """Good requests of which values, or then bytes, are others."""
    paths = list(GOOD)
    for number in range(count):
        random = np.random.default_rng([seed, number])
        path = paths[number % len(paths)]
        body = _json(GOOD[path] | _EXTRA[path] | {"max_tokens" if path != RESPONSES else "max_output_tokens": 2})
        if random.random() < 0.6:
            for _ in range(int(random.integers(1, 4))):
                body = _json(with_other_values(json.loads(body), random))
        else:
            body = damaged(body, _json(GOOD[paths[(number + 1) % 3]]), random)
        yield Attack(f"generated {number} of seed {seed}", "POST", path, body[: 2**20], JSON)


def heads(own: str) -> list[bytes]:
    """Bytes that no client sends, to the server whose name is `own`."""
    host, line = f"Host: {own}", "GET /health HTTP/1.1"
    post = (f"POST {COMPLETIONS} HTTP/1.1", host, "Content-Type: application/json")
    chunked = "Transfer-Encoding: chunked"
    written = [
        *((one,) for one in ("", "GET", "GET / HTTP/9.9", line, "GET /health HTTP/1.0", "PRI * HTTP/2.0")),
        (line, host, "Host: evil.example"), (line, host, "X"), (line, host, "X: " + "y" * 10**6),
        (line, host, *["X: y"] * 10**4), (line, host, "Upgrade: websocket", "Connection: Upgrade"),
        *((f"GET {path} HTTP/1.1", host) for path in (
            "http://evil.example/health", "/../../etc/passwd", "/%2e%2e/%00", "/health?" + "x" * 10**5, "//", "*",
        )),
        *((*post, f"Content-Length: {length}") for length in ("-1", "x", "1e9", "9" * 400, "2, 3", "0")),
        (*post, "Expect: 100-continue", "Content-Length: 99999999"), (*post, "Transfer-Encoding: gzip"),
        (*post, chunked, "Content-Length: 2"),
    ]  # fmt: skip
    second = b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    bodies = (b"zz\r\n", b"f" * 17 + b"\r\n{}", b"2\r\n{}\r\n0\r\n\r\n" + second)
    whole = [("\r\n".join([*lines, "", "{}"])).encode() for lines in written]
    whole += ["\r\n".join([*post, chunked, "", ""]).encode() + body for body in bodies]
    return [*whole, bytes(1000), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\xff" * 1000]


_MORE = {"temperature": 0.5, "top_p": 0.5, "top_k": 3, "seed": 1, "stream": False, "user": "u", "model": None}
_EXTRA: dict[str, dict[str, Any]] = {
    COMPLETIONS: _MORE | {"stop": ["z"], "n": 1, "logit_bias": {}, "echo": False, "frequency_penalty": 0},
    CHAT: _MORE | {"stop": "z", "tools": [], "response_format": {"type": "text"}, "top_logprobs": 0},
    RESPONSES: _MORE | {"instructions": "i", "metadata": {}, "store": False, "text": {"format": {"type": "text"}}},
}


def send_head(host: str, port: int, head: bytes) -> tuple[int, str]:
    """The status that bytes get which are no request; 200 for a connection that is closed without an answer."""
    with socket.create_connection((host, port), timeout=ANSWER_SECONDS) as one:
        try:
            one.sendall(head)
            answer = one.recv(65536)
        except TimeoutError:
            return 0, "no answer, and still open"
        except OSError:
            return 200, "closed"
    reported = answer.split(b" ", 2)
    return (int(reported[1]) if len(reported) > 1 and reported[1].isdigit() else 200), answer[:120].decode(
        errors="replace"
    )


def attack(
    host: str, port: int, model: str, *, quick: bool = False, health_seconds: float = HEALTH_SECONDS,
    count: int = 300, seed: int = 0,
) -> Outcome:  # fmt: skip
    """Send them all, or every seventh, while another thread asks for /health."""
    assert host in ("127.0.0.1", "::1"), "loopback alone"
    outcome, done = Outcome(), threading.Event()
    watch = threading.Thread(target=_watch_health, args=(host, port, outcome, done, health_seconds))
    watch.start()
    slow = [] if quick else [_slow_socket(host, port, i) for i in range(20)]
    try:
        for one in [*attacks(model), *generated(count, seed)][:: 7 if quick else 1]:
            outcome.current = one.name
            status, answer = _send(host, port, one)
            outcome.sent += 1
            if status >= 500 or status <= 0 or (one.statuses and status not in one.statuses):
                outcome.failures.append(f"{one.name}: status {status} {answer[:120]!r}")
        outcome.current, sent = "heads", heads(f"{host}:{port}")
        with ThreadPoolExecutor(AT_ONCE) as pool:  # some wait until the server closes them
            answers = list(pool.map(partial(send_head, host, port), sent))
        for head, (status, answer) in zip(sent, answers, strict=True):
            outcome.sent += 1
            if status >= 500 or status <= 0:
                outcome.failures.append(f"head {head[:60]!r}: status {status} {answer!r}")
        outcome.failures += [f"slow socket {i} is still open" for i, one in enumerate(slow) if not _closed(one)]
    finally:
        done.set()
        watch.join()
        for one in slow:
            one.close()
    return outcome


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _send(host: str, port: int, one: Attack, seconds: float = ANSWER_SECONDS) -> tuple[int, str]:
    """(status, answer); (0, reason) where there was none."""
    connection = http.client.HTTPConnection(host, port, timeout=seconds)
    try:
        connection.request(one.method, one.path, one.body or None, one.headers)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, repr(error)
    finally:
        connection.close()


def _watch_health(host: str, port: int, outcome: Outcome, done: threading.Event, limit: float) -> None:
    while not done.wait(0.05):
        start = time.monotonic()
        status, _ = _send(host, port, Attack("health", "GET", "/health"))
        taken = time.monotonic() - start
        outcome.slowest_health = max(outcome.slowest_health, taken)
        if status != 200 or taken > limit:
            outcome.failures.append(f"/health: status {status} after {taken:.2f} s, at {outcome.current}")


def _slow_socket(host: str, port: int, i: int) -> socket.socket:
    """A connection that sends nothing, half a head, or half a body."""
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    one = socket.create_connection((host, port), timeout=30)
    one.sendall((b"", head.encode(), f"{head}Content-Length: 100\r\n\r\n{{".encode())[i % 3])
    return one


def _closed(one: socket.socket) -> bool:
    """Whether the server closes the connection within 30 s."""
    try:
        while one.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def main() -> int:
    """Attack, print the failures; returns 1 where there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("model")
    parser.add_argument("--quick", action="store_true", help="every seventh, without slow sockets")
    parser.add_argument("--health", type=float, default=HEALTH_SECONDS, help="seconds, on a quiet machine")
    parser.add_argument("--generated", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    outcome = attack(
        "127.0.0.1", given.port, given.model, quick=given.quick, health_seconds=given.health, count=given.generated,
        seed=given.seed,
    )  # fmt: skip
    print(*outcome.failures, sep="\n", end="\n" if outcome.failures else "")
    slowest = f"/health took {outcome.slowest_health:.2f} s at most"
    print(f"{outcome.sent} requests, {len(outcome.failures)} failures; {slowest}")
    return bool(outcome.failures)


if __name__ == "__main__":
    sys.exit(main())
