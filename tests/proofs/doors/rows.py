"""Kinds of real files in every command that reads a table: a row a kind, a column a command.

    python -m tests.proofs.doors.rows             # every kind
    python -m tests.proofs.doors.rows units logs  # some

The same runs stand in a plain table and in a file as people or programs write it. Each command answers both alike:
the same exit code and the same numbers, and says what it took from the file. Prints `same`, a Finding that must be
there, or what differs; exits with 1 where something does.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.support.doors.typed import Answer, typed_here
from tests.support.tables.kinds import COMMANDS, KINDS, Kind, as_csv, runs

OPTIONS: dict[str, tuple[str, ...]] = {
    "fit": ("--bootstrap", "0"), "approaches": (), "predict": ("--flops", "1e20", "--laws", "chinchilla"),
    "compare": ("--laws", "chinchilla,chinchilla-tied"), "multiplier": (), "report": ("--bootstrap", "0"), "import": (),
}  # fmt: skip


def numbers(value: object, name: str = "") -> dict[str, float]:
    """The numbers of a JSON answer by their place, without texts, counts of the file's own rows and resampled p.

    Signs are drawn for runs in the order of their names, which files differ in.
    """
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return {}
    if isinstance(value, int | float):
        return {name: float(value)}
    held = value.items() if isinstance(value, dict) else enumerate(value)  # type: ignore[call-overload]
    found: dict[str, float] = {}
    for key, inner in held:
        if key not in ("notes", "left_out", "rows", "columns", "files") and not (key == "p" and "/nested/" in name):
            found |= numbers(inner, f"{name}/{key}")
    return found


def ask(command: str, table: Path, folder: Path, *, default_laws: bool = False) -> Answer:
    """The answer of a command on a table, as JSON."""
    out = {"report": ("--out", folder / "report"), "import": ("-o", folder / "made.csv")}.get(command, ())
    words = [word for word in OPTIONS[command] if not default_laws or (word != "--laws" and "chinchilla" not in word)]
    return typed_here([command, table, *words, *out, "--json"])


def differs(kind: Kind, command: str, ours: Answer, theirs: Answer) -> str:
    """What is wrong with the answer on the file (`ours`) beside that on the plain table; empty for nothing."""
    if ours.traceback or theirs.traceback:
        return "traceback"
    if kind.wrong:
        return kind.wrong(command, ours) if not ours.code else f"exit {ours.code}: {ours.err[-90:]!r}"
    if kind.finding:
        return (
            ""
            if f'"{kind.finding}"' in ours.out
            else f"no Finding {kind.finding} (exit {ours.code}: {ours.err[-90:]!r})"
        )
    if ours.code != theirs.code:
        return f"exit {ours.code} ({ours.err.strip().splitlines()[-1][:90] if ours.err else ''}), plain {theirs.code}"
    reported = ours.err + ours.out
    if kind.says and kind.says not in reported:
        return f"does not say {kind.says!r}"
    if ours.code not in (0, 1) or not ours.out.strip():
        return ""
    one, two = numbers(json.loads(ours.out)), numbers(json.loads(theirs.out))
    apart = [
        key for key in sorted({*one, *two}) if not np.isclose(one.get(key, np.nan), two.get(key, np.nan), rtol=1e-4)
    ]
    return f"{apart[0]} is {one.get(apart[0])}, plain {two.get(apart[0])}" if apart else ""


def main(names: Sequence[str]) -> int:
    """Print a line a kind; 1 if a command answers one otherwise than the plain table."""
    failures = 0
    answers: dict[tuple[str, str], Answer] = {}  # on plain tables, which several kinds share
    print(f"{'kind':22s}" + "".join(f"{name:>12s}" for name in COMMANDS), flush=True)
    for name, kind in KINDS.items():
        if names and not any(text in name for text in names):
            continue
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            path = kind.write(runs(), folder)
            plain = as_csv(folder / "plain.csv", kind.same(runs()))
            cells, wrong = [], []
            for command in COMMANDS:
                if command not in kind.commands:
                    cells.append("-")
                    continue
                ours = ask(command, path, folder, default_laws=kind.wrong is not None)
                key = (command, plain.read_text())
                if not (kind.finding or kind.wrong) and key not in answers:
                    answers[key] = ask(command, plain, folder)
                theirs = answers.get(key, ours)
                fault = differs(kind, command, ours, theirs)
                cells.append(
                    "WRONG"
                    if fault
                    else "Finding"
                    if kind.finding
                    else "same"
                    if not ours.code
                    else f"same, {ours.code}"
                )
                wrong += [f"  {command}: {fault}"] if fault else []
        failures += len(wrong)
        print(f"{name:22s}" + "".join(f"{cell:>12s}" for cell in cells), *wrong, sep="\n", flush=True)
    print(f"{failures} differences")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
