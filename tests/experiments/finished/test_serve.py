"""A served run answers over HTTP with the model's own text, whole and streamed, and refuses bad requests by name."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from isoflop.experiments.data.tokenizer import Bytes
from isoflop.experiments.finished.serve import ServeError, check, vllm_command
from isoflop.models import build_model
from isoflop.models.config import ModelConfig
from isoflop.models.export import write_folder
from isoflop.models.parametrization import initialize
from tests.support.root import ROOT

WINDOW = 64
PATIENCE = 3  # seconds until the server closes a connection that sends no whole head
PROMPT = "na\u00efve \u65e5\u672c"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def model():
    model = initialize(build_model(ModelConfig("transformer", 256, WINDOW, 2, 32, 2)), 0)
    with torch.no_grad():  # answers in ASCII that depend on the prompt
        model.head[32:127].copy_(torch.randn(95, 32, generator=torch.Generator().manual_seed(1)))
    return model


@pytest.fixture(scope="module")
def server(model, tmp_path_factory, commands):
    folder = tmp_path_factory.mktemp("exports") / "0123abc"
    write_folder(model, folder, tokenizer=Bytes().json(), card="# x\n", provenance={})
    port = free_port()
    code = (
        f"from pathlib import Path; from isoflop.experiments.finished import serve; serve.SOCKET_SECONDS = {PATIENCE}; "
        f"serve.serve(Path({str(folder)!r}), host='127.0.0.1', port={port})"
    )
    log = (folder.parent / "log").open("w")
    process = commands.start(["-c", code], program="python", cwd=folder.parent, log=log)
    base = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 600  # something hangs
        while ask(base + "/health")[0] != 200:
            assert process.poll() is None, (folder.parent / "log").read_text()
            assert time.monotonic() < deadline, (folder.parent / "log").read_text()
            time.sleep(0.05)
        yield base
        assert process.poll() is None, "the server died of a request"
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def ask(url, body=None):
    """(status, text) of a GET, or of a POST of a dict or of raw bytes."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=600) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except (urllib.error.URLError, ConnectionError):
        return 0, ""


def complete(server, **fields):
    body = {"model": "0123abc", "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
    return ask(server + "/v1/completions", body | fields)


def greedy(model, prompt, n):
    ids = list(prompt.encode())
    with torch.no_grad():
        for _ in range(n):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return bytes(ids[len(prompt.encode()) :]).decode()


@pytest.mark.process
def test_answers_are_the_models_own(server, model):
    status, text = complete(server)
    answer = json.loads(text)
    assert status == 200
    assert answer["choices"][0]["text"] == greedy(model, PROMPT, 12)
    assert answer["usage"]["prompt_tokens"] == len(PROMPT.encode())
    assert json.loads(ask(server + "/v1/models")[1])["data"][0]["id"] == "0123abc"


@pytest.mark.process
def test_streams_the_same_text(server, model):
    status, text = complete(server, stream=True)
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert status == 200
    assert len(chunks) > 2
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == greedy(model, PROMPT, 12)


@pytest.mark.process
def test_chats_in_a_stream_too(server, model):
    body = {"model": "0123abc", "messages": [{"role": "user", "content": "h\u00e9"}], "max_tokens": 5}
    status, text = ask(server + "/v1/chat/completions", body | {"temperature": 0, "stream": True})
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    reported = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert status == 200
    assert reported.strip() == greedy(model, "user: h\u00e9\nassistant: ", 5).strip()


@pytest.mark.process
def test_chats_by_the_plain_template(server, model):
    messages = [{"role": "user", "content": "h\u00e9"}]
    body = {"model": "0123abc", "messages": messages, "max_tokens": 5, "temperature": 0}
    status, text = ask(server + "/v1/chat/completions", body)
    assert status == 200
    assert (
        json.loads(text)["choices"][0]["message"]["content"] == greedy(model, "user: h\u00e9\nassistant: ", 5).strip()
    )


@pytest.mark.process
def test_an_open_ended_answer_ends_with_the_context(server):
    status, text = complete(server, max_tokens=None)
    assert status == 200
    assert json.loads(text)["usage"]["total_tokens"] == WINDOW


@pytest.mark.process
@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"max_tokens": 10**6}, 400, "at most 51 fit"),
        ({"max_tokens": -1}, 400, "at least 1"),
        ({"max_tokens": "ten"}, 400, "whole number"),
        ({"prompt": "x" * WINDOW}, 400, "must fit the context of 64"),
        ({"prompt": 3}, 400, "must be text"),
        ({"model": "other"}, 404, "no model 'other'; this server has '0123abc'"),
        ({"model": ["other"]}, 404, "no model"),
        ({"max_tokens": 0, "echo": True, "logprobs": 1}, 400, "isoflop evaluate"),
        ({"num_beams": 3000}, 400, "num_beams"),
        ({"temperature": "x"}, 400, "temperature must be 0, or a number from 0.001 to 100"),
        ({"prompt": ""}, 400, "has no tokens"),
        ({"stop": 5}, 400, "stop must be"),
    ],
)
def test_bad_requests_get_a_status_and_a_reason(server, fields, status, message):
    answered, text = complete(server, **fields)
    assert answered == status
    assert message in text


