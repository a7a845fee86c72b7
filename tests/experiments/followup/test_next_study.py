"""What a next study keeps of a table's runs: parts, settings, sizes of their series, where trunks go on."""

import json
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pytest
import yaml

from isoflop.experiments.config import ModelSpec, OptimSpec, ScheduleSpec
from isoflop.experiments.finished.bundle import write_bundle
from isoflop.experiments.followup.next_study import next_runs, runnable, write_study
from isoflop.experiments.followup.optim_file import emit_optim
from isoflop.experiments.followup.template import (
    PARTS,
    NextStudyError,
    _sections,
    model_of,
    parts_in,
    parts_of,
    template_of,
)
from isoflop.experiments.study.optimizers import optimizer_flops
from isoflop.experiments.study.sizes import load_size, size_names
from isoflop.models.config import count_params, flops_per_token, n_matrices, n_total, training_flops_per_token
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.read import read_table
from isoflop.scaling.table.runs import final_rows
from isoflop.scaling.tuning.tune import tune
from tests.support.root import RESULTS
from tests.support.tables.shared import DATA, write_shared

QUICK = files("isoflop.experiments") / "results" / "quick.parquet"

pytestmark = pytest.mark.usefixtures("kept_searches")


@pytest.fixture(scope="module")
def quick():
    return read_table(QUICK)


def as_size(runs, name, base=None, **columns):
    """The rows of `runs` as if they were of one size of conf/model."""
    spec = load_size(name, base)
    model = model_of(spec, 256, 64)
    parts = dict(zip(PARTS[2:], parts_in(spec)[2:], strict=True))
    shape = {k: getattr(model, k) for k in ("family", "n_layer", "d_model", "n_head", "d_ff", "tied")}
    counts = {f"n_params_{g}": n for g, n in count_params(model).items()} | {"n_params_total": n_total(model)}
    flops = {f"flops_token_{g}": n for g, n in flops_per_token(model).items()}
    return runs.assign(**(shape | parts | counts | flops | columns))


def series_of(cells):
    return {size.rstrip("0123456789") for size in cells.frame["size"]}


@pytest.mark.parametrize(
    ("names", "series"),
    [
        (("lstm-d20", "lstm-d28"), {"lstm-d"}),
        (("gpt2-d16", "gpt2-d24"), {"gpt2-d"}),
        (("moe-d16", "moe-d24"), {"moe-d"}),
        (("g96", "g128"), {"g"}),
        (("d16", "d24"), {"d"}),
    ],
)
def test_a_lattice_has_the_parts_and_the_series_of_its_runs(quick, names, series):
    one = final_rows(quick).head(4)
    runs = pd.concat([as_size(one, name) for name in names], ignore_index=True)
    template = template_of(runs, QUICK)
    assert template.model_section == {}
    assert series_of(runnable(runs, 1e15, template)) == series


def test_parts_that_no_size_states_are_written_as_a_section(quick):
    tied = ModelSpec(tied=True)
    runs = pd.concat([as_size(final_rows(quick).head(4), name, tied) for name in ("d16", "d24")], ignore_index=True)
    template = template_of(runs, QUICK)
    assert template.model_section == {"tied": True}
    frame = runnable(runs, 1e13, template).frame
    size = frame["size"].iloc[0]
    assert frame["n_params"].iloc[0] == n_matrices(model_of(load_size(size, tied), 256, 64))


def test_two_kinds_of_models_are_refused_with_a_remedy(quick):
    one = final_rows(quick).head(4)
    with pytest.raises(NextStudyError, match=r"continues one kind: keep one, e\.g\. --where"):
        parts_of(pd.concat([one, as_size(one, "lstm-d20")]))
    with pytest.raises(NextStudyError, match="activation"):
        parts_of(one.assign(activation=""))


def test_a_table_without_a_finished_run_is_refused_by_name(quick):
    unfinished = quick.assign(state="diverged")
    unfinished.attrs = quick.attrs
    with pytest.raises(NextStudyError, match=r"quick\.parquet: no run has finished"):
        next_runs(unfinished, budget=1e12, target=1e13)


