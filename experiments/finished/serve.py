"""An exported model over HTTP: transformers' own OpenAI-compatible server behind a guard.

The server alone loads any model folder that a request names, fails on wrong types, and goes on generating past the
window that the model was trained on; how its answers differ from the API's, and are mended, answers.py says. The guard
lets five (method, path) pairs through, checks every field of a request (request.py) and that prompt and answer fit the
window, and sends on what it checked. It answers /health itself, reads bodies of at most 1 MB within ten seconds, and
refuses the requests that a web page of another host could send.
"""

import asyncio
import importlib.util
import ipaddress
import json
import os
import socket
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from isoflop.experiments.finished.request import (
    ENDPOINTS,
    Endpoint,
    RequestError,
    Vocabulary,
    checked,
    messages_of,
    parse,
    short,
)
from isoflop.models.config import ModelConfig, family_of

ALLOWED = {"/health": "GET", "/v1/models": "GET"} | dict.fromkeys(ENDPOINTS, "POST")
MAX_BODY = 2**20  # bytes
MAX_DISCARDED = 32 * MAX_BODY  # of a larger body, read so that the client gets to read the refusal
BODY_SECONDS = SOCKET_SECONDS = 10
_NEEDED = ("transformers", "fastapi", "uvicorn")


class ServeError(ValueError):
    """A model cannot be served; the message names the package, the address or the family."""


