"""Prove preparation on 200 MB: speed, memory, counts, the same bytes twice. Run: python -m tests.proofs.corpus [MB]

The text is the source code of the packages installed here, .py first, then other kinds until there is enough. Memory is
the resident memory of all processes of a command together, looked at 20 times a second. The library alone is a process
that reads the same files, trains the same BPE on the same sample and encodes every document; it and `isoflop prepare`
take turns, so that both meet the same neighbours.
"""

import filecmp
import json
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

MEGABYTES, VOCABULARY, ROUNDS = 200, 4096, 2
KINDS = ("py", "h", "pyi", "c", "cuh", "js", "txt", "json", "md")
GIGABYTES, BYTES_SPEED, SLOWER = 1.0, 5.0, 1.2
ISOFLOP = [sys.executable, "-m", "isoflop"]


def collect(folder: Path, size: int) -> int:
    """Copy sources of the installed packages until they hold `size` bytes; returns how many they hold."""
    root, total = Path(sysconfig.get_paths()["purelib"]), 0
    for kind in KINDS:
        for i, path in enumerate(sorted(root.rglob(f"*.{kind}"))):
            if total >= size:
                return total
            content = path.read_bytes()
            if content and b"\0" not in content:
                target = folder / kind / f"{i:05}-{path.name}"
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(content)
                total += len(content)
    return total


@dataclass(frozen=True)
class Cost:
    """What a command took; `cpu` sums over its processes, `peak` is of all of them together, in GB."""

    seconds: float
    cpu: float
    peak: float


def measured(command: list[str]) -> tuple[Cost, str]:
    """The cost of a command and what it printed."""
    began, before, peak = time.perf_counter(), _cpu(), 0
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, _resident(watched))
            time.sleep(0.05)
        seconds = time.perf_counter() - began
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        out.seek(0)
        return Cost(seconds, _cpu() - before, peak / 2**30), out.read()


def _cpu() -> float:
    """Processor seconds of all processes that have been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _resident(process: psutil.Process) -> int:
    total = 0
    try:
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def prepared(texts: Path, root: Path, name: str, *options: str) -> tuple[Cost, dict]:
    """What `isoflop prepare --json` costs on these texts, and its answer."""
    command = [*ISOFLOP, "prepare", f"data={name}", f"data.files=[{texts}/**/*]", f"where.corpora={root}", "--json"]
    cost, out = measured([*command, *options])
    return cost, json.loads(out)


def counts_add_up(answer: dict) -> bool:
    """From the documents read, through every stage, to the two sides: nothing is lost between."""
    left = (answer["read"]["documents"], answer["read"]["bytes"])
    for stage in answer["stages"]:
        if (stage["documents"], stage["bytes_in"]) != left:
            return False
        left = (left[0] - stage["dropped"], left[1] - stage["bytes_removed"] + stage["bytes_added"])
    sides = [answer[side] for side in ("train", "held_out")]
    return left == (sum(side["documents"] for side in sides), sum(side["bytes"] for side in sides))


def same_bytes(one: Path, other: Path) -> bool:
    """Whether two folders of one corpus each hold the same files with the same bytes."""
    (first,), (second,) = one.iterdir(), other.iterdir()
    names = sorted(p.name for p in first.iterdir())
    same = filecmp.cmpfiles(first, second, names, shallow=False)[0]
    return first.name == second.name and sorted(same) == names == sorted(p.name for p in second.iterdir())


def library(texts: Path) -> None:
    """The `tokenizers` library alone: read, train on what `isoflop prepare` would, encode."""
    from isoflop.experiments.data.shards import _BATCH_BYTES, LEARNED_FROM
    from isoflop.experiments.data.tokenizer import train_bpe

    paths = [path for path in sorted(texts.rglob("*")) if path.is_file()]
    stride = max(1, round(sum(path.stat().st_size for path in paths) / LEARNED_FROM))
    tokenizer = train_bpe((path.read_bytes() for path in paths[::stride]), VOCABULARY)
    batch, size = [], 0
    for path in paths:
        batch.append(path.read_text(errors="replace"))
        size += len(batch[-1])
        if size >= _BATCH_BYTES:
            tokenizer.encode_batch(batch)
            batch, size = [], 0
    tokenizer.encode_batch(batch)


def main() -> None:
    """Prepare the corpus in every way and print speed, memory and counts; exit 1 where a bar is missed."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else MEGABYTES
    failed = []

    def line(what: str, cost: Cost, answer: dict, *, limit: float = 0.0) -> None:
        speed, whole = size / 1e6 / cost.seconds, counts_add_up(answer)
        print(
            f"{what:20} {cost.seconds:6.1f} s {speed:5.1f} MB/s, {cost.cpu:5.1f} s of CPU, {cost.peak:.2f} GB, "
            f"counts add up: {whole}, {answer['train']['documents'] + answer['held_out']['documents']} documents kept",
            flush=True,
        )
        if cost.peak > GIGABYTES or speed < limit or not whole:
            failed.append(what)

    with tempfile.TemporaryDirectory() as base:
        folder = Path(base)
        texts = folder / "texts"
        texts.mkdir()
        size = collect(texts, megabytes * 1_000_000)
        print(f"{size / 1e6:.0f} MB in {sum(p.is_file() for p in texts.rglob('*'))} files, {psutil.cpu_count()} cores")
        line("bytes", *prepared(texts, folder / "bytes", "text"), limit=BYTES_SPEED)
        line("bytes, cleaned", *prepared(texts, folder / "clean", "clean-text"), limit=BYTES_SPEED)
        for name in ("one", "two"):
            line(f"cleaned, BPE, {name}", *prepared(texts, folder / name, "bpe"))
        same = same_bytes(folder / "one", folder / "two")
        print(f"the same command twice writes the same bytes: {same}")
        ratios = []
        for _ in range(ROUNDS):
            alone, _ = measured([sys.executable, "-m", "tests.proofs.corpus", "library", str(texts)])
            ours, answer = prepared(texts, folder / "plain", "bpe", "data.clean=[]")
            line("BPE, not cleaned", ours, answer)
            ratios.append(ours.seconds / alone.seconds)
            print(
                f"  the library alone {alone.seconds:.1f} s, {alone.cpu:.1f} s of CPU, {alone.peak:.2f} GB; "
                f"prepare takes {ratios[-1]:.2f} times as long and {ours.cpu / alone.cpu:.2f} times the CPU",
                flush=True,
            )
            shutil.rmtree(folder / "plain")
    if sorted(ratios)[len(ratios) // 2] > SLOWER or not same:
        failed.append("BPE")
    if failed:
        raise SystemExit(f"not as promised: {', '.join(failed)}")


if __name__ == "__main__":
    library(Path(sys.argv[2])) if sys.argv[1:2] == ["library"] else main()