@pytest.mark.parametrize("tokens", [0, -7])
def test_a_text_of_no_tokens_is_refused_by_name(quick, tokens):
    with pytest.raises(TableError, match=r"quick\.parquet: unique_tokens is zero or negative in \d+ of 44 rows"):
        next_runs(quick.assign(unique_tokens=tokens), budget=1e12, target=1e13)


def test_the_columns_of_a_single_file_are_kept_and_what_they_lack_is_named(quick):
    runs = final_rows(quick).assign(
        optimizer="muon", peak_learning_rate=0.005, batch_tokens=1024, schedule="cosine", warmup_tokens=4096
    )
    template = template_of(runs, QUICK)
    assert template.settings["optim"] == {"name": "muon", "learning_rate": 0.005, "batch_size": 16}
    assert template.settings["schedule"] == {"name": "cosine", "warmup_steps": 4}
    assert template.cooldown == 1.0  # no trunk under a cosine
    assert any("optim.weight_decay" in note for note in template.notes)
    kept = template_of(runs.assign(weight_decay=0.1), QUICK)
    assert kept.settings["optim"]["weight_decay"] == 0.1
    assert not any("optim.weight_decay" in note for note in kept.notes)
    assert any(runs["corpus_id"].iloc[0] in note for note in template.notes)
    runs.loc[0, "peak_learning_rate"] = 0.02
    assert any("differ in optim.learning_rate (2 values)" in note for note in template_of(runs, QUICK).notes)


@pytest.mark.slow
def test_the_precision_of_the_products_goes_with_them(quick, tmp_path):
    out = tmp_path / "experiment" / "more.yaml"
    lowered = quick.assign(dtype="bfloat16")
    made = next_runs(lowered, budget=2e11, target=1e14, goal="n_opt", out=out, from_law=None)
    assert yaml.safe_load(out.read_text())["where"] == {"precision": "bfloat16"}
    for dtype in ("float32", ""):
        template = template_of(final_rows(quick.assign(dtype=dtype)), QUICK)
        write_study(made.design, out, template, runs="runs")
        assert "where" not in yaml.safe_load(out.read_text())
    what = {"optim": {"name": "adamw"}, "schedule": {"name": "wsd"}}
    for recorded, section in (({}, {}), ({"precision": "bfloat16"}, {"precision": "bfloat16"})):
        assert _sections({"data": {"name": "text"}, "what": what | recorded})["where"] == section


def test_muons_own_flops_are_part_of_a_cells_price(quick):
    runs = final_rows(quick).assign(optimizer="muon")
    cells = runnable(runs, 1e12, template_of(runs, QUICK))
    model = model_of(load_size("d16"), 256, 64)
    own = optimizer_flops(model, OptimSpec(name="muon")) / 512
    assert cells.per_token["d16"] == pytest.approx(training_flops_per_token(model) + own)


@pytest.mark.slow
def test_a_file_goes_with_the_defaults_that_train_the_same_cells(quick, tmp_path):
    out = tmp_path / "experiment" / "more.yaml"
    made = next_runs(quick, budget=2e11, target=1e14, goal="n_opt", out=out, from_law=None)
    study = yaml.safe_load(out.read_text())
    assert made.command == f"isoflop run --config-dir {tmp_path} experiment=more runs=runs"
    assert out.read_text().splitlines()[1].startswith(f"# {made.command}")
    assert [c["size"] for c in study["study"]["cells"]] == list(made.design.cells["size"])
    assert study["optim"] == {"name": "adamw"}
    assert ScheduleSpec().name == study["schedule"]["name"]
    assert set(made.design.cells["size"]) <= set(size_names())


