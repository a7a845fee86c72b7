"""What of an answer is settled while its tokens come: never more than its end, and all of it then."""

import random

import pytest

from isoflop.experiments.finished.answers import before_stop, settled


@pytest.mark.parametrize(
    ("text", "stops", "shown"),
    [
        ("abc", [], "abc"),
        ("abc", ["cd"], "ab"),
        ("abx", ["bcd", "xy"], "ab"),
        ("a\ufffd", [], "a"),
        ("aaa", ["aab"], "a"),
        ("", ["x"], ""),
    ],
)
def test_half_a_character_and_half_a_stop_wait(text, stops, shown):
    assert settled(text, stops) == shown


@pytest.mark.parametrize("seed", range(50))
def test_pieces_add_up_to_the_answer(seed):
    draw = random.Random(seed)
    content = "".join(draw.choices(["a", "b", "\u00e9", "\U0001f642"], k=12)).encode()[: draw.randint(1, 20)]
    stops = ["".join(draw.choices("ab", k=draw.randint(1, 3))) for _ in range(draw.randint(0, 2))]
    whole = before_stop(content.decode(errors="replace"), stops)
    shown = ""
    for count in range(len(content)):
        text = content[:count].decode(errors="replace")
        if not any(stop in text for stop in stops):
            assert settled(text, stops).startswith(shown)
            shown = settled(text, stops)
            assert whole.startswith(shown)
