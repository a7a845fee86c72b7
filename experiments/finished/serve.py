"""An exported model over HTTP: transformers' own OpenAI-compatible server behind a guard of the context window.

transformers goes on generating past the window the model was trained on, and one request for a million tokens would
hold the server for hours. The guard answers such requests with status 400, and one for another model with 404, before
they reach the model.
"""

import importlib.util
import json
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from isoflop.models.config import ModelConfig, family_of

GUARDED = {"/v1/completions": "max_tokens", "/v1/chat/completions": "max_tokens", "/v1/responses": "max_output_tokens"}
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
        except OSError as error:
            raise ServeError(f"cannot listen on {host}:{port} ({error.strerror}); choose another --port") from error


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

    window = json.loads((folder / "config.json").read_text())["max_position_embeddings"]
    tokenizer = AutoTokenizer.from_pretrained(folder.name)

    class Config(uvicorn.Config):
        def __init__(self, app: Callable, **options: Any) -> None:
            guarded = ContextGuard(app, lambda body: count_tokens(body, tokenizer), window, model=folder.name)
            super().__init__(guarded, **options)

    uvicorn.Config = Config  # type: ignore[misc, assignment]  # transformers builds the application and runs it in one go: nowhere else to step in
    Serve(folder.name, device=device, host=host, port=port)


def count_tokens(body: dict[str, Any], tokenizer: Any) -> int:
    """Tokens of a request's prompt, chat messages or input; ValueError when it has none that can be read."""
    messages, text = body.get("messages"), body.get("prompt", body.get("input", ""))
    if messages is None and isinstance(text, list):
        messages = text
    if messages is not None:
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template may raise anything on what a client sends
            raise ValueError(f"messages cannot be written with the chat template: {error}") from error
    if not isinstance(text, str):
        raise ValueError(f"the prompt must be text; not {type(text).__name__}")
    return len(tokenizer(text).input_ids)


class ContextGuard:
    """An ASGI application around another: the model must be the one served, prompt and answer must fit the window.

    An open-ended answer gets the rest of the window.
    """

    def __init__(self, app: Callable, count: Callable[[dict], int], window: int, *, model: str) -> None:
        self.app, self.count, self.window, self.model = app, count, window, model

    async def __call__(self, scope: dict, receive: Callable[[], Awaitable[dict]], send: Callable) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in GUARDED:
            return await self.app(scope, receive, send)
        content = await _whole(receive)
        body = _json_object(content)
        if body is not None:  # what is not a JSON object the application refuses itself
            if (requested := body.get("model", self.model)) != self.model:
                return await _refuse(send, f"no model {requested!r}; this server has {self.model!r}", status=404)
            try:
                content = json.dumps(self.fitted(body, GUARDED[scope["path"]])).encode()
            except ValueError as error:
                return await _refuse(send, str(error))
        size = (b"content-length", str(len(content)).encode())
        headers = [header for header in scope["headers"] if header[0] != b"content-length"]
        return await self.app({**scope, "headers": [*headers, size]}, _replay(content, receive), send)

    def fitted(self, body: dict[str, Any], limit: str) -> dict[str, Any]:
        """The request with a token limit that fits. Raises ValueError for one that cannot."""
        prompt = self.count(body)
        left = self.window - prompt
        if left < 1:
            raise ValueError(f"the prompt has {prompt} tokens; with one more it must fit the context of {self.window}")
        name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else limit
        requested = body.get(name)
        if requested is None:
            return {**body, name: left}
        if not isinstance(requested, int) or isinstance(requested, bool) or requested < 1:
            raise ValueError(f"{name} must be a whole number of at least 1; not {requested!r}")
        if requested > left:
            raise ValueError(
                f"{name}={requested} with a prompt of {prompt} tokens exceeds the context of {self.window}; "
                f"at most {left} fit"
            )
        return body


async def _whole(receive: Callable[[], Awaitable[dict]]) -> bytes:
    content, more = b"", True
    while more:
        message = await receive()
        content += message.get("body", b"")
        more = message.get("more_body", False)
    return content


def _json_object(content: bytes) -> dict | None:
    try:
        body = json.loads(content)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _replay(content: bytes, receive: Callable[[], Awaitable[dict]]) -> Callable[[], Awaitable[dict]]:
    """A `receive` that gives the body once, then the messages of the connection (a client that leaves)."""
    pending = [{"type": "http.request", "body": content, "more_body": False}]

    async def replay() -> dict[str, Any]:
        return pending.pop() if pending else await receive()

    return replay


async def _refuse(send: Callable, message: str, *, status: int = 400) -> None:
    kind = "model_not_found" if status == 404 else "invalid_request_error"
    body = json.dumps({"error": {"message": message, "type": kind}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
