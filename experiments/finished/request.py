"""The requests that the server takes: each field is checked, and nothing that was not checked reaches transformers.

Fields, types and ranges are those of OpenAI's API where transformers' server implements them. A field that it would
ignore or cannot answer is refused by name, unless its value asks for nothing (n=1, echo=false).
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from reprlib import repr as short
from typing import Any, Protocol

from isoflop.read_json import JsonError, RefusedError, parse_json

MAX_DEPTH = 32  # of nested lists and objects; a chat with content parts has five
MAX_STOPS, MAX_STOP_LENGTH = 16, 64
ROLES = ("system", "developer", "user", "assistant", "tool")

Check = Callable[[str, Any], Any]  # (field, value): the value to send, or RequestError


class RequestError(ValueError):
    """A request that is refused: the message names the field (`param`), `status` is the answer's."""

    def __init__(self, message: str, *, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param, self.status = param, status


class Vocabulary(Protocol):
    """What a check must know about the served model's tokens."""

    def text(self, ids: list[int]) -> str: ...  # ValueError where no text has these tokens
    def check_stop(self, stops: list[str]) -> None: ...  # ValueError where no token can form one of them


@dataclass(frozen=True)
class Endpoint:
    """One path of the API: its prompt, its limit on the answer's tokens, and the check of each field it takes."""

    prompt: str
    limit: str
    checks: dict[str, Check]


def parse(content: bytes) -> dict[str, Any]:
    """The JSON object of a request body. Raises RequestError for any other body and for one nested too deeply."""
    try:
        return parse_json(content, dict[str, Any], source="the body", depth=MAX_DEPTH)
    except RefusedError as error:
        raise RequestError(str(error)) from None
    except JsonError as error:
        raise RequestError(str(error), status=422) from None


def checked(endpoint: Endpoint, body: dict[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """The fields of `body` to send on: those that change the answer, in the form that transformers reads.

    Raises RequestError naming the first field that is unknown, of a wrong type or out of range.
    """
    for name in body:
        if name not in endpoint.checks:
            known = ", ".join(endpoint.checks)
            raise RequestError(f"{short(name)} is not a field that this server takes; it takes {known}", param=name)
    fields: dict[str, Any] = {}
    for name, check in endpoint.checks.items():
        if body.get(name) is not None and (sent := check(name, body[name])) is not None:
            fields[name] = sent
    if endpoint.prompt not in fields:
        raise RequestError(f"{endpoint.prompt} is missing", param=endpoint.prompt)
    if isinstance(fields[endpoint.prompt], _TokenIds):
        try:
            fields[endpoint.prompt] = vocabulary.text(fields[endpoint.prompt])
        except ValueError as error:
            raise RequestError(f"{endpoint.prompt}: {error}", param=endpoint.prompt) from None
    if "stop" in fields:
        try:
            vocabulary.check_stop(fields["stop"])
        except ValueError as error:
            raise RequestError(f"stop: {error}", param="stop") from None
    if instructions := fields.pop("instructions", None):
        fields["input"] = [{"role": "system", "content": instructions}, *fields["input"]]
    return fields


def messages_of(body: dict[str, Any]) -> list[dict[str, str]] | None:
    """The chat messages of checked fields; None for a text to be continued."""
    return body.get("messages", body.get("input"))


class _TokenIds(list[int]):
    """A prompt that came as token ids."""


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{field} must be text; not {type(value).__name__}", param=field)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(f"{field} has half a surrogate pair at character {error.start}", param=field) from None
    return value


def _ignored(check: Check) -> Check:
    """A field that is checked and changes nothing."""

    def checked_only(field: str, value: Any) -> None:
        check(field, value)

    return checked_only


def _truth(field: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise RequestError(f"{field} must be true or false; not {short(value)}", param=field)
    return value


def _whole(low: int, high: int | None = None) -> Check:
    """A whole number from `low` to `high`."""
    limits = f"of at least {low}" if high is None else f"from {low} to {high}"

    def check(field: str, value: Any) -> int:
        wrong = not isinstance(value, int) or isinstance(value, bool) or value < low
        if wrong or (high is not None and value > high):
            raise RequestError(f"{field} must be a whole number {limits}; not {short(value)}", param=field)
        return value

    return check


def _number(low: float, high: float, *, or_zero: bool = False) -> Check:
    """A number from `low` to `high`, or 0 where that has a meaning of its own."""

    def check(field: str, value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not ((or_zero and value == 0) or low <= value <= high) or not math.isfinite(value):
            limits = f"{'0, or ' if or_zero else ''}a number from {low:g} to {high:g}"
            raise RequestError(f"{field} must be {limits}; not {short(value)}", param=field)
        return float(value)

    return check


def _only(*values: Any, instead: str = "") -> Check:
    """A field of the API that this server has one answer to: other values are refused."""

    def check(field: str, value: Any) -> None:
        if not any(value == only and isinstance(value, bool) == isinstance(only, bool) for only in values):
            served = " or ".join(json.dumps(only) for only in values)
            raise RequestError(
                f"{field}={short(value)} is not served{f' (only {served})' if values else ''}{instead}", param=field
            )

    return check


def _stop(field: str, value: Any) -> list[str] | None:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise RequestError(f"{field} must be a text or a list of at most {MAX_STOPS} texts", param=field)
    for stop in stops:
        if not 0 < len(_text(field, stop)) <= MAX_STOP_LENGTH:
            raise RequestError(f"{field}: each must have 1 to {MAX_STOP_LENGTH} characters", param=field)
    return stops or None


def _stream_options(field: str, value: Any) -> None:
    """Refuse all but include_usage: the last chunk holds the usage in any case."""
    if not isinstance(value, dict) or not set(value) <= {"include_usage"}:
        raise RequestError(f"{field} must be an object with include_usage alone", param=field)
    _truth(field, value.get("include_usage", True))


def _prompt(field: str, value: Any) -> str | _TokenIds:
    """A text, token ids, or a list of one of them."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, str):
        return _text(field, value)
    if isinstance(value, list) and value and all(isinstance(i, int) and not isinstance(i, bool) for i in value):
        return _TokenIds(value)
    if isinstance(value, list) and len(value) > 1 and all(isinstance(one, str | list) for one in value):
        raise RequestError(f"{field} has {len(value)} prompts; send one a request", param=field)
    kind = type(value).__name__ if not isinstance(value, list) else "a list of neither"
    raise RequestError(f"{field} must be text or token ids; not {kind}", param=field)


def _messages(field: str, value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise RequestError(f"{field} must be a list of messages", param=field)
    return [_message(f"{field}[{i}]", message) for i, message in enumerate(value)]


def _message(field: str, value: Any) -> dict[str, str]:
    """A message with its role and its text. `name`, and what the server itself gives with a message, are left out."""
    if not isinstance(value, dict):
        raise RequestError(f"{field} must be an object with role and content; not {type(value).__name__}", param=field)
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise RequestError(f"{field}.role must be one of {', '.join(ROLES)}; not {short(role)}", param=f"{field}.role")
    for name, member in value.items():
        if name in ("name", "id", "status", "type"):
            _text(f"{field}.{name}", member)
        elif name not in ("role", "content") and member not in (None, [], ""):
            raise RequestError(f"{field}: {short(name)} is not served", param=field)
    if value.get("type", "message") != "message":
        raise RequestError(f"{field}.type must be message; not {short(value['type'])}", param=field)
    return {"role": role, "content": _content(f"{field}.content", value.get("content"))}


def _content(field: str, value: Any) -> str:
    """A text, or the texts of content parts joined by blanks (as transformers' server joins them)."""
    if isinstance(value, str):
        return _text(field, value)
    if not isinstance(value, list):
        raise RequestError(f"{field} must be text or a list of text parts; not {type(value).__name__}", param=field)
    texts = []
    for i, part in enumerate(value):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "input_text", "output_text"):
            raise RequestError(f"{field}[{i}] must be a part of type text; the model reads nothing else", param=field)
        texts.append(_text(f"{field}[{i}].text", part.get("text")))
    return " ".join(texts)


def _input(field: str, value: Any) -> list[dict[str, str]]:
    """The input of /v1/responses as messages: a text, the parts of one message of the user, or messages."""
    parts = isinstance(value, list) and value and all(isinstance(one, dict) and "role" not in one for one in value)
    if isinstance(value, str) or parts:
        return [{"role": "user", "content": _content(field, value)}]
    return _messages(field, value)


_EVALUATE = "; loglikelihoods of a run: isoflop evaluate RUN_ID --tasks"
_ANY: dict[str, Check] = {
    "model": _ignored(_text),
    "temperature": _number(1e-3, 100, or_zero=True),
    "top_p": _number(0, 1),
    "top_k": _whole(0, 10**6),
    "seed": _whole(0, 2**63 - 1),
    "stream": _truth,
    "user": _ignored(_text),
}
_TEXT: dict[str, Check] = {
    "stop": _stop,
    "frequency_penalty": _only(0),  # transformers has another penalty, and would take it for this one
    "presence_penalty": _only(0),
    "n": _only(1, instead="; send one request each"),
    "logit_bias": _only({}),
    "stream_options": _stream_options,
}
_TOOLS: dict[str, Check] = {
    "tools": _only([]),
    "tool_choice": _only("none", "auto"),
    "parallel_tool_calls": _ignored(_truth),
    "metadata": _only({}),
    "store": _only(False),
}
ENDPOINTS = {
    "/v1/completions": Endpoint(
        "prompt",
        "max_tokens",
        {"prompt": _prompt, "echo": _only(False, instead=_EVALUATE), "logprobs": _only(instead=_EVALUATE)}
        | {"max_tokens": _whole(1), "best_of": _only(1), "suffix": _only("")}
        | _ANY
        | _TEXT,
    ),
    "/v1/chat/completions": Endpoint(
        "messages",
        "max_tokens",
        {"messages": _messages, "max_tokens": _whole(1), "max_completion_tokens": _whole(1)}
        | _ANY
        | _TEXT
        | _TOOLS
        | {"logprobs": _only(False, instead=_EVALUATE), "top_logprobs": _only(0, instead=_EVALUATE)}
        | {"response_format": _only({"type": "text"})},
    ),
    "/v1/responses": Endpoint(
        "input",
        "max_output_tokens",
        {"input": _input, "instructions": _text, "max_output_tokens": _whole(1)}
        | _ANY
        | _TOOLS
        | {"truncation": _only("disabled"), "text": _only({"format": {"type": "text"}})},
    ),
}
