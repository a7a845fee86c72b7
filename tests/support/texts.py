"""A corpus of small text files."""

from pathlib import Path


def write_texts(folder: Path, files: int = 12, words: int = 800) -> Path:
    """Make `folder` with so many files of pairs of numbers, and return it."""
    folder.mkdir()
    for i in range(files):
        (folder / f"{i}.txt").write_text("".join(f"{i * j % 97} and {j * j % 89}, " for j in range(words)))
    return folder
