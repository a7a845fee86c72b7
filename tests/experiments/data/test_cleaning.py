"""Every stage of cleaning changes what it names, its counts add up, and near copies are on one side alone."""

import random
import re

import numpy as np
import pytest

from isoflop.experiments.config import DataSpec
from isoflop.experiments.data import CorpusError, near_duplicates
from isoflop.experiments.data.cleaning import STAGES, Count, check_stages, clean, of_length, remove_markup
from isoflop.experiments.data.corpus import manifest_text, prepare

ALL = [*STAGES, near_duplicates.STAGE]


def words(seed, n=300):
    rng = random.Random(seed)
    lines = [" ".join(f"w{rng.randrange(9000)}" for _ in range(10)) for _ in range(n // 10)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("stage", "text", "cleaned"),
    [
        ("unicode", "e\u0301\r\nx\ry", "\u00e9\nx\ny"),
        ("control", "a\x00\x07b\tc\n\u200bd\ufeff", "ab\tc\nd"),
        ("markup", "<p class='x'>a &amp; b</p><script>1<2</script><!-- c -->", "a & b"),
        ("markup", "if a<b and b>c: &amp;", "if a<b and b>c: &amp;"),
        ("markup", "a<SCRIPT x>1</script >b<style>2</Style>c<!-- </b> -->d</i>", "abcd"),
        ("markup", "<!-- a <script>1</b>" * 20_000, "<!-- a <script>1" * 20_000),  # no end is there: searched for once
        ("markup", "if (a <b && c> d) return; // </b>", "if (a <b && c> d) return; // "),
        ("markup", "x <a and b> y <b c==d> z <p = 1> <i < j></i>", "x <a and b> y <b c==d> z <p = 1> <i < j>"),
        ("markup", "e&#769; a&#8203;b\t&#27;[ &amp;lt; &#13;\n&#xe9;</i>", "\u00e9 ab\t[ &lt; \n\u00e9"),
        (
            "markup",
            "&#769;e\u0301\u200b &#8203;</i>",
            "\u0301e\u0301\u200b \u200b",
        ),  # none was taken out before
        (
            "markup",
            "<!DOCTYPE html>\n<html>\n<head><title>T</title></head><body class=x>\n<p>a\n  b <a href='?y=1>2' id=\"i\""
            "target=_blank>link</a>.\n\n<p>c\n<table>\n <tr>\n <td>1\n <td>2\n<tr><th>3</th>\n <th nowrap>4</th></tr>"
            "</table>\n<pre>  if x:\n    y</pre></body></html>\n",
            "T\na\n  b link.\nc\n1\t2\n3\t4\n  if x:\n    y\n",
        ),
        ("boilerplate", "\u0130stanbul.\nAll rights reserved.\n\u0130", "\u0130stanbul.\n\u0130"),
        ("boilerplate", "one\nCopyright X. All Rights Reserved.\ntwo\n", "one\ntwo\n"),
        ("length", "short", None),
        ("length", "x y " * 30, "x y " * 30),
        ("repetition", "the same line again\n" * 50, None),
        ("repetition", "ab" * 4000, None),
        ("repetition", words(0), words(0)),
        ("repetition", 2 * words(0), 2 * words(0)),
        ("repetition", 3 * words(0), None),
    ],
)
def test_a_stage_does_what_its_name_says(stage, text, cleaned):
    assert STAGES[stage](text) == cleaned


BLOCKS = (
    "address article aside blockquote br button caption dd details div dl dt fieldset figcaption figure footer form h1 "
    "h6 header hr legend li main nav ol option p pre section select summary table tbody tfoot thead tr ul"
)
INLINE = "a abbr b cite code del em font i img input ins kbd label mark samp small span strong sub sup time u wbr"
ATTRIBUTES = (
    "", "/", " /", " class=x", " class='a > b' data-x", ' hidden id = "i"', "\nhref=/a?b=c&d", ' x="1"" y', ' x="1"y=2',
)  # fmt: skip


@pytest.mark.parametrize("attributes", ATTRIBUTES)
def test_tags_keep_apart_what_is_read_apart(attributes):
    for names, between in ((BLOCKS, "\n"), ("td th", "\t"), (INLINE, "")):
        for name in names.split() + names.upper().split():
            written = f"one<{name}{attributes}>two</{name}>three"
            assert remove_markup(written) == between.join(["one", "two", "three"]), written


@pytest.mark.parametrize("before", [[], ["unicode"], ["control"], ["unicode", "control"], ["control", "unicode"]])
def test_no_entity_brings_back_what_a_stage_took_out(before):
    """Numbers of all characters that a text of the web may name, behind a letter that some of them compose with."""
    written = "".join(f"e&#{code};\n" for code in range(0x2100)) + "</i>"
    counts = [Count(stage) for stage in (*before, "markup")]
    read = clean(written.encode(), counts).decode()
    assert "\u00e9\n" in read
    assert all(STAGES[stage](read) == read for stage in before)


def test_counts_follow_the_text_through_the_stages():
    counts = [Count("control"), Count("length")]
    documents = [b"x" * 100, b"\x07" + b"y" * 100, b"z"]
    out = [clean(document, counts) for document in documents]
    assert out == [b"x" * 100, b"y" * 100, None]
    assert counts == [Count("control", 3, 202, 1, 0, 1), Count("length", 3, 201, 0, 1, 1)]


def test_unknown_stages_are_refused():
    with pytest.raises(CorpusError, match="no stage 'polish'; stages are unicode"):
        check_stages(["control", "polish"])


@pytest.fixture
def planted(tmp_path):
    """Forty texts; a near copy of each tenth, an exact copy of two, three to be dropped by stages."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i:02}.txt").write_text(words(i))
    for i in range(0, 40, 10):
        (folder / f"near-{i}.txt").write_text(words(i).replace("w1 ", "changed ", 3) + "and a new last line\n")
    for i in (3, 4):
        (folder / f"same-{i}.txt").write_text(words(i))
    (folder / "short.txt").write_text("short")
    (folder / "again.txt").write_text("the same line again\n" * 50)
    (folder / "empty.txt").write_text("")
    return folder


def spec(folder, **changes):
    return DataSpec(
        name="t", source="files", files=[f"{folder}/*"], context_length=16, **({"held_out_fraction": 0.3} | changes)
    )


def test_planted_copies_go_and_every_count_adds_up(planted, tmp_path):
    corpus = prepare(spec(planted, clean=ALL), tmp_path / "c")
    reported = corpus.manifest
    stages = {stage["stage"]: stage for stage in reported["stages"]}
    dropped = {name: stage["dropped"] for name, stage in stages.items() if stage["dropped"]}
    assert dropped == {"length": 1, "repetition": 1, "exact-duplicates": 2, "near-duplicates": 4}
    assert reported["read"]["documents"] == 48 == reported["stages"][0]["documents"]
    for before, after in zip(reported["stages"], reported["stages"][1:], strict=False):
        assert after["documents"] == before["documents"] - before["dropped"] + before["documents_added"]
        assert after["bytes_in"] == before["bytes_in"] - before["bytes_removed"] + before["bytes_added"]
    last = reported["stages"][-1]
    assert (
        reported["train"]["documents"] + reported["held_out"]["documents"] == last["documents"] - last["dropped"] == 40
    )
    assert (
        reported["train"]["bytes"] + reported["held_out"]["bytes"]
        == last["bytes_in"] - last["bytes_removed"] + last["bytes_added"]
    )


LINES = "".join(f"<p>e\u0301 {line}\x07 &amp; more</p>\r\n" for line in words(5, 60_000).splitlines())  # 400 KB
SCRIPT = "".join(f"var v{i} = function(a, b) {{return a + {i * i};}};\n" for i in range(5000))
LONG = f"<html>\n<script>\n{SCRIPT}</script>\n{LINES}<!--\n{SCRIPT}-->\nall rights reserved\nend</html>"


@pytest.mark.parametrize("stages", [[], *([stage] for stage in STAGES), [*STAGES], [*reversed(STAGES)]], ids=str)
def test_a_file_is_cleaned_before_it_is_cut(tmp_path, stages):
    """Its pieces are of the text that the stages make of the whole, wherever a cut would have been."""
    (tmp_path / "long.html").write_bytes(LONG.encode())
    corpus = prepare(spec(tmp_path, clean=stages), tmp_path / "c")
    cleaned = LONG
    for stage in stages:
        cleaned = STAGES[stage](cleaned)
    sides = (side.astype(np.uint8).tobytes().decode() for side in (corpus.train, corpus.held_out))
    found = [line for side in sides for line in side.splitlines()]
    assert sorted(found) == sorted(cleaned.splitlines())
    rows = corpus.manifest["stages"]
    assert corpus.manifest["read"]["documents"] == 1
    added = next(row["documents_added"] for row in rows if row["stage"] == "cut")
    assert rows[-1]["documents"] - rows[-1]["dropped"] == 1 + added > 4
    assert f"documents added {added}" in manifest_text(corpus)
    assert corpus.manifest["recipe"].get("revised", {}).get("cut") == (2 if stages else None)


def test_what_drops_texts_drops_pieces_of_a_long_file(tmp_path):
    """A file is not too long that is cut, its end not too short; where it repeats itself those pieces go alone."""
    again = "".join(f"the same line again, {i}\n" * 3000 for i in range(5))
    text = words(1, 20_000) + again + words(2, 400_000)
    assert of_length(text) is None
    (tmp_path / "long.txt").write_text(text)
    cleaned = prepare(spec(tmp_path, clean=["length"]), tmp_path / "c")
    assert cleaned.train_tokens + cleaned.held_out_tokens == len(text)
    varied = prepare(spec(tmp_path, clean=["repetition"]), tmp_path / "c")
    sides = (side.astype(np.uint8).tobytes().decode() for side in (varied.train, varied.held_out))
    found = "".join(sides)
    assert 0 < found.count("same") < 6_000
    assert len(text) - len(again) - 64 * 1024 < len(found) < len(text) - len(again) // 2
    (tmp_path / "long.txt").write_text(again)
    with pytest.raises(CorpusError, match=r"no document is left of 1 [(]1 by repetition[)]"):
        prepare(spec(tmp_path, clean=["repetition"]), tmp_path / "c")


def test_no_near_copy_of_a_held_out_text_is_trained_on(planted, tmp_path):
    plain = prepare(spec(planted), tmp_path / "plain")
    train = plain.train.astype(np.uint8).tobytes().decode()
    held = plain.held_out.astype(np.uint8).tobytes().decode()

    def leaks(train, held):
        lines = {line for line in held.split("\n") if line}
        return sum(line in lines for line in train.split("\n"))

    assert leaks(train, held) > 20  # without the stage there is something to find
    cleaned = prepare(spec(planted, clean=["near-duplicates"]), tmp_path / "clean")
    sides = (side.astype(np.uint8).tobytes().decode() for side in (cleaned.train, cleaned.held_out))
    assert leaks(*sides) == 0


def test_near_means_near():
    text = words(1, 1000)
    halves = text[: len(text) // 2] + words(2, 500)
    almost = text.replace("\n", "\nnew ", 3)
    rows = np.stack([near_duplicates.signature(t.encode()) for t in (text, halves, almost, words(3), text)])
    assert near_duplicates.copies(rows).tolist() == [False, False, True, False, True]


# Letters to make words of, and whether blanks stand between these.
SCRIPTS = {
    "Latin": ("bcdfglmnprstaeiou", " "),
    "Latin with accents": ("\u00e9\u00e8\u00e0\u00fc\u00f1\u0161\u0142\u0131", " "),
    "Cyrillic": ("\u0431\u0432\u0433\u0434\u043a\u043b\u043c\u0430\u0435\u0438", " "),
    "Greek": ("\u03b1\u03b2\u03b3\u03b4\u03b5\u03ba\u03bb\u03bc\u03bd", " "),
    "Arabic": ("\u0627\u0628\u062a\u062c\u062f\u0631\u0633\u0644\u0645\u064e", " "),
    "Hebrew": ("\u05d0\u05d1\u05d2\u05d3\u05d4\u05dc\u05de\u05e9", " "),
    "Devanagari": ("\u0915\u0916\u0917\u0924\u0928\u093e\u093f\u0940\u0941", " "),
    "vowel signs alone apart": ("\u0915\u093e\u093f\u0940\u0941\u0942\u0947\u0948", " "),
    "Hangul": ("\uac00\ub098\ub2e4\ub77c\ub9c8\ubc14\uc0ac", " "),
    "Han": ("".join(map(chr, range(0x4E00, 0x4F00))), ""),
    "kana": ("".join(map(chr, range(0x3041, 0x30F0))), ""),
    "Thai": ("\u0e01\u0e02\u0e04\u0e07\u0e08\u0e0a\u0e14\u0e15\u0e34\u0e35\u0e38\u0e48", ""),
    "Khmer": ("\u1780\u1781\u1782\u1783\u1784\u1785\u17b6\u17b7\u17b8", ""),
}


@pytest.mark.parametrize(("letters", "blank"), SCRIPTS.values(), ids=SCRIPTS)
def test_near_means_near_in_every_script(letters, blank):
    """Texts of other words that share a footer are different; a text with one word changed is a near copy."""
    rng = random.Random(letters)
    several = [["".join(rng.choices(letters, k=rng.randint(2, 6))) for _ in range(300)] for _ in range(8)]
    footer = " https://www.example.com/news/2024/index.html Copyright 2024 Example Media Group"
    changed = [[*words[:10], words[11], *words[11:]] for words in several]
    rows = [near_duplicates.signature((blank.join(words) + footer).encode()) for words in (*several, *changed)]
    assert near_duplicates.copies(np.stack(rows)).tolist() == [False] * 8 + [True] * 8


def test_words_of_ascii_are_those_of_bytes():
    """Corpora of ASCII keep their signatures, and so their ids."""
    text = "import os_path; x = f(a1, 'B-c')\n# \t3.14 e_2!"
    assert near_duplicates._word().findall(text) == re.findall(r"\w+", text, re.ASCII)


def test_a_corpus_cleaned_in_another_way_has_another_folder(planted, tmp_path):
    plain, near = (prepare(spec(planted, clean=clean), tmp_path / "c") for clean in ([], ["near-duplicates"]))
    assert "revised" not in plain.manifest["recipe"]
    assert near.manifest["recipe"]["revised"] == {"near-duplicates": 2}


def test_cleaning_twice_gives_the_same_bytes_and_goes_on_from_whole_parts(planted, tmp_path, monkeypatch):
    from isoflop.experiments.data import parts, shards

    monkeypatch.setattr(parts, "PART_BYTES", 30_000)
    monkeypatch.setattr(parts, "PARALLEL_FROM", 10**6)
    made, make = [], parts._make

    def killed(part, files, data):
        if part.number == 2:
            raise KeyboardInterrupt
        made.append(part.number)
        make(part, files, data)

    monkeypatch.setattr(parts, "_make", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(spec(planted, clean=ALL), tmp_path / "c")
    monkeypatch.setattr(parts, "_make", lambda part, files, data: made.append(part.number) or make(part, files, data))
    resumed = prepare(spec(planted, clean=ALL), tmp_path / "c")
    assert made == sorted(set(made))
    monkeypatch.setattr(parts, "PART_BYTES", 2**30)
    whole = prepare(spec(planted, clean=ALL), tmp_path / "d")
    for side in shards.SIDES:
        assert (resumed.folder / f"{side}.bin").read_bytes() == (whole.folder / f"{side}.bin").read_bytes()
    assert (resumed.folder / "manifest.json").read_bytes() == (whole.folder / "manifest.json").read_bytes()
    assert [p.name for p in (tmp_path / "c").iterdir()] == [resumed.folder.name]


@pytest.mark.slow
def test_two_processes_clean_the_same_text(planted, tmp_path, monkeypatch):
    from isoflop.experiments.data import parts

    one = prepare(spec(planted, clean=ALL), tmp_path / "one")
    monkeypatch.setattr(parts, "PART_BYTES", 10_000)
    assert prepare(spec(planted, clean=ALL), tmp_path / "two").manifest == one.manifest
