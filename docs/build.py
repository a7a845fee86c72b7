"""Build the pages of the documentation site into build/docs: `python docs/build.py [PAGE ...] [--list]`.

Every command and every line of Python that a page shows is run here, and what it prints is put below it, so that a
number in the documentation is one that the code prints. The reference pages (laws, commands, Python, findings) are made
from the code itself. A fenced block of a page is one of

    sh                        commands, run in a folder that the page has for itself; what they print follows
    python                    run in one namespace a page; what is printed follows
    LANGUAGE title="PATH"     a file, written into that folder before the next block runs
    console                   commands that need a cluster, a card, a hub or an account: not run, `--list` names them
    any other                 text

In the folder `experiments/results` are the committed tables. A block that fails ends the build with its page and line.
"""

import argparse
import ast
import contextlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS, BUILT = ROOT / "docs", ROOT / "build" / "docs"
BLOCK = re.compile(r"^```([a-z]+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BIN = Path(sys.executable).parent  # where isoflop and python are
WIDTH = 100  # columns of a terminal, in what commands print
# Folders of the repository, which a page links to where it is read there: on the site, the pages made from them.
MADE_FROM = {"../commands": "commands/index.md", "../scaling/laws": "laws/index.md", "../isoflop": "python.md",
             "../scaling/findings": "findings.md"}  # fmt: skip
# Runs blocks of Python in one namespace, each a line of JSON, and prints a line after each; an error ends it.
PYTHON = """
import json, matplotlib, os, sys, traceback
matplotlib.use("agg")
sys.stdout.reconfigure(line_buffering=True)
blocks = os.fdopen(os.dup(0))
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
def run(lines, names, dumps, loads, error):
    for line in lines:
        try:
            exec(compile(loads(line), "<block>", "exec"), names)
        except BaseException:
            error()
            sys.exit(1)
        print("\\n" + dumps("ran"), flush=True)
run(blocks, globals(), json.dumps, json.loads, traceback.print_exc)
"""


class BlockError(Exception):
    """A block of a page that failed; the message names page and line, and holds what was printed."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file it is to be written to ("" for none), its text and its line."""

    language: str
    title: str
    text: str
    line: int
    start: int
    end: int


def pages() -> list[Path]:
    """The pages that are written by hand."""
    return sorted(path for path in DOCS.glob("*.md") if path.name != "calibration.md")


def assets() -> list[Path]:
    """Figures, styles and scripts that the pages use."""
    return sorted(path for path in DOCS.iterdir() if path.suffix in (".png", ".css", ".js"))


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page in their order."""
    for found in BLOCK.finditer(page):
        line = page.count("\n", 0, found.start()) + 1
        yield Block(found[1], found[2] or "", found[3], line, found.start(), found.end())


def run_page(path: Path, folder: Path) -> str:
    """The page with what its blocks print; its commands run in `folder`. Raises BlockError."""
    page = path.read_text()
    (folder / "experiments").mkdir(parents=True)
    (folder / "experiments" / "results").symlink_to(ROOT / "experiments" / "results")
    parts, at, python = [], 0, _Python(path, folder)
    with contextlib.closing(python):
        for block in blocks(page):
            parts.append(page[at : block.end])
            at = block.end
            if block.title:
                (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
                (folder / block.title).write_text(block.text)
            elif block.language == "sh":
                parts.append(_printed(_shell(folder, path, block)))
            elif block.language == "python":
                parts.append(_printed(python.run(block)))
    return "".join([*parts, page[at:]])


def on_site(page: str) -> str:
    """The page with links to the reference in the place of links to the code that it is made from."""
    for folder, made in MADE_FROM.items():
        page = page.replace(f"]({folder})", f"]({made})")
    return page


def _shell(folder: Path, path: Path, block: Block) -> str:
    """What a block of commands prints, both streams. Raises BlockError when it fails."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text], cwd=folder, env=_environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    return _reported(done.stdout, done.returncode, folder, path, block)


class _Python:
    """The blocks of Python of a page: one process, started with the first of them."""

    def __init__(self, path: Path, folder: Path) -> None:
        self._path, self._folder = path, folder
        self._process: subprocess.Popen[str] | None = None

    def run(self, block: Block) -> str:
        """What a block prints, both streams. Raises BlockError when it fails."""
        if self._process is None:
            self._process = subprocess.Popen(
                [BIN / "python", "-c", PYTHON], cwd=self._folder, env=_environment(), stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(block.text) + "\n")
        process.stdin.flush()
        lines: list[str] = []
        for line in process.stdout:
            if line == '"ran"\n':
                return _reported("".join(lines).removesuffix("\n"), 0, self._folder, self._path, block)
            lines.append(line)
        return _reported("".join(lines), process.wait(), self._folder, self._path, block)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()


def _environment() -> dict[str, str]:
    settings = {"COLUMNS": str(WIDTH), "NO_COLOR": "1", "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return os.environ | settings


def _reported(printed: str, code: int, folder: Path, path: Path, block: Block) -> str:
    """What was printed, without the folders of this machine. Raises BlockError for an exit code."""
    if code:
        raise BlockError(f"{path.name}:{block.line}: exit {code}\n{block.text}{printed}")
    return printed.replace(str(folder) + "/", "").replace(str(ROOT) + "/", "")


def _printed(text: str) -> str:
    text = "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
    return f"\n\n```text\n{text}\n```" if text else ""


def law_pages() -> dict[str, str]:
    """A page a law, and their list, from the facts that the laws carry."""
    from isoflop.analysis.page.mathml import mathml
    from isoflop.scaling.laws import LAWS

    rows = ["| law | formula | reads | fitted as |", "| --- | --- | --- | --- |"]
    pages = {}
    for name, law in LAWS.items():
        presets = ", ".join(f"`{preset}`" for preset in law.all_presets())
        formula = mathml(law.formula, block=False)
        rows.append(f"| [{name}]({name}.md) | {formula} | {', '.join(law.inputs)} | {presets} |")
        pages[f"laws/{name}.md"] = _law_page(law)
    note = (
        "N: parameters, D: training tokens, U: unique tokens, C: training FLOPs; losses in nats per token. A law of "
        "your own is one file: see [choosing a law](../choosing-a-law.md#a-law-of-your-own)."
    )
    return {"laws/index.md": "\n".join(["# Laws", "", note, "", *rows, ""]), **pages}


def _law_page(law: type) -> str:
    from isoflop.analysis.page.mathml import mathml

    example = law(*law.typical)  # type: ignore[attr-defined]
    lines = [
        f"# {law.name}", "", f'<div class="law" markdown="0">{mathml(law.formula)}</div>', "",
        _prose(re.sub(r"^L\(.*\n+", "", inspect.cleandoc(law.__doc__ or ""))), "", f"**Source.** {law.source}.", "",
        f"**Reads.** {', '.join(f'{k} (`{c.name}`)' for k, c in law.reads().items())}.", "",
    ]  # fmt: skip
    lines += [f"**When it fails.** {law.caution}", ""]
    lines += ["| parameter | searched in | example |", "| --- | --- | --- |"]
    for parameter, value in zip(law.parameters(), law.typical, strict=True):
        box = law.box[parameter]
        lines.append(f"| `{parameter}` | {box.lo:g} to {box.hi:g}{', by logarithm' if box.log else ''} | {value:g} |")
    presets = [f"`{name}` ({_preset(preset)})" for name, preset in law.all_presets().items()]
    lines += [
        "", "Amplitudes are searched at the geometric mean of the data, in nats per token.", "",
        f"**Fitted as** {', '.join(presets)}: `isoflop fit TABLE --law {next(iter(law.all_presets()))}`, or "
        f"`isoflop.fit({next(iter(law.all_presets()))!r}, table)`.", "", _law_example(law, example), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _preset(preset: object) -> str:
    free, fixed = getattr(preset, "free", ()), getattr(preset, "fixed", {})
    parts = [f"{', '.join(free)} free"] if free else []
    parts += [f"{name} = {value:g}" for name, value in fixed.items()]
    parts += ["both exponents equal"] if getattr(preset, "tied", False) else []
    return "; ".join(parts) or "as it stands"


def _law_example(law: type, example: object) -> str:
    points = [column.typical for column in law.reads().values()]  # type: ignore[attr-defined]
    values = ", ".join(f"{value:g}" for value in points)
    loss = example(*points)  # type: ignore[operator]
    arguments = ", ".join(f"{n}={v:g}" for n, v in zip(law.parameters(), law.typical, strict=True))
    return f"```pycon\n>>> law = isoflop.laws.LAWS[{law.name!r}]({arguments})\n>>> law({values})\n{loss:.6g}\n```"


def command_pages() -> dict[str, str]:
    """A page a command, and their list in groups, from the help that the commands carry."""
    from typer.main import get_command

    from isoflop.__main__ import app

    pages, groups = {}, {}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        summary = (command.help or "").split("\n\n")[0].replace("\n", " ")
        groups.setdefault(getattr(command, "rich_help_panel", None) or "Other", []).append((name, summary))
        lines = [f"# isoflop {name}", "", _prose(command.help or ""), ""]
        lines += ["| argument or option | default | meaning |", "| --- | --- | --- |"]
        for parameter in command.params:
            names = " ".join(f"`{n}`" for n in parameter.opts)
            names = (
                f"`{parameter.metavar or (parameter.name or '').upper()}`" if "-" not in parameter.opts[0] else names
            )
            default = (
                "" if parameter.default in (None, ...) or callable(parameter.default) else f"`{parameter.default}`"
            )
            lines.append(f"| {names} | {default} | {_cell(getattr(parameter, 'help', '') or '')} |")
        pages[f"commands/{name}.md"] = "\n".join([*lines, ""])
    index = [
        "# Commands",
        "",
        "`isoflop COMMAND --help` prints the same. Tables in, one answer out; `--json` for programs.",
        "",
    ]
    for group, members in groups.items():
        index += [f"## {group}", "", "| command | what it does |", "| --- | --- |"]
        index += [f"| [{name}]({name}.md) | {_cell(summary)} |" for name, summary in members] + [""]
    return {"commands/index.md": "\n".join(index), **pages}


def findings_page() -> dict[str, str]:
    """Every code of a Finding with what it says and what removes it, from the calls that make one."""
    rows: dict[str, tuple[str, str]] = {}
    for path in sorted(path for room in ("scaling", "experiments") for path in (ROOT / room).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = {ast.unparse(n.targets[0]): n.value for n in tree.body if isinstance(n, ast.Assign)}
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            about = (ast.get_docstring(function) or "").split("\n\n")[0].replace("\n", " ")
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Finding" and len(call.args) >= 4:
                    code = named.get(ast.unparse(call.args[0]), call.args[0])
                    for name, message, remedy in _made(code, call, function):
                        says = _template(message) or about or name.replace("_", " ")
                        rows.setdefault(name, (says, _template(remedy) or "(said with it)"))
    lines = [
        "# Findings", "", "Every Finding that an answer may come with, by its code; ... stands for what a table says. "
        "How bad it is stands with it: see [how sure are the answers](how-sure.md#findings).", "",
        "| code | it says | what removes it |", "| --- | --- | --- |",
    ]  # fmt: skip
    lines += [f"| `{code}` | {_cell(says)} | {_cell(remedy)} |" for code, (says, remedy) in sorted(rows.items())]
    return {"findings.md": "\n".join([*lines, ""])}


def _made(code: ast.expr, call: ast.Call, function: ast.FunctionDef) -> Iterator[tuple[str, ast.expr, ast.expr]]:
    """Code, message and remedy of each Finding that a call makes: of a name, those that its function loops over, with
    the remedy last in a row and the message before it, or those that it compares with."""
    message, remedy = call.args[2:4]
    if isinstance(code, ast.IfExp):
        yield from ((_template(one), message, remedy) for one in (code.body, code.orelse))
    elif not isinstance(code, ast.Name):
        yield _template(code), message, remedy
    for node in ast.walk(function) if isinstance(code, ast.Name) else ():
        if isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):
            for row in (row for row in node.iter.elts if isinstance(row, ast.Tuple)):
                texts = [_template(one) for one in row.elts]
                yield next(text for text in texts if re.fullmatch(r"[a-z_]+_[a-z_]+", text)), *row.elts[-2:]
        elif (
            isinstance(node, ast.If)
            and isinstance(node.test, ast.Compare)
            and any(call in ast.walk(one) for one in node.body)
        ):
            yield _template(node.test.comparators[0]), message, remedy


def _template(text: ast.expr) -> str:
    """A text with ... for each value that is put into it; empty where it is made elsewhere."""
    if isinstance(text, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in text.values)
    return str(text.value) if isinstance(text, ast.Constant) else ""


def calibration_page() -> dict[str, str]:
    """The table that the proof of the statistics wrote, or how to make it where it is not there."""
    path = DOCS / "calibration.md"
    if path.is_file():
        return {"calibration.md": path.read_text()}
    text = (
        "# Calibration\n\nHow often what is stated about a simulated study is true. The table is not part of this "
        "copy; `python -m tests.proofs.calibration --write` makes it, in some hours of a core.\n"
    )
    return {"calibration.md": text}


def generated_pages() -> dict[str, str]:
    """Every page that is made from the code or from a proof."""
    return {**law_pages(), **command_pages(), **api_page(), **findings_page(), **calibration_page()}


def api_page() -> dict[str, str]:
    """The public names of `import isoflop`, from their docstrings."""
    import isoflop

    lines = ["# Python", "", _prose(inspect.cleandoc(isoflop.__doc__ or "")), ""]
    for name in sorted(isoflop.__all__):
        value = getattr(isoflop, name)
        lines += [f"## {name}", ""]
        if callable(value):
            lines += ["```python", _signature(name, value), "```", ""]
        lines += [_prose(inspect.getdoc(value) or ""), ""]
    return {"python.md": "\n".join(lines)}


def _signature(name: str, value: Callable[..., object]) -> str:
    """How it is called, an argument a line where one line would be too long; types by their last names."""
    signature = inspect.signature(value)
    arguments, star = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            arguments.append("*")
            star = True
        arguments.append(re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Za-z])", "", str(parameter)))
    line = f"isoflop.{name}({', '.join(arguments)})"
    return line if len(line) <= WIDTH else f"isoflop.{name}(\n" + "".join(f"    {a},\n" for a in arguments) + ")"


def _prose(text: str) -> str:
    """A docstring as Markdown: paragraphs that are indented, or begin with an example, become blocks of code."""
    out: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        lines = paragraph.splitlines()
        example = lines[0].lstrip().startswith(">>>")
        if example or all(line.startswith("    ") for line in lines):
            out.append(f"```{'pycon' if example else 'python'}\n{textwrap.dedent(paragraph)}\n```")
        else:
            out.append("\n".join(line.replace("*", "&#42;").replace("<", "&lt;") for line in lines))
    return "\n\n".join(out)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "&#124;").replace("<", "&lt;").replace("*", "&#42;")


def build(only: list[str]) -> None:
    """Write build/docs: the pages whose names are given, or all with the reference pages. Raises BlockError."""
    if not only:
        shutil.rmtree(BUILT, ignore_errors=True)
    BUILT.mkdir(parents=True, exist_ok=True)
    for path in pages():
        if not only or path.stem in only:
            with tempfile.TemporaryDirectory() as folder:
                (BUILT / path.name).write_text(on_site(run_page(path, Path(folder))))
    for path in assets():
        shutil.copy(path, BUILT)
    if not only:
        for name, text in generated_pages().items():
            (BUILT / name).parent.mkdir(exist_ok=True)
            (BUILT / name).write_text(text)


def main() -> int:
    """The command; exits with 1 where a block fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="names without .md; all with the reference if none")
    parser.add_argument("--list", action="store_true", help="print the commands that are shown and not run")
    options = parser.parse_args()
    if options.list:
        for path in pages():
            for block in blocks(path.read_text()):
                if block.language == "console":
                    print(*(f"{path.name}:{block.line}: {line}" for line in block.text.splitlines()), sep="\n")
        return 0
    try:
        build(options.pages)
    except BlockError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