@pytest.mark.process
def test_malformed_json_is_refused(server):
    assert ask(server + "/v1/completions", b'{"prompt": "x", ')[0] == 422
    assert ask(server + "/v1/completions", b"[1, 2]")[0] == 422
    assert ask(server + "/v1/chat/completions", {"model": "0123abc", "messages": [3]})[0] == 400
    assert ask(server + "/v1/nothing", {"model": "0123abc"})[0] == 404
    assert ask(server + "/v1/completions", b'{"prompt": ' + b"[" * 10**5)[0] == 400
    assert complete(server)[0] == 200


@pytest.mark.process
def test_other_forms_of_a_prompt_get_the_same_answer(server, model):
    text = greedy(model, PROMPT, 12)
    for prompt in ([PROMPT], list(PROMPT.encode()), [list(PROMPT.encode())]):
        status, answer = complete(server, prompt=prompt, n=1, echo=False, top_k=5, top_p=0.5, seed=1, stop=[])
        assert (status, json.loads(answer)["choices"][0]["text"]) == (200, text)
    status, answer = complete(server, stop=text[3:5])
    assert status == 200
    assert json.loads(answer)["usage"]["completion_tokens"] == text.index(text[3:5]) + 2
    assert json.loads(answer)["choices"][0]["text"] == text[: text.index(text[3:5])]


def streamed(text):
    return "".join(
        json.loads(line[6:])["choices"][0]["text"] for line in text.splitlines() if line.startswith("data: {")
    )


@pytest.mark.process
def test_a_seed_is_kept_whatever_else_is_answered(server):
    """Answers with seeds among others without, streamed ones and ones whose client leaves."""

    def answer(number):
        seed = number % 3 or None
        if number % 7 == 0:
            body = json.dumps({"prompt": "x", "max_tokens": 50, "stream": True, "seed": 9}).encode()
            with urllib.request.urlopen(
                urllib.request.Request(server + "/v1/completions", body, {"Content-Type": "application/json"})
            ) as left:
                left.read(10)
            return None, None
        stream = number % 2 == 0
        _, text = complete(server, max_tokens=40, temperature=1.5, seed=seed, stream=stream)
        return seed, streamed(text) if stream else json.loads(text)["choices"][0]["text"]

    alone = {seed: answer(seed)[1] for seed in (1, 2)}
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(answer, range(40)))
    assert alone[1] != alone[2]
    assert all(text == alone[seed] for seed, text in found if seed)
    assert len({text for seed, text in found if seed is None}) > 3


@pytest.mark.process
@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_ends_before_a_stop(server, model, stream):
    text = greedy(model, PROMPT, 12)
    for stop in (text[3:5], text[5:9], text[11], [text[6], text[5:7]], "~~~"):
        _, answer = complete(server, stop=stop, stream=stream)
        stops = [stop] if isinstance(stop, str) else stop
        expected = text[: min((text.index(one) for one in stops if one in text), default=len(text))]
        assert (streamed(answer) if stream else json.loads(answer)["choices"][0]["text"]) == expected


@pytest.mark.process
def test_responses_count_their_instructions(server, model):
    body = {"input": [{"role": "user", "content": [{"type": "input_text", "text": "h"}]}], "temperature": 0}
    status, text = ask(server + "/v1/responses", body | {"instructions": "i", "max_output_tokens": 5})
    assert status == 200
    answer = json.loads(text)["output"][0]["content"][0]["text"]
    assert answer.strip() == greedy(model, "system: i\nuser: h\nassistant: ", 5).strip()
    status, text = ask(server + "/v1/responses", body | {"instructions": "i" * 64})
    assert (status, "must fit the context of 64" in text) == (400, True)


@pytest.mark.process
@pytest.mark.parametrize("path", ["/load_model", "/reset", "/v1/systemone", "/v1/audio/transcriptions"])
def test_other_paths_of_the_server_are_refused(server, path):
    assert ask(server + path, {"model": "/"})[0] == 404
    assert json.loads(ask(server + "/v1/models")[1])["data"][0]["id"] == "0123abc"


@pytest.mark.process
def test_a_quick_part_of_the_attack(server):
    command = [
        sys.executable,
        "-m",
        "tests.proofs.doors.server_attack",
        server.rpartition(":")[2],
        "0123abc",
        "--quick",
        "--health=60",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.process
def test_fifty_requests_at_once(server, model):
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda i: complete(server, prompt=f"{i:02d}", max_tokens=4), range(50)))
    assert {status for status, _ in answers} == {200}
    assert [json.loads(text)["choices"][0]["text"] for _, text in answers] == [
        greedy(model, f"{i:02d}", 4) for i in range(50)
    ]


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=rf"127\.0\.0\.1:{port} .*--port"):
            check("127.0.0.1", port)


def test_vllm_command_names_the_folder(tmp_path):
    assert vllm_command(tmp_path / "abc", "127.0.0.1", 8000).startswith(f"vllm serve {tmp_path}/abc ")


@pytest.mark.slow
def test_a_loop_that_stood_still_closes_no_connection():
    """On a loaded machine a minute may pass between two looks: what the client sent meanwhile is still to be read."""
    from types import SimpleNamespace

    from isoflop.experiments.finished import serve

    clock, closed = [0.0], []
    protocol = serve._with_timeout().__new__(serve._with_timeout())
    protocol.loop = SimpleNamespace(time=lambda: clock[0], call_later=lambda seconds, again: None)
    protocol.transport = SimpleNamespace(is_closing=lambda: False, abort=lambda: closed.append(clock[0]))
    protocol.cycle, protocol._waited = None, 0
    for _ in range(serve.SOCKET_SECONDS):
        clock[0] += 60.0
        protocol._watch()
    assert closed == []
    protocol._watch()
    assert len(closed) == 1
