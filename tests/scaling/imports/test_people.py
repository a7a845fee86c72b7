"""Tables as people write them: the same runs by fit and by import, or a refusal where they may be read in two ways."""

import json

import numpy as np
import pytest

from isoflop.scaling.imports.assemble import ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.imports.read_table import read_table as read_whole
from isoflop.scaling.imports.source import SourceError
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.conventions import points

LAW = Chinchilla(E=1.8, A=400.0, B=1200.0, alpha=0.34, beta=0.37)
RUNS = [(n, d, round(float(LAW(n, d)), 4)) for n in (7e7, 1.6e8, 4.1e8) for d in (2e9, 8e9, 3.2e10)]


def table(head: str, row, sep: str = ",") -> str:
    """A CSV of RUNS, a row of `row` (of parameters, tokens and loss) each."""
    return "\n".join([head, *(sep.join(map(str, row(*run))) for run in RUNS)]) + "\n"


SHORT = 2e9  # tokens of the runs that did not finish
# A name: a file of RUNS as others may write them, how many of them count, and what is said.
OF_A_KIND = {
    "finished.csv": (table("N,D,loss,finished", lambda n, d, y: (n, d, y, d > SHORT)), 6, "finished: 3 false"),
    "crashed.csv": (table("N,D,loss,crashed", lambda n, d, y: (n, d, y, int(d == SHORT))), 6, "did not finish"),
    "exit.csv": (table("N,D,loss,exit_code", lambda n, d, y: (n, d, y, 137 * (d == SHORT))), 6, "exit_code: 3 137"),
    "sacct.csv": (
        table("State,N,D,loss", lambda n, d, y: ("CANCELLED by 1001" if d == SHORT else "COMPLETED", n, d, y)),
        6,
        "3 cancelled by 1001",
    ),
    "cut.csv": (
        table("State,N,D,loss", lambda n, d, y: ("OUT_OF_ME+" if d == SHORT else "ok", n, d, y)),
        6,
        "out_of_me+",
    ),
    "progress.csv": (
        table("N,D,loss,run_progress", lambda n, d, y: (n, d, y, 0.4 if d == SHORT else 1)),
        6,
        "run_progress",
    ),
    "percent.csv": (
        table("N,D,loss,percent_complete", lambda n, d, y: (n, d, y, 40 if d == SHORT else 100)),
        6,
        "below 90%",
    ),
    "training.csv": (
        table("N,D,loss,status", lambda n, d, y: (n, d, y, "training" if d == SHORT else "complete")),
        6,
        "3 training",
    ),
    "archived.csv": (
        table("N,D,loss,status", lambda n, d, y: (n, d, y, "archived" if d == SHORT else "done")),
        9,
        "column status also says 3 archived: taken as finished",
    ),
    "steps_done.csv": (
        table("N,D,loss,steps_done,steps_total", lambda n, d, y: (n, d, y, 5 if d == SHORT else 10, 10)),
        6,
        "column steps_total",
    ),
    "splits.csv": (
        table("N,D,split,loss", lambda n, d, y: (n, d, "val", y))
        + "".join(f"{n},{d},train,{y - 0.1}\n" for n, d, y in RUNS),
        9,
        "a column for each split",
    ),
    "petaflop_days.csv": (table("N,C,loss", lambda n, d, y: (n, f"{6 * n * d / 8.64e19} PF-days", y)), 9, "column C"),
    "markdown.md": (table("| N | D | loss |\n|---|--:|:-:|", lambda n, d, y: ("", n, d, y, ""), " | "), 9, "by bars"),
    "joined.csv": (  # with cat
        "N,D,loss\n".join(["", *(f"{n},{d},{y}\n" for n, d, y in RUNS)]),
        9,
        "stand 8 more times",
    ),
    "summary.csv": (
        table("run,N,D,loss", lambda n, d, y: (f"r{n:g}-{d:g}", n, d, y)) + "average,2e8,1e10,3.1\n",
        9,
        "they sum up",
    ),
    "quoted.csv": (
        table("N,D,loss", lambda n, d, y: (n, d, f'"{y:.4f}"'.replace(".", ","))),
        9,
        "decimal comma in loss",
    ),
    "thousands.csv": (
        table("N,D,loss", lambda n, d, y: (n, d, f'"{y:.3f}"'.replace(".", ","))),
        9,
        "decimal comma in loss",
    ),
    "superscripts.csv": (
        table("N,D,loss", lambda n, d, y: (f"{n / 1e6:g}\u00d710\u2076", f"{d / 1e9:g}\u00d710\u2079", y)),
        9,
        "",
    ),
    "pf_days.csv": (table("N,C_pfdays,loss", lambda n, d, y: (n, 6 * n * d / 8.64e19, y)), 9, "times 8.64e+19"),
    "zflops.csv": (table("N,D,compute_zflops,loss", lambda n, d, y: (n, d, 6 * n * d / 1e21, y)), 9, "times 1e+21"),
    "speed.csv": (table("N,D,tflops,loss", lambda n, d, y: (n, d, 153.2, y)), 9, "a speed?"),
    "steps.csv": (
        table("N,steps,batch_tokens,loss", lambda n, d, y: (n, d / 1e6, 1e6, y)),
        9,
        "steps times column batch",
    ),
    "active.csv": (
        table("active_params,total_params,D,loss", lambda n, d, y: (n / 4, n, d, y)),
        9,
        "also has active_params",
    ),
    "nested.json": (
        json.dumps(
            {"runs": {f"r{k}": {"params": n, "tokens": d, "metrics": {"loss": y}} for k, (n, d, y) in enumerate(RUNS)}}
        ),
        9,
        "column params",
    ),
    "train_val.json": (
        json.dumps(
            [{"model": {"params": n}, "tokens": d, "train": {"loss": y - 1}, "val": {"loss": y}} for n, d, y in RUNS]
        ),
        9,
        "column val/loss",
    ),
    "lists.json": (
        json.dumps(
            {f"r{k}": {"n_params": n, "tokens": [d / 2, d], "loss": [y + 1, y]} for k, (n, d, y) in enumerate(RUNS)}
        ),
        9,
        "curves of 9 runs",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_A_KIND)
def test_a_file_that_people_write_gives_its_runs_by_fit_and_by_import(tmp_path, name):
    text, count, reported = OF_A_KIND[name]
    path = tmp_path / name
    path.write_text(text)
    expected = [run for run in RUNS if count == 9 or run[1] > SHORT]
    found = points(read_whole(path))
    assert reported in "; ".join(found.notes)
    for frame in (found.frame, import_source(path, "auto", ImportOptions(), {}).ends):
        np.testing.assert_allclose(frame[["n_params", "tokens", "loss"]].to_numpy(float), expected, rtol=4e-4)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        (
            table("N,D,loss", lambda n, d, y: (f"{n / 1e6:g}" + "M" * (n > 1e8), d, y)),
            r"N is written with a scale .* \(70\)",
        ),
        (table("N,C,dataset_tokens_b,loss", lambda n, d, y: (n, 6 * n * d, 1, y)), ""),
        (table("N,C,my_tokens,loss", lambda n, d, y: (n, 6 * n * d, d / 1e9, y)), "'my_tokens' may be it"),
        (
            table("N;D;loss", lambda n, d, y: (f"{int(n):,}", d, f"{y:.3f}".replace(".", ",")), ";"),
            "may part thousands",
        ),
    ],
)
def test_what_may_be_read_in_two_ways_is_refused(tmp_path, text, refused):
    (tmp_path / "t.csv").write_text(text)
    if not refused:
        assert points(read_whole(tmp_path / "t.csv")).frame["tokens"].tolist() == [1e9] * 9
        return
    with pytest.raises(TableError, match=refused):
        points(read_whole(tmp_path / "t.csv"))


