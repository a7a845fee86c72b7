"""Known runs as other programs keep them, each in the program's own format: histories, exports, records, logs."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tests.support.tables.dialects import Known
from tests.support.tables.program_logs import interleaved, megatron, nanogpt
from tests.support.tables.program_runs import Run, known, some_runs


def _frame(run: Run, axis: str) -> pd.DataFrame:
    """The history of a run along an axis."""
    steps, tokens, losses = map(list, zip(*run.points, strict=True))
    along = {
        "step": steps, "tokens_seen": tokens, "samples": [t // 512 for t in tokens],
        "epoch": [t / 1e6 for t in tokens], "flops": [6.0 * run.n_params * t for t in tokens],
    }[axis]  # fmt: skip
    frame = pd.DataFrame({axis: along, "val_loss": losses})
    if axis == "samples":
        frame["seq_len"] = 512
    if axis == "epoch":
        frame["tokens_per_epoch"] = 1e6
    if axis == "step":
        frame["tokens"] = tokens
    return frame


AXES = ("step", "tokens_seen", "samples", "epoch", "flops")


def histories(rng: np.random.Generator, folder: Path) -> Known:
    """A folder with a file a run, along any axis, in any format of tables."""
    axis, form = str(rng.choice(AXES)), str(rng.choice(["csv", "tsv", "jsonl", "json", "parquet"]))
    three = Run("one", 1_000_000, 512, ((1, 512, 9.0), (2, 1024, 8.0), (3, 1536, 7.5)))
    runs = [run for run in some_runs(rng) if len(run.points) > 2] or [three]
    inside = axis != "flops" and rng.random() < 0.5
    for run in runs:
        frame = _frame(run, axis).assign(**({"params": run.n_params} if inside else {}))
        if rng.random() < 0.3:
            frame["train_loss"] = frame["val_loss"] - 0.05
        _write(frame, folder / f"{run.name}.{form}")
    runs = sorted(runs, key=lambda run: run.name)
    names = len(runs) > 1 or runs[0].name != "base"
    options = {} if inside else {"n_params": {run.name: float(run.n_params) for run in runs}}
    return known(folder, runs, f"a folder of {form} along {axis}", options=options, named=names)


def _write(frame: pd.DataFrame, path: Path) -> None:
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix in (".json", ".jsonl"):
        frame.to_json(path, orient="records", lines=path.suffix == ".jsonl")
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")


def run_column(rng: np.random.Generator, folder: Path) -> Known:
    """One table of the histories of several runs, told apart by a column, rows mixed."""
    axis, runs = str(rng.choice(AXES[:2])), some_runs(rng)
    column = str(rng.choice(["run_id", "run", "run_name", "Run ID"]))
    frame = pd.concat([_frame(run, axis).assign(**{column: run.name, "N": run.n_params}) for run in runs])
    if rng.random() < 0.5:
        frame = frame.sample(frac=1, random_state=int(rng.integers(1000)))
    frame.to_csv(folder / "history.csv", index=False)
    return known(folder / "history.csv", _as_first(frame[column], runs), f"runs by {column} along {axis}")


def _as_first(labels: Sequence[str], runs: Sequence[Run]) -> list[Run]:
    """The runs in the order in which their labels come."""
    return [next(run for run in runs if run.name == label) for label in dict.fromkeys(labels)]


def long_table(rng: np.random.Generator, folder: Path) -> Known:
    """A row per run, step and metric."""
    runs = some_runs(rng)
    key = str(rng.choice(["metric", "metric_name", "key", "tag", "variable"]))
    rows = [
        {"run": run.name, "step": step, key: metric, "value": value}
        for run in runs
        for step, tokens, loss in run.points
        for metric, value in (("train_loss", loss - 0.1), ("val_loss", loss), ("tokens", tokens))
    ]
    pd.DataFrame(rows).to_csv(folder / "long.csv", index=False)
    options = {"n_params": {run.name: float(run.n_params) for run in runs}}
    return known(folder / "long.csv", runs, f"a long table by {key}", options=options)


def wandb_list(rng: np.random.Generator, folder: Path) -> Known:
    """The list of runs that W&B's page exports, with some that crashed."""
    runs = some_runs(rng)
    rows = [
        {"Name": run.name, "State": "finished", "Notes": "-", "User": "me", "Tags": "",
         "Created": "2026-01-01T00:00:00.000Z",
         "Runtime": "120", "Sweep": "", "n_params": run.n_params, "lr": 1e-3, "train/tokens": run.end[1],
         "val/loss": run.end[2], "train/loss": run.end[2] - 0.1} for run in runs
    ]  # fmt: skip
    for state in rng.permutation(["crashed", "failed", "running"])[: int(rng.integers(3))]:
        rows.append(rows[0] | {"Name": f"x-{state}", "State": state, "val/loss": 9.5})
    pd.DataFrame(rows).to_csv(folder / "runs.csv", index=False, quoting=1)
    return known(folder / "runs.csv", runs, "a list of W&B's runs")


