"""The kinds of text in a Python file: code, docstrings, comments. Three domains that are on every machine."""

import ast
import io
import tokenize

PARTS = ("code", "docstrings", "comments")
SHORTEST = 3  # words of a comment: shorter ones are marks


def part_of(content: bytes, part: str) -> bytes:
    """One of PARTS of a file, or with "" all of it; nothing of a file that is no Python.

    >>> source = b"'A name.'" + b"\\nx = 1  # what is counted here\\n"
    >>> [part_of(source, part) for part in PARTS]
    [b'x = 1\\n', b'A name.\\n', b'what is counted here\\n']
    """
    if not part:
        return content
    try:
        if part == "docstrings":
            return _docstrings(content)
        tokens = list(tokenize.tokenize(io.BytesIO(content).readline))
    except (SyntaxError, tokenize.TokenError, UnicodeDecodeError, ValueError):
        return b""
    return _comments(tokens) if part == "comments" else _code(content, tokens)


def _docstrings(content: bytes) -> bytes:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(ast.parse(content)) if isinstance(node, kinds)]
    return "".join(f"{text}\n" for text in found if text).encode(errors="replace")


def _comments(tokens: list[tokenize.TokenInfo]) -> bytes:
    texts = [token.string.lstrip("#:! ").rstrip() for token in tokens if token.type == tokenize.COMMENT]
    return "".join(f"{text}\n" for text in texts if len(text.split()) >= SHORTEST).encode()


def _code(content: bytes, tokens: list[tokenize.TokenInfo]) -> bytes:
    """The lines of a file without comments, strings that stand alone, and empty lines."""
    lines = content.decode(tokens[0].string).splitlines(keepends=True)
    blank: set[int] = set()
    ends = {tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}
    for before, token, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        row, column = token.start
        if token.type == tokenize.COMMENT:
            lines[row - 1] = lines[row - 1][:column].rstrip() + "\n"
        elif token.type == tokenize.STRING and before.type in ends and after.type == tokenize.NEWLINE:
            blank.update(range(row, token.end[0] + 1))
    return "".join(line for number, line in enumerate(lines, 1) if number not in blank and line.strip()).encode()