@pytest.mark.slow
def test_a_study_file_of_the_user_stays_and_a_suggested_one_is_replaced_with_a_word(quick, tmp_path):
    out = tmp_path / "next.yaml"
    ask = {"budget": 2e11, "target": 1e14, "out": out}
    for own in ("# my precious study\n", "# @package _global_\n# mine\n", ""):
        out.write_text(own)
        with pytest.raises(NextStudyError, match=r"--out .*next.yaml: isoflop suggest did not write the file"):
            next_runs(quick, **ask)
        assert out.read_text() == own
    out.unlink()
    first = next_runs(quick, **ask)
    again = next_runs(quick, **ask)
    assert (first.to_dict()["replaced"], again.to_dict()["replaced"]) == (False, True)
    assert f"wrote {out} over the file that was there; next: {again.command}" in str(again)
    assert [path.name for path in tmp_path.iterdir()] == ["next.yaml"]
    with pytest.raises(ValueError, match="the name of the study=single: runs without a study"):
        next_runs(quick, **ask | {"out": tmp_path / "single.yaml"})


@pytest.mark.slow
def test_a_bundle_gives_the_settings_of_its_runs_and_says_that_folders_are_lost(tmp_path):
    folder = write_shared(tmp_path / "runs", tmp_path / "b")
    runs = final_rows(read_table(folder))
    found = template_of(runs, folder)
    assert found.settings["data"]["files"] == ["*.txt", "b.txt"]
    assert found.settings["data"]["name"] == DATA["name"]
    assert found.trained == {}
    assert any("have lost their folders" in note for note in found.notes)


@pytest.mark.slow
def test_a_bundle_without_configurations_is_read_like_its_table(quick, tmp_path):
    write_bundle(quick, tmp_path / "b")
    table = read_table(tmp_path / "b")
    assert template_of(final_rows(table), tmp_path / "b") == template_of(final_rows(quick), Path(str(QUICK)))
    made = next_runs(table, budget=1e12, target=1e14, out=tmp_path / "next.yaml")
    assert "runs=runs" in made.command
    assert str(tmp_path / "b") not in made.command


@pytest.mark.slow
@pytest.mark.parametrize(
    "bad", [{}, {"what": 1}, {"data": {}, "what": {"optim": {}}}, {"data": {"name": "${oc.env:HOME}"}}]
)
def test_a_configuration_of_somebody_else_is_refused_unless_it_is_one(tmp_path, bad):
    folder = write_shared(tmp_path / "runs", tmp_path / "b")
    runs = final_rows(read_table(folder))
    lines = [json.loads(line) for line in (folder / "configs.jsonl").read_text().splitlines()]
    lines[0]["config"] = bad if "what" in bad or not bad else lines[0]["config"] | bad
    (folder / "configs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match=r"configs\.jsonl, run"):
        template_of(runs, folder)


def bare(table):
    """The table as pandas makes it of two: without where it was read."""
    made = pd.concat([table.iloc[:30], table.iloc[30:].assign()], ignore_index=True)
    made.attrs = {}
    return made


def test_a_table_that_pandas_made_is_gone_on_from_and_the_file_may_be_text(quick, tmp_path):
    out = str(tmp_path / "experiment" / "next.yaml")
    found = next_runs(bare(quick), budget=1e12, target=1e14, out=out)
    assert found.file == Path(out)
    assert "experiment=next" in found.command
    with pytest.raises(NextStudyError, match="no run has finished"):
        next_runs(bare(quick).assign(state="failed"), budget=1e12, target=1e14)


@pytest.mark.slow
def test_mixtures_and_settings_of_such_a_table_are_written_too(tmp_path):
    mixed, tuned = (bare(read_table(RESULTS / f"{name}.parquet")) for name in ("mixture_known", "hp_law"))
    out = str(tmp_path / "next.yaml")
    budget = 3.5 * float(mixed["flops"].max())
    assert next_runs(mixed, budget=budget, target=1e12, goal="mixture", out=out).file == Path(out)
    assert emit_optim(tune(tuned), tuned, tmp_path / "mine.yaml").file.exists()