def wandb_panel(rng: np.random.Generator, folder: Path) -> Known:
    """A panel of W&B: a column per run, mostly with its least and largest value."""
    runs = some_runs(rng)
    count = min(len(run.points) for run in runs)
    runs = [Run(run.name, run.n_params, run.batch, run.points[:count]) for run in runs]
    metric = str(rng.choice(["val/loss", "eval/loss", "val_loss"]))
    frame = pd.DataFrame({"Step": [step for step, _, _ in runs[0].points]})
    ranges = rng.random() < 0.5
    for run in runs:
        losses = [loss for _, _, loss in run.points]
        for end in ("", "__MIN", "__MAX") if ranges else ("",):
            frame[f"{run.name} - {metric}{end}"] = losses
    frame.to_csv(folder / "panel.csv", index=False, quoting=1)
    options = {
        "n_params": {run.name: float(run.n_params) for run in runs},
        "batch_tokens": {run.name: float(run.batch) for run in runs},
    }
    return known(folder / "panel.csv", runs, f"a panel of W&B, ranges {ranges}", options=options)


def wandb_api(rng: np.random.Generator, folder: Path) -> Known:
    """What the script in W&B's documentation writes: summary, config and name of each run."""
    runs = some_runs(rng)
    write: Callable[[object], str] = str if rng.random() < 0.5 else json.dumps
    rows = [
        {"summary": write({"_step": run.end[0], "_runtime": 9.5, "_timestamp": 1.7e9, "val/loss": run.end[2],
                           "train/loss": run.end[2] - 0.1, "train/tokens": run.end[1], "_wandb": {"runtime": 9}}),
         "config": write({"n_params": run.n_params, "lr": 1e-3, "seed": 1, "model": {"layers": 4}}), "name": run.name}
        for run in runs
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "project.csv")
    return known(folder / "project.csv", runs, "W&B's API")


def trainer_state(rng: np.random.Generator, folder: Path) -> Known:
    """`trainer_state.json` of Hugging Face's Trainer: folders of runs, some with checkpoints."""
    runs = some_runs(rng)
    for run in runs:
        history: list[dict] = []
        for step, tokens, loss in run.points:
            shared = {"epoch": step / 100, "num_input_tokens_seen": tokens, "step": step}
            history.append({"loss": loss - 0.1, "grad_norm": 1.0, "learning_rate": 6e-4, **shared})
            history.append({"eval_loss": loss, "eval_runtime": 1.2, "eval_samples_per_second": 10.0,
                            "eval_steps_per_second": 2.0, **shared})  # fmt: skip
            if rng.random() < 0.4:
                write_state(folder / run.name / f"checkpoint-{step}", run, history, step)
        step, tokens, loss = run.end
        history.append({"epoch": step / 100, "num_input_tokens_seen": tokens, "step": step, "train_loss": loss + 1,
                        "total_flos": 6.0 * run.n_params * tokens, "train_runtime": 99.0,
                        "train_samples_per_second": 9.0, "train_steps_per_second": 1.0})  # fmt: skip
        write_state(folder / run.name, run, history, step)
    runs = sorted(runs, key=lambda run: run.name)
    return known(folder, runs, "trainer_state.json", named=len(runs) > 1)


