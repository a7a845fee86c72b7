"""Code, docstrings and comments of a Python file."""

import ast

import pytest

from isoflop.experiments.data.domains.python_parts import PARTS, part_of

SOURCE = b'''"""What the file is."""

import os  # operating system, of course


class A:
    """What A is.

    In two lines.
    """

    def f(self):  # short
        """Return it."""
        return "a string # that stays"  # and a comment that goes
'''


def test_each_part_of_a_file():
    assert part_of(SOURCE, "") == SOURCE
    assert part_of(SOURCE, "docstrings") == b"What the file is.\nWhat A is.\n\nIn two lines.\nReturn it.\n"
    assert part_of(SOURCE, "comments") == b"operating system, of course\nand a comment that goes\n"
    code = b'import os\nclass A:\n    def f(self):\n        return "a string # that stays"\n'
    assert part_of(SOURCE, "code") == code
    ast.parse(code)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("content", [b"", b"def f(:\n", b"x = '''\n", b"\xff\n"])
def test_a_file_that_is_no_python_has_no_part(part, content):
    assert part_of(content, part) == b""
