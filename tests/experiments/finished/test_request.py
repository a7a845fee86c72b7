"""The guard of the server in one process: what it lets through, what it refuses and how, around a recording app."""

import asyncio
import json

import pytest

from isoflop.experiments.finished import serve
from isoflop.experiments.finished.serve import ALLOWED, MAX_BODY, Guard


class Characters:
    """A token is a character."""

    def count(self, body):
        return sum(len(m["content"]) for m in serve.messages_of(body) or []) + len(body.get("prompt", ""))

    def text(self, ids):
        if max(ids) > 127:
            raise ValueError("token ids go from 0 to 127")
        return "".join(map(chr, ids))

    def check_stop(self, stops):
        if any(not stop.isascii() for stop in stops):
            raise ValueError("no tokens form it")


class App:
    """Keeps what reaches it, and answers 200."""

    def __init__(self):
        self.paths, self.body = [], None

    async def __call__(self, scope, receive, send):
        self.paths.append(scope["path"])
        self.body = json.loads((await receive())["body"] or b"null")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


def request(body=b"", *, path="/v1/completions", method="POST", bound="127.0.0.1", chunks=None, **headers):
    """(status, answer, app) of one request to a guard that is bound to the address `bound`."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    app = App()
    guard = Guard(app, Characters(), 20, model="m", host=bound, sampling={"do_sample": True, "top_k": 0})
    given = {"host": "localhost:8000", "content-type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in given.items() if value is not None],
    }
    pieces = [content] if chunks is None else list(chunks)
    messages, sent = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces], []
    messages[-1]["more_body"] = False

    async def receive():
        return messages.pop(0) if messages else await asyncio.sleep(3600)

    async def send(message):
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], sent[-1]["body"].decode(), app


def refusal(body, **options):
    """(status, message, param) of a request that must not reach the server."""
    status, answer, app = request(body, **options)
    assert not app.paths, "it reached the server"
    error = json.loads(answer)["error"]
    return status, error["message"], error["param"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *[("POST", path, 404) for path in ("/load_model", "/reset", "/v1/systemone", "/v1/audio/transcriptions")],
        *[("GET", path, 404) for path in ("/docs", "/redoc", "/openapi.json", "/", "/v1/completions/", "/health/")],
        *[(m, "/v1/completions", 405) for m in ("GET", "OPTIONS", "HEAD", "PUT", "DELETE")],
        *[(m, "/health", 405) for m in ("POST", "OPTIONS", "HEAD")],
    ],
)
def test_only_the_allowed_pairs_reach_the_server(method, path, status):
    assert refusal({"prompt": "x"}, path=path, method=method)[0] == status


def test_health_and_models():
    status, answer, app = request(path="/health", method="GET")
    assert (status, json.loads(answer), app.paths) == (200, {"status": "ok"}, [])
    assert request(path="/v1/models", method="GET")[2].paths == ["/v1/models"]


@pytest.mark.parametrize(
    ("bound", "own", "status"),
    [
        *[("127.0.0.1", own, 200) for own in ("localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:80", "127.1.2.3")],
        *[("127.0.0.1", other, 403) for other in ("evil.example", "10.0.0.1", "localhost.evil.example:8000", "", None)],
        *[("127.0.0.1", other, 403) for other in ("[::1", "localhost:x", "a@b:1:2", "0.0.0.0", "\u00ff")],
        *[("box.example", own, 200) for own in ("box.example", "BOX.example:8000", "localhost")],
        *[("0.0.0.0", own, 200) for own in ("10.1.2.3:8000", "[fe80::1]", "localhost")],
        *[("0.0.0.0", other, 403) for other in ("evil.example", "0.0.0.0.evil.example")],
    ],
)
def test_a_name_that_is_not_its_own_is_refused(bound, own, status):
    assert request(path="/health", method="GET", bound=bound, host=own)[0] == status


def test_a_page_of_another_host_is_refused():
    body = {"prompt": "x"}
    for origin in ("http://evil.example", "null", "http://localhost:3000", "file://", "http://[", ""):
        assert refusal(body, origin=origin)[0] == 403
    assert request(body, origin="http://localhost:8000")[0] == 200
    for kind in ("text/plain", "application/x-www-form-urlencoded", "", None):
        assert refusal(body, content_type=kind)[0] == 415
    assert request(body, content_type="Application/JSON; charset=utf-8")[0] == 200


def test_a_websocket_is_closed():
    sent = []

    async def send(message):
        sent.append(message["type"])

    guard = Guard(None, Characters(), 20, model="m", host="127.0.0.1", sampling={})
    asyncio.run(guard({"type": "websocket", "path": "/v1/completions"}, None, send))
    assert sent == ["websocket.close"]


def test_the_model_answers_once_before_the_server_has_started():
    """The first answer loads the model: no request, and no /health, waits for that."""
    order = []

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
            return
        order.append((scope["path"], json.loads((await receive())["body"])))
        assert (await receive())["type"] == "http.disconnect"

    async def send(message):
        order.append(message["type"])

    guard = Guard(app, Characters(), 20, model="m", host="127.0.0.1", sampling={})
    asyncio.run(guard({"type": "lifespan"}, None, send))
    body = {"model": "m", "prompt": "a", "max_tokens": 1, "stream": False}
    assert order == [("/v1/completions", body), "lifespan.startup.complete"]


def test_a_body_is_limited_with_and_without_its_length():
    piece = b" " * 2**16
    whole = [piece] * 40
    assert refusal(b"", chunks=whole)[0] == 413
    assert refusal(b"", chunks=whole, content_length=str(40 * 2**16))[0] == 413
    assert refusal(b"", chunks=[b""], content_length=str(2**40))[0] == 413
    assert refusal(b"", chunks=[piece] * 1000)[0] == 413
    fitting = json.dumps({"prompt": "x"}).encode()
    assert request(b"", chunks=[fitting, b" " * (MAX_BODY - len(fitting))])[0] == 200
    assert refusal(b"", chunks=[fitting, b" " * (MAX_BODY - len(fitting) + 1)])[0] == 413


def test_a_body_that_does_not_arrive_is_given_up(monkeypatch):
    monkeypatch.setattr(serve, "BODY_SECONDS", 0.05)
    app = App()
    guard, sent = Guard(app, Characters(), 20, model="m", host="127.0.0.1", sampling={}), []

    async def receive():
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers}
    asyncio.run(guard(scope, receive, send))
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]


@pytest.mark.parametrize("path", [path for path, method in ALLOWED.items() if method == "POST"])
@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"[1, 2]", 422),
        (b"5", 422),
        (b"null", 422),
        (b'"x"', 422),
        (b"\xff\xfe{}", 422),
        (b"[" * 10**5, 400),
        (b'{"prompt": ' + b"[" * 10**5, 400),
        (b'{"prompt": ' + b"[" * 100 + b"]" * 100 + b"}", 400),
        (b'{"a":' * 10**5, 400),
        (b'{"temperature": NaN}', 400),
        (b'{"temperature": 1e999}', 400),
        (b'{"temperature": ' + b"9" * 5000 + b"}", 422),
        (b"{}", 400),
    ],
)
def test_what_is_not_a_json_object_is_refused(path, content, status):
    assert refusal(content, path=path)[0] == status


_NUMBERS = ["x", True, [], {}, -1, 1e9]
_FIELDS = {
    "temperature": [*_NUMBERS, 1e-300, 1e-9],
    "top_p": [*_NUMBERS, 1.01],
    "top_k": [*_NUMBERS, 1.5],
    "seed": ["x", True, [], {}, -1, 1.5, 2**63],
    "stream": ["x", 0, 1, [], {}],
    "user": [1, [], {}],
    "num_beams": [3000, 1],
    "generation_config": ["{}", '{"num_beams": 3000}'],
    "chat_template_kwargs": [{}],
    "model_kwargs": [{}],
}
_SHARED = {
    "stop": [5, True, {}, "", [""], [5], [["x"]], "x" * 65, ["x"] * 17, "\ud800", "\u65e5"],
    "max_tokens": ["x", True, [], {}, -1, 0, 1.5, 10**6, 10**30],
    "frequency_penalty": ["x", True, [], -1, 3, 0.5],
    "presence_penalty": ["x", True, 0.1],
    "n": ["x", True, 0, 2, 10**9],
    "logit_bias": [{"1": 5}, [], 1],
    "stream_options": [1, [], {"x": 1}, {"include_usage": 1}],
    "suffix": ["x", 1],
    "tools": [[{}], 1, "x"],
    "logprobs": [True, 1, 5, "x"],
    "top_logprobs": [1, "x"],
}
_PROMPTS = {
    "/v1/completions": ("prompt", [3, {}, True, [], [[]], ["x", "y"], [[1], [2]], [1, "x"], [True], [1.5], [200], "",
                                   "x" * 20, "\ud800", ["\udfff"], [None], [["x"]]]),
    "/v1/chat/completions": ("messages", [3, "x", {}, [], [3], [[]], [{}], [{"role": "user"}], [{"content": "x"}],
        [{"role": 5, "content": "x"}], [{"role": "root", "content": "x"}], [{"role": ["user"], "content": "x"}],
        [{"role": "user", "content": 5}], [{"role": "user", "content": {}}], [{"role": "user", "content": ["x"]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],
        [{"role": "user", "content": [{"type": "text"}]}], [{"role": "user", "content": [{"type": ["text"]}]}],
        [{"role": "user", "content": [{"type": "text", "text": 5}]}], [{"role": "user", "content": "\ud800"}],
        [{"role": "user", "content": "x", "name": 5}], [{"role": "user", "content": "x" * 20}],
        [{"role": "assistant", "content": "x", "tool_calls": [{"function": {"arguments": "{"}}]}]]),
    "/v1/responses": ("input", [3, {}, [], [3], [{}], [{"type": "function_call"}], [{"type": "reasoning"}],
        [{"role": "user", "content": 5}], [{"type": "input_text"}], [{"type": "input_text", "text": 5}],
        [{"type": "input_image", "image_url": "file:///etc/passwd"}], "x" * 20, "\ud800",
        [{"role": "user", "content": "x", "type": "function_call_output"}]]),
}  # fmt: skip
_GOOD = {
    "/v1/completions": {"prompt": "x"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/responses": {"input": "x"},
}


@pytest.mark.parametrize("path", _GOOD)
def test_every_field_of_a_wrong_type_or_value_is_named(path):
    bad = _FIELDS | (_SHARED if path != "/v1/responses" else {"max_output_tokens": _SHARED["max_tokens"]})
    for field, values in bad.items():
        for value in values:
            status, message, param = refusal(json.dumps(_GOOD[path] | {field: value}).encode(), path=path)
            assert (status, param) == (400, field), value
            assert field in message
    assert refusal(_GOOD[path] | {"x" * 10**5: 1}, path=path)[0] == 400


@pytest.mark.parametrize("path", _GOOD)
def test_every_prompt_that_cannot_be_read_is_named(path):
    field, values = _PROMPTS[path]
    for value in values:
        status, message, _ = refusal(json.dumps({field: value}).encode(), path=path)
        assert status == 400, value
        assert field in message or "prompt" in message


def test_instructions_are_part_of_what_must_fit():
    instructed = {"input": [{"role": "system", "content": "x"}], "instructions": "y" * 18}
    _, _, app = request(instructed, path="/v1/responses")
    assert [m["content"] for m in app.body["input"]] == ["y" * 18, "x"]
    assert "instructions" not in app.body
    assert app.body["max_output_tokens"] == 1
    assert refusal(instructed | {"instructions": "y" * 19}, path="/v1/responses")[0] == 400
    for wrong in (5, ["x"], {}):
        assert refusal(instructed | {"instructions": wrong}, path="/v1/responses")[2] == "instructions"


def test_what_is_sent_on_was_checked():
    """Fields that ask for nothing, and nulls, are left out; the model, the limit and the stream are always there."""
    nothing = {"n": 1, "echo": False, "logprobs": None, "best_of": 1, "user": "me", "stop": [], "logit_bias": {}}
    _, _, app = request({"prompt": [[104, 105]], "temperature": 0, "stream": True} | nothing)
    assert app.body == {"prompt": "hi", "temperature": 0.0, "max_tokens": 18, "model": "m", "stream": True}
    _, _, app = request({"prompt": ["hi"], "max_tokens": 7, "stop": "x", "top_k": 3, "model": None})
    assert json.loads(app.body.pop("generation_config")) == {"do_sample": True, "top_k": 3}
    assert app.body == {"prompt": "hi", "max_tokens": 7, "stop": ["x"], "model": "m", "stream": False}


def test_content_parts_are_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]
    _, _, app = request({"messages": [{"role": "user", "content": parts, "name": "n"}]}, path="/v1/chat/completions")
    assert app.body["messages"] == [{"role": "user", "content": "a b"}]
    _, _, app = request({"input": parts, "max_output_tokens": 2}, path="/v1/responses")
    assert app.body["input"] == [{"role": "user", "content": "a b"}]


def test_an_answer_must_fit():
    for field in ("max_tokens", "max_completion_tokens"):
        body = _GOOD["/v1/chat/completions"]
        assert request(body | {field: 19}, path="/v1/chat/completions")[0] == 200
        status, message, param = refusal(body | {field: 20}, path="/v1/chat/completions")
        assert (status, param) == (400, field)
        assert "at most 19 fit" in message


def test_another_model_is_not_found():
    for model in ("other", "../m", ["m"], 5, "/etc"):
        assert refusal({"prompt": "x", "model": model})[::2] == (404, "model")