def write_state(folder: Path, run: Run, history: Sequence[dict], step: int) -> None:
    """A trainer_state.json of a run at a step, with its history."""
    state = {
        "best_global_step": None, "best_metric": None, "best_model_checkpoint": None, "epoch": step / 100,
        "eval_steps": 50, "global_step": step, "is_hyper_param_search": False, "is_local_process_zero": True,
        "is_world_process_zero": True, "log_history": list(history), "logging_steps": 50, "max_steps": run.end[0],
        "num_input_tokens_seen": step * run.batch, "num_train_epochs": 1, "save_steps": 50, "stateful_callbacks": {},
        "total_flos": 6.0 * run.n_params * step * run.batch, "train_batch_size": 8, "trial_name": None,
        "trial_params": None,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps(state, indent=2))


def litgpt(rng: np.random.Generator, folder: Path) -> Known:
    """litgpt's metrics.csv: steps are iterations from 0, tokens those of one of several devices."""
    runs, devices = some_runs(rng), int(rng.choice([1, 8]))
    for run in runs:
        rows: list[dict] = []
        for step, tokens, loss in run.points:
            rows.append({"epoch": 0, "iter": step, "iter_time": 0.5, "learning_rate": 4e-4, "loss": loss - 0.1,
                         "remaining_time": 9.0, "samples": step, "step": step - 1, "time": 1.0,
                         "tokens": tokens / devices, "total_tokens": tokens})  # fmt: skip
            rows.append({"step": step - 1, "val_loss": loss, "val_ppl": math.exp(loss)})
        path = folder / run.name / "logs" / "csv" / "version_0" / "metrics.csv"
        path.parent.mkdir(parents=True)
        pd.DataFrame(rows).to_csv(path, index=False)
    runs = sorted(runs, key=lambda run: run.name)
    options = {"n_params": {(run.name if len(runs) > 1 else ""): float(run.n_params) for run in runs}}
    return known(folder, runs, f"litgpt on {devices} devices", options=options, named=len(runs) > 1)


def lightning(rng: np.random.Generator, folder: Path) -> Known:
    """Lightning's metrics.csv, whose steps are counted from 0."""
    runs = some_runs(rng)
    for run in runs:
        rows: list[dict] = []
        for step, _, loss in run.points:
            rows += [
                {"epoch": 0, "step": step - 1, "train_loss": loss - 0.1},
                {"epoch": 0, "step": step - 1, "val_loss": loss},
            ]
        path = folder / run.name / "lightning_logs" / "version_0" / "metrics.csv"
        path.parent.mkdir(parents=True)
        pd.DataFrame(rows)[["epoch", "step", "train_loss", "val_loss"]].to_csv(path, index=False)
    runs = sorted(runs, key=lambda run: run.name)
    alone = len(runs) == 1
    options = {
        "n_params": {("" if alone else run.name): float(run.n_params) for run in runs},
        "batch_tokens": {"": float(runs[0].batch)},
    }
    return known(folder, runs, "Lightning", options=options, named=not alone)


