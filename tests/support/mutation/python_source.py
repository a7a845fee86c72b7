"""Single-operator mutants of a Python module, from its syntax tree: each one change of its text.

The `strict` of zip stays: it guards what cannot be.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

SWAPPED = {
    "min": "max", "minimum": "maximum", "argmin": "argmax", "idxmin": "idxmax", "nanmin": "nanmax", "any": "all",
    "floor": "ceil", "n_params": "tokens", "N": "D",
}  # fmt: skip
NAMES = SWAPPED | {b: a for a, b in SWAPPED.items()}
COMPARED = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}  # fmt: skip
COMPUTED = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.Pow: ("**", "*"),
    ast.FloorDiv: ("//", "/"), ast.Mod: ("%", "*"), ast.BitOr: ("|", "&"), ast.BitAnd: ("&", "|"),
}  # fmt: skip
TERMS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.BitOr, ast.BitAnd)  # whose operands may be dropped


@dataclass(frozen=True)
class Mutant:
    """One change: `old` at `start` (an offset in characters) becomes `new`; `line` counts from 1."""

    start: int
    old: str
    new: str
    line: int

    def of(self, source: str) -> str:
        """The source with the change."""
        return source[: self.start] + self.new + source[self.start + len(self.old) :]

    def __str__(self) -> str:
        return f"{self.line} {_short(self.old)} -> {_short(self.new)}"


def _short(text: str) -> str:
    return " ".join(text.split()) or "(nothing)"


def mutants(source: str) -> list[Mutant]:
    """Every mutant of a module, by place; annotations, decorators, docstrings and formatted text stay as they are."""
    found = _Found(source)
    found.visit(ast.parse(source))
    return sorted(dict.fromkeys(found.mutants), key=lambda m: (m.start, m.new))


class _Found(ast.NodeVisitor):
    def __init__(self, source: str) -> None:
        self.source = source
        self.starts = [0]  # of lines
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.mutants: list[Mutant] = []

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Offsets of a node; the code is in ASCII, so bytes are characters."""
        first, last = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
        return tuple(self.starts[line - 1] + column for line, column in (first, last))

    def text(self, node: ast.AST) -> str:
        start, stop = self.span(node)
        return self.source[start:stop]

    def put(self, start: int, old: str, new: str) -> None:
        assert self.source.startswith(old, start)
        self.mutants.append(Mutant(start, old, new, self.source.count("\n", 0, start) + 1))

    def between(self, left: ast.AST, right: ast.AST, old: str, new: str) -> None:
        """Change the operator between two nodes."""
        start, stop = self.span(left)[1], self.span(right)[0]
        gap = "".join(c if c not in "()" else " " for c in self.source[start:stop])
        words = " ".join(gap.split())
        at = gap.find(old if " " not in old else old.split()[0])
        if words == old and at >= 0 and old in self.source[start:stop]:
            self.put(start + at, old, new)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in (*node.args.defaults, *(d for d in node.args.kw_defaults if d)):
            self.visit(default)
        for inner in node.body:
            self.visit(inner)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for inner in node.body:
            self.visit(inner)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            self.between(left, right, *COMPARED[type(operator)])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        is_text = any(isinstance(x, ast.JoinedStr | ast.List | ast.Tuple) or _is_text(x) for x in _leaves(node))
        if type(node.op) in COMPUTED and not is_text:
            self.between(node.left, node.right, *COMPUTED[type(node.op)])
            if isinstance(node.op, TERMS):
                start, old = self.span(node)[0], self.text(node)
                self.put(start, old, self.text(node.left))
                if not isinstance(node.op, ast.Sub | ast.Div):
                    self.put(start, old, self.text(node.right))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.between(left, right, old, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.USub | ast.Not | ast.Invert):
            self.put(self.span(node)[0], self.text(node), self.text(node.operand))
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if type(node.op) in COMPUTED:
            self.between(node.target, node.value, *(f"{sign}=" for sign in COMPUTED[type(node.op)]))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.put(self.span(node)[0], str(value), str(not value))
        elif isinstance(value, int):
            for other in (value + 1, value - 1):
                self.put(self.span(node)[0], self.text(node), f"({other})" if other < 0 else str(other))
        elif isinstance(value, str) and value in ("n_params", "tokens", "N", "D"):
            self.put(self.span(node)[0], self.text(node), f'"{NAMES[value]}"')

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in NAMES and isinstance(node.ctx, ast.Load):
            self.put(self.span(node)[0], node.id, NAMES[node.id])

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in NAMES:
            self.put(self.span(node)[1] - len(node.attr), node.attr, NAMES[node.attr])
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        is_zip = isinstance(node.func, ast.Name) and node.func.id == "zip"
        for inner in (node.func, *node.args, *(k.value for k in node.keywords if not is_zip)):
            self.visit(inner)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.visit(node.value)


def _leaves(node: ast.expr) -> Iterator[ast.expr]:
    """The operands of a sum or product, those of its parts included."""
    if isinstance(node, ast.BinOp):
        yield from _leaves(node.left)
        yield from _leaves(node.right)
    else:
        yield node


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
