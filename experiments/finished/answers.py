"""Answers of transformers' server as the API has them, where its own differ.

The server sets the seed of a request when it arrives, in the generator that an answer under way draws from; an answer
keeps the text that it stops at, and one to a prompt that ends in the beginning of such a text stops at once; a stream
leaves out a character whose last bytes never come. Here each answer is drawn by its own seed and is one text, streamed
or whole: up to the first stop, with U+FFFD for bytes that are no character.
"""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch

from isoflop.experiments.data.tokenizer import continuation

_SEED: ContextVar[int | None] = ContextVar("seed", default=None)  # of the request whose task this is


def settled(text: str, stops: Sequence[str]) -> str:
    """The beginning of an answer without a stop that no more tokens change; the rest may be half of a sign or stop."""
    text = text.rstrip("\ufffd")
    held = max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
    return text[: len(text) - held]


def before_stop(text: str, stops: Sequence[str]) -> str:
    """The text up to where one of `stops` begins first; all of it without any."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def answer_as_the_api() -> None:
    """Have the server that transformers starts next answer so: it makes its managers by name, in one module."""
    from transformers.cli.serving import utils

    class Streamer(utils.DirectStreamer):
        """What the tokens of one answer say so far, sent on as it settles."""

        def __init__(self, tokenizer: Any, loop: Any, queue: asyncio.Queue, stops: Sequence[str]) -> None:
            super().__init__(tokenizer, loop, queue)
            self.tokens: list[int] = []
            self._prompt: list[int] = []
            self._stops, self._sent = stops, 0

        def put(self, value: torch.Tensor) -> None:
            if self._cancelled.is_set():
                raise utils._GenerationCancelled
            if self._first:
                self._prompt, self._first = value.flatten().tolist(), False
                return
            self.tokens += value.tolist()
            self.total_tokens = len(self.tokens)
            text = self._text()
            if any(stop in text for stop in self._stops):
                self.end()
                raise utils._GenerationCancelled
            self._send(settled(text, self._stops))

        def end(self) -> None:
            self._send(before_stop(self._text(), self._stops))
            self._enqueue(None)

        def _text(self) -> str:
            """What follows the prompt, tokens such as <|endoftext|> included: nothing ends at them."""
            decode = partial(self._tokenizer.decode, skip_special_tokens=False)
            return continuation(decode, self._prompt, self.tokens)

        def _send(self, text: str) -> None:
            if len(text) > self._sent:
                self._enqueue(text[self._sent :])
                self._sent = len(text)

    class Manager(utils.GenerateManager):
        """One answer at a time, on one thread: whole ones are gathered from the stream."""

        def generate_streaming(
            self, model: Any, processor: Any, inputs: Any, gen_config: Any, request_id: str, response_parser: Any = None
        ) -> tuple[asyncio.Queue, Streamer]:
            loop, queue, seed = asyncio.get_running_loop(), asyncio.Queue[Any](), _SEED.get()
            tokenizer = getattr(processor, "tokenizer", processor)
            streamer = Streamer(tokenizer._tokenizer, loop, queue, gen_config.stop_strings or ())
            gen_config.stop_strings = None

            def answer() -> None:
                try:
                    torch.seed() if seed is None else torch.manual_seed(seed)  # else the seed before would go on
                    model.generate(**inputs, streamer=streamer, generation_config=gen_config, tokenizer=processor)
                except utils._GenerationCancelled:
                    loop.call_soon_threadsafe(queue.put_nowait, None)
                except Exception as error:  # as the server has it: a thread that died would answer nobody any more
                    loop.call_soon_threadsafe(queue.put_nowait, utils._StreamError(str(error)))

            self.submit(answer)
            return queue, streamer

        async def generate_non_streaming(  # type: ignore[override]  # ids in a list, of which it needs the number
            self, model: Any, processor: Any, inputs: Any, gen_config: Any, request_id: str
        ) -> tuple[str, int, list[int]]:
            queue, streamer = self.generate_streaming(model, processor, inputs, gen_config, request_id)
            pieces = []
            while (piece := await queue.get()) is not None:
                if isinstance(piece, utils._StreamError):
                    raise RuntimeError(piece.msg)
                pieces.append(piece)
            return "".join(pieces), inputs["input_ids"].shape[-1], streamer.tokens

    def keep_seed(seed: int) -> None:
        _SEED.set(seed)

    utils.set_torch_seed = keep_seed
    utils.GenerateManager = Manager  # type: ignore[misc]  # made by this name: nowhere else to step in