def check(host: str, port: int) -> None:
    """Raise ServeError unless the packages are installed and the port is free."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ServeError(f"serving needs {', '.join(missing)}; pip install 'isoflop[serve]'")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            option = "--host" if isinstance(error, socket.gaierror | UnicodeError) else "--port"
            raise ServeError(f"cannot listen on {host}:{port} ({reason}); choose another {option}") from error


def check_family(config: ModelConfig) -> None:
    """Raise ServeError for a model that the server has no class for."""
    if not family_of(config).is_llama(config):
        raise ServeError("only the default Transformer is a Llama that servers know; use isoflop generate")


def vllm_command(folder: Path, host: str, port: int) -> str:
    """The command that serves the same folder on GPUs."""
    return f"vllm serve {folder} --served-model-name {folder.name} --dtype float32 --host {host} --port {port}"


def serve(folder: Path, *, host: str, port: int, device: str = "cpu") -> None:
    """Serve the exported model in `folder` under the folder's name, until interrupted."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.chdir(folder.parent)  # the server calls a model by the path it was given
    import uvicorn
    from transformers import AutoTokenizer
    from transformers.cli.serve import Serve

    from isoflop.experiments.finished.answers import answer_as_the_api

    window = json.loads((folder / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    sampling = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    prompts = TokenizerPrompts(AutoTokenizer.from_pretrained(folder.name), window)

    class Config(uvicorn.Config):
        def __init__(self, app: Callable, **options: Any) -> None:
            guard = Guard(app, prompts, window, model=folder.name, host=host, sampling=sampling)
            super().__init__(guard, **options | {"http": _with_timeout(), "ws": "none"})

    answer_as_the_api()
    uvicorn.Config = Config  # type: ignore[misc, assignment]  # transformers builds the application and runs it in one go: nowhere else to step in
    Serve(folder.name, device=device, host=host, port=port)


class Prompts(Vocabulary, Protocol):
    """What the guard must know about the served model's tokens."""

    def count(self, body: dict[str, Any]) -> int: ...  # RequestError for a text that has no tokens


class TokenizerPrompts:
    """Prompts by a tokenizer of transformers, for a context of `window` tokens."""

    def __init__(self, tokenizer: Any, window: int) -> None:
        self.tokenizer, self.window = tokenizer, window

    def count(self, body: dict[str, Any]) -> int:
        """Tokens of checked fields: of the prompt, or of the messages in the chat template.

        A text that is far too long is not tokenized to its end: then the count is that of its beginning, more than
        twice the window. Raises RequestError for a text that cannot be tokenized.
        """
        text: str = body.get("prompt", "")
        try:
            if (messages := messages_of(body)) is not None:
                if len(messages) > self.window:
                    return len(messages)
                text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            length = 8 * self.window
            while length < len(text):
                if (tokens := self._count(text[:length])) > 2 * self.window:
                    return tokens
                length *= 4
            return self._count(text)
        except Exception as error:  # templates and tokenizers raise anything on what a client sends
            raise RequestError(f"the prompt cannot be tokenized: {error}") from error

    def _count(self, text: str) -> int:
        return len(self.tokenizer.backend_tokenizer.encode(text))

    def text(self, ids: list[int]) -> str:
        """The text whose tokens are `ids`. Raises ValueError where there is none."""
        if len(ids) > self.window:
            raise ValueError(f"{len(ids)} token ids do not fit the context of {self.window}")
        if not all(0 <= i < len(self.tokenizer) for i in ids):
            raise ValueError(f"token ids go from 0 to {len(self.tokenizer) - 1}")
        text = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        if self.tokenizer.backend_tokenizer.encode(text).ids != ids:
            raise ValueError("no text has these token ids; send text")
        return text

    def check_stop(self, stops: list[str]) -> None:
        """Raise ValueError unless tokens of the vocabulary can form each text."""
        from transformers import StopStringCriteria

        for stop in stops:
            try:
                StopStringCriteria(self.tokenizer, [stop])
            except Exception:
                raise ValueError(f"no tokens of this model form {stop!r}") from None
        StopStringCriteria(self.tokenizer, stops)


class Guard:
    """An ASGI application around transformers' own: it refuses, or sends on what it checked.

    `sampling` is the model's generation_config.json. An open-ended answer gets the rest of the window.
    """

    def __init__(
        self, app: Callable, prompts: Prompts, window: int, *, model: str, host: str, sampling: dict[str, Any]
    ) -> None:
        self.app, self.prompts, self.window, self.model, self.sampling = app, prompts, window, model, sampling
        self.host = host
        self._checking = ThreadPoolExecutor(1, "check")  # parsing and tokenizing: off the event loop, one at a time

    async def __call__(self, scope: dict, receive: Callable[[], Awaitable[dict]], send: Callable) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, self._warmed_up(send))
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        try:
            endpoint = self._route(scope)
            if scope["path"] == "/health":
                return await _answer(send, 200, {"status": "ok"})
            content = b""
            if endpoint is not None:
                body = await _read(scope, receive)
                if body is None:
                    return None
                content = await asyncio.get_running_loop().run_in_executor(
                    self._checking, self._checked, endpoint, body
                )
        except RequestError as error:
            kind = "model_not_found" if error.status == 404 and error.param == "model" else "invalid_request_error"
            return await _answer(
                send, error.status, {"error": {"message": str(error), "type": kind, "param": error.param, "code": None}}
            )
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        sent = scope | {"headers": headers, "query_string": b""}
        return await self.app(sent, _replay(content, receive), send)

    def _warmed_up(self, send: Callable) -> Callable:
        """A `send` that has the model answer once before the server is said to have started.

        The first answer loads the model and what generates, and would hold up all that comes meanwhile.
        """

        async def sent(message: dict) -> None:
            if message["type"] == "lifespan.startup.complete":
                body = json.dumps({"model": self.model, "prompt": "a", "max_tokens": 1, "stream": False}).encode()
                headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
                scope = {
                    "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
                    "scheme": "http", "path": "/v1/completions", "raw_path": b"/v1/completions", "query_string": b"",
                    "root_path": "", "headers": headers,
                }  # fmt: skip
                await self.app(scope, _replay(body, _gone), _unheard)
            await send(message)

        return sent

    def _route(self, scope: dict) -> Endpoint | None:
        """The endpoint of a POST, None for a GET. Raises RequestError for what is not allowed."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if not self._is_own(host):
            raise RequestError(f"host {short(host)} is not this server's; start it with that --host", status=403)
        if (origin := headers.get(b"origin")) is not None and origin.partition("://")[2] != host:
            raise RequestError(f"a page of {short(origin)} may not use this server", status=403)
        method = ALLOWED.get(scope["path"])
        if method is None:
            raise RequestError(f"no such path; there are {', '.join(ALLOWED)}", status=404)
        if scope["method"] != method:
            raise RequestError(f"{scope['path']} takes {method} alone", status=405)
        if method == "GET":
            return None
        if headers.get(b"content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RequestError("send JSON, with Content-Type: application/json", status=415)
        return ENDPOINTS[scope["path"]]

    def _is_own(self, header: str) -> bool:
        """Whether a Host header names this server: as it was bound, or by a loopback name.

        Bound to every address it has any number, and this machine's name; a page that had its own name point here
        (DNS rebinding) still sends that name.
        """
        try:
            name = urlsplit(f"//{header}").hostname or ""
            _ = urlsplit(f"//{header}").port
        except ValueError:
            return False
        everywhere = self.host in ("", "0.0.0.0", "::")
        if name in ("localhost", self.host.lower()) or (everywhere and name == socket.gethostname().lower()):
            return name != ""
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return everywhere or address.is_loopback

    def _checked(self, endpoint: Endpoint, content: bytes) -> bytes:
        """The body to send on. Raises RequestError for one that is refused."""
        body = parse(content)
        if (requested := body.get("model")) not in (None, self.model):
            message = f"no model {short(requested)}; this server has {self.model!r}"
            raise RequestError(message, param="model", status=404)
        fields = self.fitted(checked(endpoint, body, self.prompts), endpoint.limit)
        fields |= {"model": self.model, "stream": fields.get("stream", False)}
        if (top_k := fields.pop("top_k", None)) is not None:  # transformers takes it inside this field alone
            fields["generation_config"] = json.dumps(self.sampling | {"top_k": top_k})
        return json.dumps(fields).encode()

    def fitted(self, body: dict[str, Any], limit: str) -> dict[str, Any]:
        """The request with a token limit that fits. Raises RequestError for one that cannot."""
        prompt = self.prompts.count(body)
        left = self.window - prompt
        if prompt < 1:
            raise RequestError("the prompt has no tokens; it needs one")
        if left < 1:
            count = f"{prompt}" if prompt <= 2 * self.window else f"more than {2 * self.window}"
            raise RequestError(f"the prompt has {count} tokens; with one more it must fit the context of {self.window}")
        name = "max_completion_tokens" if "max_completion_tokens" in body else limit
        requested = body.get(name)
        if requested is None:
            return {**body, name: left}
        if requested > left:
            raise RequestError(
                f"{name}={short(requested)} with a prompt of {prompt} tokens exceeds the context of {self.window}; "
                f"at most {left} fit",
                param=name,
            )
        return body


async def _read(scope: dict, receive: Callable[[], Awaitable[dict]]) -> bytes | None:
    """The body of a request, or None when the client left. Raises RequestError for one too large or too slow."""
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    content, size, more = bytearray(), 0, int(declared) <= MAX_DISCARDED
    too_large = RequestError(f"the body is larger than {MAX_BODY} bytes", status=413)
    if not more:
        raise too_large
    waited = 0.0
    while more and size <= MAX_DISCARDED:
        if waited >= BODY_SECONDS:
            raise RequestError(f"the body did not arrive within {BODY_SECONDS} s", status=408)
        patience, began = min(1.0, BODY_SECONDS), time.monotonic()
        try:
            async with asyncio.timeout(patience):
                message = await receive()
        except TimeoutError:
            waited += patience  # and no more: where this loop stood still, the body may have arrived
            continue
        waited += min(patience, time.monotonic() - began)
        if message["type"] == "http.disconnect":
            return None
        piece = message.get("body", b"")
        size += len(piece)
        content += piece if size <= MAX_BODY else b""
        more = message.get("more_body", False)
    if size > MAX_BODY:
        raise too_large
    return bytes(content)


def _replay(content: bytes, receive: Callable[[], Awaitable[dict]]) -> Callable[[], Awaitable[dict]]:
    """A `receive` that gives the body once, then the messages of the connection (a client that leaves)."""
    pending = [{"type": "http.request", "body": content, "more_body": False}]

    async def replay() -> dict[str, Any]:
        return pending.pop() if pending else await receive()

    return replay


async def _gone() -> dict[str, Any]:
    """What a client that waits for nothing more says."""
    await asyncio.sleep(0)
    return {"type": "http.disconnect"}


async def _unheard(message: dict) -> None:
    """An answer that nobody reads."""


async def _answer(send: Callable, status: int, answer: dict[str, Any]) -> None:
    body = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status in (408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _with_timeout() -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol; a connection that neither sends its request's head nor reads its answer is closed.

    uvicorn has a timeout for a connection that is idle after an answer, and none before or within the next request.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class WithTimeout(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
            super().connection_made(transport)
            self._waited = 0
            self._watch()

        def _watch(self) -> None:
            if self.transport.is_closing():
                return
            waits_for_client = self.cycle is None or self.cycle.response_complete or self.flow.write_paused
            # looks are counted, not seconds: where this loop stood still, what a client sent waits to be read
            self._waited = self._waited + 1 if waits_for_client else 0
            if self._waited > SOCKET_SECONDS:
                self.transport.abort()
            self.loop.call_later(1, self._watch)

    return WithTimeout
