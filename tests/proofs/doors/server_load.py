"""A served model under load: /health stays quick, nothing gets a 5xx, memory stays flat.

    python -m tests.proofs.doors.server_load [--minutes 5] [--clients 50]

Serves a new model of the size d16 on the first core, and uses it from the others, by loopback alone: clients of which a
tenth of the requests are bad and some have bodies of 10 MB, 20 sockets that send half a request, and a process that
asks for /health ten times a second. Prints one table; exits 1 where a bar is missed. On a machine that others use too,
`chrt -r 2` before it gives server and clients a core each.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np

from isoflop.experiments.data.tokenizer import Bytes
from isoflop.experiments.study.sizes import load_size
from isoflop.models import build_model
from isoflop.models.config import ModelConfig
from isoflop.models.export import write_folder
from isoflop.models.parametrization import initialize

HOST, MODEL = "127.0.0.1", "0123abc"
SLOW_SOCKETS, LARGE = 20, 10**7  # bytes
BAD_SHARE, LARGE_SHARE = 0.1, 0.02
HEALTH_SECONDS, HEALTH_SHARE, MEMORY_SHARE = 0.5, 0.999, 0.1
WARM_UP = 0.2  # of the time, in which memory may grow
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
BAD = (
    b"", b"{", b"[]", b"[" * 10**5, b"\xff\xfe", b'{"prompt": ""}', b'{"prompt": "a", "temperature": "x"}',
    b'{"prompt": "a", "num_beams": 3000}', b'{"prompt": "a", "max_tokens": -1}', b'{"prompt": "a", "n": 1000000000}',
    b'{"prompt": "' + b"x" * 900_000 + b'"}', b'{"prompt": "a", "model": "/etc"}',
)  # fmt: skip


def main() -> None:
    """Serve, load, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=50)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as work:
        process, port = _serve(Path(work), cores[0])
        _go_ahead(process.pid)  # its event loop
        os.sched_setaffinity(0, set(cores[1:]) or set(cores))
        try:
            failed = _load(process, port, options.minutes * 60, options.clients)
        finally:
            process.kill()
            process.wait()
        if failed:
            print((Path(work) / "log").read_text(errors="replace")[-2000:], file=sys.stderr)
    sys.exit(1 if failed else 0)


def _serve(work: Path, core: int) -> tuple["subprocess.Popen[bytes]", int]:
    """A server of a new model on one core, when it answers, and its port."""
    size = load_size("d16")
    config = ModelConfig("transformer", 256, 256, size.n_layer, size.d_model, size.n_head)
    folder = work / MODEL
    write_folder(initialize(build_model(config), 0), folder, tokenizer=Bytes().json(), card="", provenance={})
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    code = (
        f"from pathlib import Path; from isoflop.experiments.finished.serve import serve; serve(Path({str(folder)!r}), "
    )
    command = ["taskset", "-c", str(core), sys.executable, "-c", f"{code}host={HOST!r}, port={port})"]
    with (work / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
    ended = time.monotonic() + 300
    while _ask(port, "GET", "/health")[0] != 200:
        if process.poll() is not None or time.monotonic() > ended:
            raise SystemExit((work / "log").read_text())
        time.sleep(0.3)
    return process, port


def _go_ahead(pid: int) -> None:
    """With real-time priority, threads take turns of 100 ms: one that mostly sleeps goes first, as it does without."""
    if os.sched_getscheduler(0) == os.SCHED_RR:
        priority = os.sched_getparam(0).sched_priority + 1
        os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(priority))


def _load(process: "subprocess.Popen[bytes]", port: int, seconds: float, clients: int) -> bool:
    """Load the server for so long, print the table; returns whether a bar was missed."""
    stop = threading.Event()
    statuses: Counter[str] = Counter()
    memory: list[int] = []
    answers: Queue[list[tuple[int, float, float]]] = multiprocessing.get_context("fork").Queue()
    health = multiprocessing.get_context("fork").Process(target=_watch_health, args=(port, seconds, answers))
    health.start()
    threads = [threading.Thread(target=_client, args=(port, i, stop, statuses)) for i in range(clients)]
    threads += [threading.Thread(target=_hold_socket, args=(port, i, stop, statuses)) for i in range(SLOW_SOCKETS)]
    for thread in threads:
        thread.start()
    ended = time.monotonic() + seconds
    while time.monotonic() < ended and process.poll() is None:
        memory.append(_resident(process.pid))
        time.sleep(0.5)
    requested = answers.get(timeout=60)
    stop.set()
    health.join()
    for thread in threads:
        thread.join(120)
    return _report(statuses, requested, memory, alive=process.poll() is None)


