"""The README's answers, from the committed tables: python -m isoflop.analysis.readme README.md

Between `<!-- name -->` and `<!-- /name -->` stands a command with the lines of its output that answer. Each is run anew
from the folder of the README, and what it prints is put below it; a test compares that with what is written.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

# The lines of each command's output that are shown.
KEPT = {
    "fit": r" +(E|alpha|beta|a) |\[warn\] (unidentified|hold_out_missed)",
    "compare": r" law |[* ](forecast average|chinchilla|kaplan)",
    "multiplier": r" +compute |.* to \S+ +[01]\.\d{3}$| +\[warn\] verdicts",
    "predict": r"loss of| +[\d.]+ nats| +\d+%| +best size",
    "suggest": r"\d+ cells|.*90% interval",
}


def answer(command: str, kept: str, folder: Path) -> str:
    """The lines of a command's standard output that match `kept`. Raises RuntimeError where it fails or has none."""
    words = [sys.executable, "-m", *command.split()]
    settings = {"COLUMNS": "100", "NO_COLOR": "1", "PYTHONPATH": str(folder)}
    done = subprocess.run(words, cwd=folder, env=os.environ | settings, capture_output=True, text=True, check=False)
    lines = [line.rstrip() for line in done.stdout.splitlines() if re.match(kept, line)]
    if done.returncode or not lines:
        raise RuntimeError(f"{command}: exit {done.returncode}, {len(lines)} lines match {kept!r}\n{done.stderr}")
    return "\n".join(lines)


def rewrite(text: str, name: str, folder: Path) -> str:
    """`text` with the block `name` made anew. Raises ValueError where there is no such block with a command."""
    found = re.search(f"(?<=<!-- {name} -->\n```console\n)\\$ (.*)\n([^`]*)(?=```\n<!-- /{name} -->)", text)
    if not found:
        raise ValueError(f"no block <!-- {name} --> with a command to run")
    printed = answer(found[1], KEPT[name], folder)
    return f"{text[: found.start()]}$ {found[1]}\n{printed}\n{text[found.end() :]}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m isoflop.analysis.readme README.md")
    readme = Path(sys.argv[1]).resolve()
    for block in KEPT:
        text = rewrite(readme.read_text(encoding="utf-8"), block, readme.parent)
        readme.write_text(text, encoding="utf-8")