def test_the_third_is_derived_for_the_runs_that_have_the_other_two(tmp_path):
    text = table("N,C,loss", lambda n, d, y: ("" if d == SHORT else n, 6 * n * d, y))
    (tmp_path / "t.csv").write_text(text)
    found = import_source(tmp_path / "t.csv", "auto", ImportOptions(), {})
    assert found.ends["tokens"].tolist() == pytest.approx([d for _, d, _ in RUNS if d > SHORT])
    assert len(found.left_out) == 3


def test_rows_without_steps_do_not_get_tokens_from_a_batch(tmp_path):
    (tmp_path / "t.csv").write_text(table("N,batch_tokens,loss", lambda n, d, y: (n, 1e6, y)))
    with pytest.raises(SourceError, match="no run reports its tokens"):
        import_source(tmp_path / "t.csv", "auto", ImportOptions(), {})


def test_tokens_that_some_rows_report_are_not_replaced_by_steps_times_another_batch(tmp_path):
    rows = [(50, 1e8, ""), (100, 1e8, 1e8), (150, 1e8, ""), (200, 1e8, 4e8), (300, 1e8, 9e8), (350, 1e8, "")]
    text = "step,N,tokens,batch_tokens,val_loss\n" + "".join(f"{s},{n},{d},4e6,{4 - s / 1e3}\n" for s, n, d in rows)
    (tmp_path / "ramp.csv").write_text(text)
    found = import_source(tmp_path / "ramp.csv", "auto", ImportOptions(tokens={"ramp": 1.2e9}), {})
    assert found.ends["tokens"].tolist() == [1.2e9]
    assert found.table.set_index("step")["tokens"][[100, 150, 200]].tolist() == [1e8, 2.5e8, 4e8]
    with pytest.raises(SourceError, match="--tokens RUN=VALUE"):
        import_source(tmp_path / "ramp.csv", "auto", ImportOptions(), {})
