"""No path and no key leaves, wherever it stands; everything else stays as it is."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from isoflop.experiments.finished.private import refuse_keys, without_folders


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("/home/anna/x.txt", "x.txt"),
        ("/home/anna b/my x.txt", "my x.txt"),
        ("~/x/y", "y"),
        ("~anna/y", "y"),
        ("../../anna/*.txt", "*.txt"),
        ("C:\\Users\\anna\\x.txt", "x.txt"),
        ("\\\\server\\anna\\x.txt", "x.txt"),
        ("file:///home/anna/x", "x"),
        ("from /home/anna/x.txt, step 3", "from x.txt, step 3"),
        ("a=/home/anna/x b=/home/anna/y", "a=x b=y"),
        ("see ~anna/x", "see x"),
        ("at C:/Users/anna", "at anna"),
        ("tokens/s", "tokens/s"),
        ("text/*.md", "text/*.md"),
        ("user/name", "user/name"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("hf://datasets/a/b", "hf://datasets/a/b"),
        ("loss = a / b", "loss = a / b"),
        ("N/D ~ 20", "N/D ~ 20"),
        ("", ""),
    ],
)
def test_of_a_path_the_last_part_stays(given, left):
    assert without_folders(given) == left


WORDS = st.text("abcdefgh-_.0123456789", min_size=1, max_size=8)


@pytest.mark.slow
@given(
    st.lists(WORDS, min_size=2, max_size=5), WORDS, st.sampled_from(["{}", "in {}", "x={}", "[{}]", "({}) y", "'{}'"])
)
@example(["anna", "b"], "c", "{}")
def test_no_folder_of_any_path_is_left_in_any_sentence(folders, name, sentence):
    marked = [f"SECRET{folder}" for folder in folders]
    for path in (
        "/" + "/".join([*marked, name]),
        "~/" + "/".join([*marked, name]),
        "C:\\" + "\\".join([*marked, name]),
    ):
        assert "SECRET" not in without_folders({"k": [sentence.format(path)]})["k"][0]


@pytest.mark.parametrize(
    "key",
    [
        "hf_" + "a" * 34, "sk-" + "a" * 30, "sk-proj-" + "a" * 30, "ghp_" + "a" * 36, "AKIA" + "A" * 16,
        "https://anna:secret@example.org", "-----BEGIN RSA PRIVATE KEY-----", "xoxb-123456789012",
    ],
)  # fmt: skip
def test_a_key_is_refused_wherever_it_stands_and_is_not_repeated(key):
    with pytest.raises(ValueError, match=r"config\.a") as refused:
        refuse_keys([("config", {"a": [{"b": f"x {key} y"}]})])
    assert key not in str(refused.value)


def test_hashes_names_and_numbers_are_no_keys():
    refuse_keys([("x", {"a": ["0123456789ab", "f" * 64, "sk-learn", "hf_hub", 3, None, "task-ab", "https://a.b/c@d"]})])