def nanochat(rng: np.random.Generator, folder: Path) -> Known:
    """nanochat's results.csv, as its scaling_laws.sh has written it over time."""
    rows, losses = [], []
    for run in some_runs(rng):
        head, embedding = 16_777_216, 16_777_216
        bits = round(run.end[2] / math.log(2) / 4.2, 6)
        losses.append(bits * math.log(2))
        rows.append({"flops_budget": f"{6.6 * run.n_params * run.end[1]:.4g}", "depth": 8, "model_dim": 512,
                     "params_wte": embedding, "params_value_embeds": embedding, "params_lm_head": head,
                     "params_transformer": run.n_params, "params_scalars": 16,
                     "params_total": run.n_params + head + 2 * embedding + 16,
                     "num_params": run.n_params + head + embedding,
                     "num_scaling_params": run.n_params + head, "num_iterations": run.end[0],
                     "tokens_trained": run.end[1], "val_bpb": bits, "train_time_sec": 9})  # fmt: skip
    parts = [
        "params_wte",
        "params_value_embeds",
        "params_lm_head",
        "params_transformer",
        "params_scalars",
        "params_total",
    ]
    old = ["num_params", "num_scaling_params"]
    frame = pd.DataFrame(rows)
    frame.drop(columns=old if rng.random() < 0.6 else parts).to_csv(folder / "results.csv", index=False)
    table = pd.DataFrame({"n_params": frame["params_transformer"] + frame["params_lm_head"],
                          "tokens": frame["tokens_trained"], "flops": frame["flops_budget"].astype(float),
                          "loss": losses})  # fmt: skip
    return Known(folder / "results.csv", table.astype(float), "nats/byte", ["nanochat's results.csv"])