def _report(
    statuses: Counter[str], requested: list[tuple[int, float, float]], memory: list[int], *, alive: bool
) -> bool:
    taken = np.array([seconds for _, seconds, _ in requested])
    slow = [at for status, seconds, at in requested if status != 200 or seconds > HEALTH_SECONDS]
    quick = 1 - len(slow) / len(requested)
    kept = np.array(memory[int(WARM_UP * len(memory)) :], float)
    spread = float(np.abs(kept / np.median(kept) - 1).max())
    errors = sum(count for status, count in statuses.items() if status.startswith("5"))
    lost = statuses["lost"]
    rows = [
        ("requests", ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items())), True),
        (
            f"/health within {HEALTH_SECONDS} s",
            f"{quick:.2%} of {len(requested)} (99.9%: {np.quantile(taken, 0.999):.3f} s, most {taken.max():.3f} s)"
            + (f"; not at {', '.join(f'{at:.0f}' for at in slow[:20])} s" if slow else ""),
            quick >= HEALTH_SHARE,
        ),
        ("status 5xx", str(errors), errors == 0),
        ("connections lost without an answer", str(lost), lost == 0),
        ("memory", f"{np.median(kept) / 2**20:.0f} MiB, at most {spread:.1%} away", spread <= MEMORY_SHARE),
        ("the server is alive", str(alive), alive),
    ]
    for name, value, good in rows:
        print(f"{'ok  ' if good else 'MISS'}  {name:<36} {value}")
    return not all(good for _, _, good in rows)


def _ask(port: int, method: str, path: str, body: bytes = b"", timeout: float = 120) -> tuple[int, bytes]:
    """Status and body of one request; status 0 where there was no answer."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def _client(port: int, number: int, stop: threading.Event, statuses: Counter[str]) -> None:
    """One request after the other. A body of 10 MB may be cut off by the server: then no answer is an answer."""
    draw = random.Random(number)
    while not stop.is_set():
        chance = draw.random()
        if chance < LARGE_SHARE:
            status, _ = _ask(port, "POST", COMPLETIONS, b" " * LARGE)
            statuses[str(status) if status else "413 cut off"] += 1
            continue
        if chance < BAD_SHARE:
            path, body = draw.choice((COMPLETIONS, CHAT)), draw.choice(BAD)
        else:
            path, body = COMPLETIONS, json.dumps({"prompt": "ab" * draw.randint(1, 40), "max_tokens": 8}).encode()
        status, _ = _ask(port, "POST", path, body)
        statuses[str(status) if status else "lost"] += 1


def _hold_socket(port: int, number: int, stop: threading.Event, statuses: Counter[str]) -> None:
    """Connections that send nothing, half a head or half a body, one after the other, each until it is closed."""
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Type: application/json\r\n"
    half = (b"", head.encode(), f"{head}Content-Length: 100\r\n\r\n{{".encode())[number % 3]
    while not stop.is_set():
        try:
            with socket.create_connection((HOST, port), timeout=60) as one:
                one.sendall(half)
                while one.recv(4096):
                    pass
            statuses["slow socket closed"] += 1
        except TimeoutError:
            statuses["slow socket never closed"] += 1
        except OSError:
            statuses["slow socket closed"] += 1


def _watch_health(port: int, seconds: float, answers: "Queue[list[tuple[int, float, float]]]") -> None:
    _go_ahead(0)
    requested, start = [], time.monotonic()
    while (began := time.monotonic()) < start + seconds:
        status, _ = _ask(port, "GET", "/health", timeout=30)
        requested.append((status, time.monotonic() - began, began - start))
        time.sleep(0.1)
    answers.put(requested)


def _resident(pid: int) -> int:
    """Bytes of memory that a process has in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
