"""Every reader of a file that others may have written, each with a sound file (`sound.py`) to damage.

What is read elsewhere is written by the same process, by its own launcher, or by the system: the batch script's exit
codes, the pipes of timing and calibration, /proc.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.cost import speed_file
from isoflop.experiments.data import corpus, hub, parts, records, token_files, tokenizer
from isoflop.experiments.data.tokenizer import Bytes
from isoflop.experiments.files import holder
from isoflop.experiments.finished import tasks
from isoflop.experiments.finished.bundle_check import check_bundle
from isoflop.experiments.finished.card import card, provenance
from isoflop.experiments.followup import rounds
from isoflop.experiments.followup.template import template_of
from isoflop.experiments.parallel.sharded_checkpoint import ShardedCheckpoints
from isoflop.experiments.store.models import find_trained, tokenizers_folder
from isoflop.experiments.store.store import Store, open_store
from isoflop.experiments.study.cell import Cell, _of_kind
from isoflop.experiments.study.sizes import load_size
from isoflop.experiments.sweep import repair, train_job
from isoflop.experiments.training import initial
from isoflop.experiments.training.checkpoint import Checkpoints, checksum, file_name
from isoflop.models.export import read_folder
from isoflop.models.step import native
from isoflop.models.weights import load_weights, read_about
from isoflop.read_json import read_bytes
from isoflop.scaling.imports.assemble import ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.prediction.registered.register import _seal
from isoflop.scaling.prediction.registered.score import score
from isoflop.scaling.table.bundle.manifest import CONTENT, MANIFEST_FILE, seal
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.evaluations.evaluation import read_evaluation
from isoflop.scaling.table.evaluations.task_scores import ITEMS_FILE, SCORES_FILE, read_items, read_scores
from isoflop.scaling.table.read import read_table
from isoflop.scaling.table.runs import final_rows, read_config, read_runs
from tests.support.doors.sound import RUN, TRUNK, WORK_KEY, alone, hub_data, sharded_state, text_data

Read = Callable[[Path], object]


@dataclass(frozen=True)
class Reader:
    """A door: the file that is damaged, of a folder of its own, and the function that reads that folder.

    `beside` are other files of the folder that it needs. `seal` renames or restates what must agree with the damaged
    bytes, as an attacker would. A slow one is read in one round of `every`.
    """

    name: str
    file: str
    read: Read
    seal: Callable[[Path], None] | None = None
    beside: tuple[str, ...] = ()
    every: int = 1


def _table(name: str) -> Read:
    return lambda folder: points(read_table(folder / name))


def _imported(name: str) -> Read:
    options = ImportOptions(n_params={"": 1e8}, batch_tokens={"": 1e5}, tokens={"": 1e9})
    return lambda folder: import_source(folder / name, "auto", options, {})


def _documents(name: str) -> Read:
    return lambda folder: list(records.documents(name, folder / name, column="text", skip_bad=False, skipped=Counter()))


def _runs(folder: Path) -> object:
    path = folder / "quick.parquet"
    return points(read_table(path)), read_config(path)


def _bundle(folder: Path) -> object:
    check_bundle(folder / "bundle")  # answers whatever was damaged, or names the folder
    return points(read_table(folder / "bundle"))


def _seal_bundle(folder: Path) -> None:
    path = folder / "bundle" / MANIFEST_FILE
    try:
        value = json.loads(path.read_bytes())
        path.write_text(json.dumps(value | {"seal": seal(value)}))
    except Exception:  # nothing that has a seal
        return


def _weights(folder: Path) -> object:
    path = folder / "model.safetensors"
    return load_weights(path), read_about(path)


def _tokenizer(folder: Path) -> object:
    return tokenizer.read_tokenizer(folder / "hf/tokenizer.json").encode("ab c")


def _stored_tokenizer(folder: Path) -> object:
    kept = tokenizers_folder(_store(folder, "runs"))
    kept.mkdir()
    text = read_bytes(folder / "hf/tokenizer.json")
    name = f"tokenizer-{tokenizer.hashlib.sha256(text).hexdigest()[:12]}"
    (kept / f"{name}.json").write_bytes(text)
    return tokenizer.find_tokenizer(name, 256, kept).decode([1, 2])


def _tokens(name: str) -> Read:
    return lambda folder: token_files.describe_sides(
        [folder / name], held_out_fraction=0.1, vocab_size=50, folder=folder
    )


def _checkpoint(folder: Path) -> object:
    return Checkpoints(folder / "trunk", 1e9).trunk(100)


def _seal_checkpoint(folder: Path) -> None:
    for path in (folder / "trunk").glob("trunk-*.pt"):
        os.replace(path, path.with_name(file_name("trunk", 3, of=path)))


def _sharded(folder: Path) -> object:
    alone()
    found = ShardedCheckpoints(folder / "shards", 1e9, lambda: sharded_state(0)).trunk(100)
    assert found is None or found["step"] in (3, 6)
    return found


def _seal_shards(folder: Path) -> None:
    """The checksums of what the furthest checkpoint now holds."""
    about = folder / "shards/sharded/trunk-6/about.json"
    files = [path for path in about.parent.iterdir() if path != about]
    about.write_text(json.dumps(json.loads(about.read_bytes()) | {"checksums": {f.name: checksum(f) for f in files}}))


def _store(folder: Path, name: str) -> Store:
    return open_store(folder / name)


def _states(folder: Path) -> object:
    store = _store(folder, "runs")
    return store.states(), store.studies(), holder(store.trunk_folder(TRUNK)), store.cut_short()


def _launch(folder: Path) -> object:
    store = _store(folder, "runs")
    return repair.relaunches(store, store.states())


def _round(folder: Path) -> object:
    request = rounds.RoundsSpec(count=1, budget=1.0, target=1.0)
    return rounds._answer(_store(folder, "runs"), "s-round1", request, None)


def _work(folder: Path) -> object:
    (path,) = (folder / "work/trunks").iterdir()
    return train_job.read_works(_store(folder, "work"), WhereSpec(trunk=path.name, cells=WORK_KEY))


def _reseal_work(folder: Path) -> None:
    """The cells of a job, and its folder, under the ids of what they now say."""
    (path,) = (folder / "work/trunks").iterdir()
    file = path / f"cells-{WORK_KEY}.json"
    try:
        value = json.loads(file.read_bytes())
        cells = [_of_kind(Cell, {k: v for k, v in plain.items() if k != "run_id"}) for plain in value["cells"]]
        value["cells"] = [plain | {"run_id": cell.run_id} for plain, cell in zip(value["cells"], cells, strict=True)]
        value["listings"] = {cell.run_id: {} for cell in cells}
        file.write_text(json.dumps(value))
        path.rename(path.with_name(cells[0].trunk_id))
    except Exception:
        return


def _done(folder: Path) -> object:
    store = _store(folder, "done")
    store.check([RUN])
    trained = find_trained(store, RUN)
    runs = final_rows(read_runs(store.root))
    return read_table(store.root), trained.final, provenance(trained), template_of(runs, store.root), card(trained)


def _begun(folder: Path) -> object:
    return initial._describe("hf", folder / "hf")


def _corpus(folder: Path) -> object:
    found = corpus.prepare(text_data(folder), folder / "corpora")
    return corpus.manifest_text(found), list(tasks._documents(found, Bytes(), 5))


def _hub(folder: Path) -> object:
    files, licence = hub.stream(hub_data(), folder / "hub")
    kept = [hub.counted(path) for _, path in files]
    return licence, kept, [list(_documents(path.name)(path.parent)) for _, path in files]


def _part(folder: Path) -> object:
    """A part of a corpus that was being made when its process died."""
    return parts.Part(folder / "part", 0).whole()


def _speed(folder: Path) -> object:
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    return speed_file.known_speed()


def _kernels(folder: Path) -> object:
    return native._kept(folder / "cache" / "isoflop", "*")


def _size(folder: Path) -> object:
    return load_size("mine", None, [str(folder / "conf")])


def _study(*overrides: str) -> Read:
    def read(folder: Path) -> object:
        from isoflop.experiments.compose.compose import compose_all

        return compose_all(["--config-dir", str(folder / "conf"), *overrides])

    return read


def _register(folder: Path) -> object:
    return score(folder / "claim.json", read_table(folder / "new.csv"), data=read_table(folder / "t.csv"))


def _reseal(folder: Path) -> None:
    try:
        value = json.loads((folder / "claim.json").read_bytes())
        (folder / "claim.json").write_text(json.dumps(value | {"seal": _seal(value)}))
    except Exception:  # nothing that has a seal
        return


READERS: tuple[Reader, ...] = (
    *(Reader(f"table.{kind}", f"t.{kind}", _table(f"t.{kind}"))
      for kind in ("csv", "parquet", "feather", "jsonl", "json")),
    *([Reader("table.xlsx", "t.xlsx", _table("t.xlsx"), every=3)] if find_spec("openpyxl") else []),
    *(Reader(f"table.csv.{kind}", f"p.csv.{kind}", _table(f"p.csv.{kind}")) for kind in ("gz", "bz2", "xz", "zip")),
    Reader("runs.parquet", "quick.parquet", _runs),
    Reader("run.parquet", f"done/cells/{RUN}/run.parquet", _done, every=4),
    *(Reader(f"bundle {file}", f"bundle/{file}", _bundle, every=2) for file in (MANIFEST_FILE, *CONTENT)),
    Reader("bundle sealed", f"bundle/{MANIFEST_FILE}", _bundle, _seal_bundle, every=2),
    *(Reader(f"import.{name}", name, _imported(name)) for name in (
        "h.csv", "h.jsonl", "wandb_api.csv", "wandb_panel.csv", "wandb_runs.csv", "mlflow.csv", "long.csv",
        "nanogpt.log", "nanochat.log", "megatron.log", "events.out.tfevents.1",
    )),
    Reader("import.huggingface", "huggingface/large/trainer_state.json", _imported("huggingface")),
    Reader("import.levanter", "levanter/large/tracker_metrics.jsonl", _imported("levanter")),
    Reader("import.lm_eval", "lm_eval/large/results_2026-01-01.json", _imported("lm_eval")),
    *(Reader(f"import.mlflow {kind}", f"mlruns/1/{'0' * 32}/{kind}", _imported("mlruns")) for kind in (
        "meta.yaml", "metrics/val_loss", "params/n_params",
    )),
    Reader("evaluation", "evaluation.parquet", lambda f: read_evaluation(f / "evaluation.parquet")),
    Reader("scores", f"runs/cells/{RUN}/{SCORES_FILE}", lambda f: read_scores(f / "runs")),
    Reader("items", f"runs/cells/{RUN}/{ITEMS_FILE}", lambda f: read_items(f / "runs/cells" / RUN)),
    Reader("weights", "model.safetensors", _weights),
    Reader("export weights", "hf/model.safetensors", lambda f: read_folder(f / "hf")),
    Reader("export config", "hf/config.json", lambda f: read_folder(f / "hf")),
    *(Reader(f"begin from {name}", f"hf/{name}", _begun) for name in ("isoflop.json", "tokenizer.json")),
    Reader("tokenizer", "hf/tokenizer.json", _tokenizer),
    Reader("tokenizer of a run", "hf/tokenizer.json", _stored_tokenizer, beside=("runs",)),
    Reader("checkpoint", "trunk/trunk-3.pt", _checkpoint),
    Reader("checkpoint sealed", "trunk/trunk-3.pt", _checkpoint, _seal_checkpoint),
    Reader("sharded checkpoint", "shards/sharded/trunk-6/*.safetensors", _sharded),
    Reader("sharded checkpoint sealed", "shards/sharded/trunk-6/*.safetensors", _sharded, _seal_shards),
    Reader("about a sharded checkpoint", "shards/sharded/trunk-6/about.json", _sharded),
    Reader("STORE.json", "runs/STORE.json", _states),
    Reader("study", "runs/studies/s.json", _states),
    Reader("state", f"runs/cells/{RUN}/state.json", _states),
    Reader("claim", f"runs/trunks/{TRUNK}/claim.json", _states),
    Reader("claim seen", f"runs/trunks/{TRUNK}/.seen-*.json", _states),
    Reader("round", "runs/rounds/s-round1.json", _round),
    Reader("launch", "runs/launches/l.json", _launch, every=8),
    Reader("work", f"work/trunks/*/cells-{WORK_KEY}.json", _work),
    Reader("work sealed", f"work/trunks/*/cells-{WORK_KEY}.json", _work, _reseal_work),
    Reader("registration", "claim.json", _register, beside=("t.csv", "new.csv"), every=4),
    Reader("registration sealed", "claim.json", _register, _reseal, beside=("t.csv", "new.csv"), every=4),
    Reader("llm.c tokens", "tokens.bin", _tokens("tokens.bin")),
    Reader("nanoGPT tokens", "plain.bin", _tokens("plain.bin")),
    Reader("megatron tokens", "m.bin", _tokens("m.bin"), beside=("m.idx",)),
    Reader("megatron index", "m.idx", _tokens("m.bin"), beside=("m.bin",)),
    *(Reader(f"text.{name}", name, _documents(name)) for name in (
        "d.jsonl", "d.json", "d.csv", "d.parquet", "d.txt", "d16.txt", "d.jsonl.gz", "d.txt.zst", "d.txt.bz2",
    )),
    *(Reader(f"corpus {name}", f"corpora/*/{name}", _corpus, beside=("text",), every=2) for name in (
        "manifest.json", "train.bin", "held_out.bin", "held_out.documents",
    )),
    Reader("stream", "hub/raw-0.parquet", _hub),
    Reader("end of a stream", "hub/raw.json", _hub),
    *(Reader(f"part {kind}", f"part/part-0.{kind}", _part) for kind in ("text", "index", "json")),
    Reader("speed", "cache/isoflop/speed*.json", _speed),
    Reader("kernels", "cache/isoflop/kernels-*.so", _kernels, every=3),
    Reader("size", "conf/model/mine.yaml", _size),
    Reader("data file", "conf/data/mine.yaml", _study("data=mine", "budget.flops=1e9"), every=8),
    Reader("study file", "conf/experiment/mine.yaml", _study("experiment=mine"), every=8),
)  # fmt: skip


def is_refusal(error: BaseException) -> bool:
    """Whether an error is one by which a reader refuses a file: of our own class, of the file system about a path, or
    about a name that is none."""
    own = type(error).__module__.partition(".")[0] == "isoflop"
    return own or (isinstance(error, OSError) and error.filename is not None) or (
        type(error) is ValueError and "becomes part of a path" in str(error)
    )  # fmt: skip


def names_file(error: BaseException, file: str) -> bool:
    """Whether an error's message names the file, by its name or by that of the folder that it was found in."""
    parts = [part for part in Path(file).parts if "*" not in part]
    return any(part in str(error) or Path(part).stem in str(error) for part in parts)


def readers_named(names: Sequence[str]) -> tuple[Reader, ...]:
    """The readers of these names; all where there are none."""
    return tuple(reader for reader in READERS if not names or reader.name in names)


def turns(readers: Sequence[Reader]) -> tuple[Reader, ...]:
    """The readers of successive cases, over and over: each once a round, slow ones in some rounds alone."""
    rounds = range(max(reader.every for reader in readers))
    return tuple(reader for k in rounds for at, reader in enumerate(readers) if (k + at) % reader.every == 0)
