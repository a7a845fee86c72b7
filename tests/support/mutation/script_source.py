"""Single-operator mutants of a script in JavaScript, from its tokens."""

import re
from dataclasses import dataclass

from tests.support.mutation.python_source import Mutant

_TOKEN = re.compile(
    r"(?P<space>\s+|//[^\n]*|/\*.*?\*/)"
    r"|(?P<text>\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*')"
    r"|(?P<number>\d+\.?\d*(?:e[+-]?\d+)?)"
    r"|(?P<name>[A-Za-z_$][\w$]*)"
    r"|(?P<sign>===|!==|\*\*|=>|\?\.|<=|>=|&&|\|\||\?\?|\.\.\.|[-+*/%<>!=?:;,.(){}\[\]])",
    re.DOTALL,
)
SIGNS = {
    "<": "<=", "<=": "<", ">": ">=", ">=": ">", "===": "!==", "!==": "===", "&&": "||", "||": "&&", "*": "/",
    "/": "*", "+": "-", "-": "+", "**": "*",
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "true": "false", "false": "true", "floor": "ceil", "ceil": "floor",
         "n_params": "tokens", "tokens": "n_params", "every": "some"}  # fmt: skip
TERMS = ("+", "-", "*", "/", "**")  # whose right operand may be dropped


@dataclass(frozen=True)
class Token:
    """A piece of the script: its kind, its text and where it begins."""

    kind: str
    text: str
    start: int


def tokens(source: str) -> list[Token]:
    """The script's tokens without spaces and comments, those inside `${}` of a template included."""
    found, at, templates, braces = [], 0, [], 0
    while at < len(source):
        if source[at] == "`" or (templates and source[at] == "}" and braces == templates[-1]):
            opened = source[at] == "`"
            if not opened:
                templates.pop()
            end = re.compile(r"(?:\\.|[^`\\$]|\$(?!\{))*", re.DOTALL).match(source, at + 1).end()
            found.append(Token("text", source[at:end], at))
            if source[end] == "`":
                at = end + 1
            else:
                templates.append(braces)
                at = end + 2
            continue
        match = _TOKEN.match(source, at)
        if match is None:
            raise ValueError(f"no token at line {source.count(chr(10), 0, at) + 1}: {source[at : at + 30]!r}")
        kind, text = str(match.lastgroup), match.group()
        braces += (text == "{") - (text == "}") if kind == "sign" else 0
        if kind != "space":
            found.append(Token(kind, text, at))
        at = match.end()
    return found


def mutants(source: str) -> list[Mutant]:
    """Every mutant of a script, by place."""
    found: list[Mutant] = []
    every = tokens(source)

    def put(start: int, old: str, new: str) -> None:
        found.append(Mutant(start, old, new, source.count("\n", 0, start) + 1))

    for before, token, after, next_ in zip(
        [None, *every[:-1]], every, [*every[1:], None], [*every[2:], None, None], strict=False
    ):
        operand = before is not None and (before.kind in ("number", "name", "text") or before.text in (")", "]"))
        operand = operand and before.text not in ("return", "const", "of", "in")
        if token.kind == "name" and token.text in NAMES:
            put(token.start, token.text, NAMES[token.text])
        elif token.kind == "text" and token.text.strip("\"'") in ("n_params", "tokens"):
            put(token.start, token.text, token.text[0] + NAMES[token.text.strip("\"'")] + token.text[0])
        elif token.kind == "number" and token.text.isdigit():
            put(token.start, token.text, str(int(token.text) + 1))
            put(token.start, token.text, str(int(token.text) - 1) if int(token.text) else "-1")
        elif token.kind == "sign" and token.text in ("!", "-") and not operand:
            put(token.start, token.text, "")
        elif token.kind == "sign" and token.text in SIGNS and operand:
            is_text = any(t is not None and t.kind == "text" for t in (before, after))
            if not (is_text and token.text in TERMS):
                put(token.start, token.text, SIGNS[token.text])
                simple = after is not None and after.kind in ("number", "name")
                if token.text in TERMS and simple and (next_ is None or next_.text not in (".", "(", "[", "?.")):
                    put(token.start, source[token.start : after.start + len(after.text)], "")
    return found