def levanter(rng: np.random.Generator, folder: Path) -> Known:
    """`tracker_metrics.jsonl` of levanter: a line with the summary, or lines of events."""
    runs, events = some_runs(rng), rng.random() < 0.4
    for run in runs:
        lines: list[dict] = []
        for step, tokens, loss in run.points:
            metrics = {"train/loss": loss - 0.1, "eval/loss": loss, "eval/bpb": loss / 3,
                       "throughput/total_tokens": tokens,
                       "throughput/total_gflops": 6e-9 * run.n_params * tokens, "throughput/mfu": 40.0}  # fmt: skip
            lines.append({"tracker": "json_logger", "event": "log", "step": step, "metrics": metrics})
        config = {"model": {"hidden_dim": 64}, "trainer": {"seed": 0, "train_batch_size": 8}}
        summary = {"parameter_count": run.n_params, "global_step": run.end[0], "_runtime": 9.0, **lines[-1]["metrics"]}
        head = [{"tracker": "json_logger", "event": "hparams", "hparams": config},
                {"tracker": "json_logger", "event": "summary", "metrics": {}},
                {"event": "summary", "summary": {"parameter_count": run.n_params}}]  # fmt: skip
        held = [*head, *lines] if events else [{"config": config, "summary": summary}]
        (folder / run.name).mkdir()
        (folder / run.name / "tracker_metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in held))
    runs = sorted(runs, key=lambda run: run.name)
    return known(folder, runs, f"levanter, events {events}", named=len(runs) > 1)


def mlflow(rng: np.random.Generator, folder: Path) -> Known:
    """MLflow: search_runs, the page's export, or the folder mlruns."""
    runs, how = some_runs(rng), str(rng.choice(["search", "page", "store"]))
    rows = [(run, f"{k:032x}", "FINISHED") for k, run in enumerate(runs)]
    if rng.random() < 0.5:
        rows.append((Run("broken", 1_000_000, 512, ((1, 512, 9.5),)), "f" * 32, "FAILED"))
    if how == "store":
        for run, key, status in rows:
            _write_store(folder / "1" / key, run, key, status)
        return known(folder, runs, "mlruns")
    head = {"search": ("run_id", "status", "tags.mlflow.runName", "params.", "metrics."),
            "page": ("Run ID", "Status", "Name", "", "")}[how]  # fmt: skip
    held = [
        {"Start Time": "2026-01-01 00:00:00", "Duration": "9s", head[0]: key, head[2]: run.name, "User": "me",
         head[1]: status, f"{head[3]}n_params": run.n_params, f"{head[3]}lr": 1e-3,
         f"{head[4]}val_loss": run.end[2], f"{head[4]}tokens": run.end[1]} for run, key, status in rows
    ]  # fmt: skip
    pd.DataFrame(held).to_csv(folder / "runs.csv", index=False)
    found = known(folder / "runs.csv", runs, f"MLflow, {how}")
    if how == "page":  # has the ids beside the names
        found.table["run_id"] = [key for _, key, _ in rows[: len(runs)]]
    return found


def _write_store(folder: Path, run: Run, key: str, status: str) -> None:
    for part in ("metrics", "params", "tags"):
        (folder / part).mkdir(parents=True)
    code = {"FINISHED": 3, "FAILED": 4}[status]
    (folder / "meta.yaml").write_text(
        f"artifact_uri: file:///x\nend_time: 1700000009000\nentry_point_name: ''\nexperiment_id: '1'\n"
        f"lifecycle_stage: active\nrun_id: {key}\nrun_name: {run.name}\nrun_uuid: {key}\nsource_name: ''\n"
        f"source_type: 4\nsource_version: ''\nstart_time: 1700000000000\nstatus: {code}\ntags: []\nuser_id: me\n"
    )
    (folder / "params" / "n_params").write_text(str(run.n_params))
    (folder / "tags" / "mlflow.runName").write_text(run.name)
    for metric, at in (("val_loss", 2), ("tokens", 1)):
        text = "".join(f"17000000{point[0]:05d} {point[at]} {point[0]}\n" for point in run.points)
        (folder / "metrics" / metric).write_text(text)


def lm_eval(rng: np.random.Generator, folder: Path) -> Known:
    """Results of lm-eval in a folder a model; the loss in bits per byte or a perplexity."""
    runs, losses = some_runs(rng), []
    measure = str(rng.choice(["bits_per_byte", "byte_perplexity"]))
    for run in runs:
        bits = run.end[2] / math.log(2) / 4.2
        value = {"bits_per_byte": bits, "byte_perplexity": 2**bits}[measure]
        losses.append(bits * math.log(2))
        results = {
            "arc_easy": {"alias": "arc_easy", "acc,none": 0.3, "acc_stderr,none": 0.01, "acc_norm,none": 0.31},
            "wikitext": {"alias": "wikitext", f"{measure},none": value, f"{measure}_stderr,none": "N/A"},
        }
        held = {"results": results, "group_subtasks": {}, "configs": {}, "versions": {"wikitext": 2.0}, "n-shot": {},
                "higher_is_better": {}, "n-samples": {}, "config": {"model": "hf", "model_args": "pretrained=x",
                "model_num_parameters": run.n_params, "model_dtype": "torch.float32"}, "git_hash": "x", "date": 1.7e9,
                "model_source": "hf", "model_name": run.name, "model_name_sanitized": run.name}  # fmt: skip
        (folder / run.name).mkdir()
        (folder / run.name / "results_2026-01-01T00-00-00.000000.json").write_text(json.dumps(held, indent=2))
    options = {"tokens": {run.name: float(run.end[1]) for run in runs}}
    order = np.argsort([run.name for run in runs])
    runs = [runs[k] for k in order]
    found = known(folder, runs, f"lm-eval, {measure}", options=options)
    return Known(folder, found.table.assign(loss=[losses[k] for k in order]), "nats/byte", found.message, options)


PROGRAMS: tuple[Callable[[np.random.Generator, Path], Known], ...] = (
    histories, run_column, long_table, wandb_list, wandb_panel, wandb_api, trainer_state, megatron, litgpt, lightning,
    nanochat, levanter, mlflow, lm_eval, nanogpt, interleaved,
)  # fmt: skip


def write_program(rng: np.random.Generator, folder: Path) -> Known:
    """Known runs as a program drawn by `rng` logs them, in `folder`."""
    return PROGRAMS[int(rng.integers(len(PROGRAMS)))](rng, folder)
