"""Logs made of random runs come back as these runs, or are refused by name."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.scaling.imports.assemble import ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.imports.source import SourceError
from tests.support.tables.dialects import by_import, difference
from tests.support.tables.program_logs import interleaved, nanogpt

PREFIXES = (
    "",
    "[EVAL] ",
    "2026-01-01 12:00:00,123 - INFO - ",
    "[rank0]: ",
    "[2026-01-01 10:00:00][INFO] ",
    "0: ",
    "\x1b[32m",
)


def ends(path, **options):
    """Name, parameters, last step and last loss of every run of a log."""
    table = import_source(path, "auto", ImportOptions(**options), {}).table
    last = table.drop_duplicates("run_id", keep="last")
    return [(row.run_id, row.n_params, row.step, row.loss) for row in last.itertuples()]


def evaluation(step: int, loss: float) -> str:
    return f"step {step}: train loss {loss - 0.1:.4f}, val loss {loss:.4f}"


def loss_of(model: int, step: int) -> float:
    return round(2 + 3 / (1 + model) + 4 / (1 + step / 100), 4)


def test_the_second_model_of_a_log_is_a_run_of_its_own(tmp_path):
    lines = ["tokens per iteration will be: 1,000", "number of parameters: 0.80M"]
    lines += [evaluation(step, loss_of(0, step)) for step in (0, 250, 500)]
    lines += ["number of parameters: 25.23M", *(evaluation(step, loss_of(5, step)) for step in (0, 250))]
    (tmp_path / "a.log").write_text("\n".join(lines))
    assert ends(tmp_path / "a.log") == [("a#1", 0.8e6, 500, loss_of(0, 500)), ("a#2", 25.23e6, 250, loss_of(5, 250))]


def test_a_step_from_the_beginning_is_another_run_and_a_later_one_a_restart(tmp_path):
    first = ["tokens per iteration will be: 1,000", "number of parameters: 1M"]
    for steps, runs in (((0, 250, 500, 250, 500, 750), [750]), ((0, 250, 500, 0, 250), [500, 250])):
        (tmp_path / "a.log").write_text("\n".join([*first, *(evaluation(s, loss_of(1, s)) for s in steps)]))
        assert [end[2] for end in ends(tmp_path / "a.log")] == runs


@pytest.mark.parametrize("prefix", PREFIXES)
def test_lines_with_a_prefix_are_read(tmp_path, prefix):
    lines = ["tokens per iteration will be: 1,000", "number of parameters: 1.50M"]
    lines += [evaluation(s, loss_of(1, s)) for s in (0, 250)]
    (tmp_path / "a.log").write_text("\n".join(prefix + line for line in lines))
    assert ends(tmp_path / "a.log") == [("a", 1.5e6, 250, loss_of(1, 250))]


def test_a_label_before_the_lines_names_their_run(tmp_path):
    heads = ["tokens per iteration will be: 1,000", "number of parameters: 1M"]
    lines = heads + [
        f"[{name}] {evaluation(s, loss_of(k, s))}" for s in (0, 250) for k, name in enumerate(("small", "big"))
    ]
    (tmp_path / "a.log").write_text("\n".join(lines))
    assert ends(tmp_path / "a.log") == [
        ("a-small", 1e6, 250, loss_of(0, 250)), ("a-big", 1e6, 250, loss_of(1, 250))
    ]  # fmt: skip


@pytest.mark.parametrize("lines", [
    [evaluation(s, loss_of(k, s)) for s in (0, 250, 500, 750) for k in (1, 2)],
    [evaluation(s, loss_of(1, s) + 0.001 * k) for s in (0, 250, 500, 750) for k in (1, 2)],
    ["number of parameters: 1M", "number of parameters: 2M", evaluation(0, 5.0), evaluation(250, 4.0)],
    [evaluation(s, loss_of(k, s)) for s, k in ((0, 1), (250, 1), (0, 2), (500, 1), (250, 2), (750, 1), (500, 2))],
])  # fmt: skip
def test_mixed_lines_are_refused_with_the_file_and_the_line(tmp_path, lines):
    (tmp_path / "mixed.log").write_text("\n".join(["tokens per iteration will be: 1,000", *lines]))
    with pytest.raises(
        SourceError, match=r"mixed\.log: .*line.* the lines of several runs are mixed; give each run a file"
    ):
        ends(tmp_path / "mixed.log", n_params={"": 1e6})


@st.composite
def logs(draw):
    """The lines of a log and the runs in it: (parameters in thousands, last step, last loss)."""
    lines, runs = [], []
    for model in range(draw(st.integers(1, 4))):
        size = draw(st.integers(1, 3)) * 10 + model if draw(st.booleans()) else 50
        horizon = draw(st.integers(1, 6)) * 250
        whole = draw(st.booleans())  # prints all that the program prints at its start
        header = [
            f"max_iters = {horizon}",
            "tokens per iteration will be: 4,096",
            f"number of parameters: {size / 1000:.3f}M",
        ]
        if not whole and runs and runs[-1][0] != size:
            header = header[-1:]
        elif not whole and runs:
            header = []
        start = 0
        for _ in range(draw(st.integers(0, 2))):  # starts that were killed
            stop = draw(st.integers(start, horizon // 250))
            lines += header if start == 0 or draw(st.booleans()) else []
            lines += [evaluation(s * 250, loss_of(size, s * 250)) for s in range(start, stop + 1)]
            start = draw(st.integers(1, max(stop, 1)))
        header = (
            [
                f"max_iters = {horizon}",
                "tokens per iteration will be: 4,096",
                f"number of parameters: {size / 1000:.3f}M",
            ]
            if start
            else header
        )
        lines += header + [evaluation(s * 250, loss_of(size, s * 250)) for s in range(start, horizon // 250 + 1)]
        runs.append((size, horizon, loss_of(size, horizon)))
    return lines, runs


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(logs(), st.sampled_from(PREFIXES))
def test_random_runs_one_after_the_other_come_back(tmp_path_factory, log, prefix):
    lines, runs = log
    path = tmp_path_factory.mktemp("logs") / "a.log"
    path.write_text("\n".join(prefix + line for line in lines))
    assert [(round(n / 1000), step, loss) for _, n, step, loss in ends(path, keep_unfinished=True)] == runs


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([interleaved, nanogpt]))
def test_runs_of_one_log_come_back_mixed_by_label_or_one_after_the_other(tmp_path_factory, seed, write):
    known = write(np.random.default_rng(seed), tmp_path_factory.mktemp("logs"))
    assert difference(known, *by_import(known.path)) == "", known.message


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.integers(2, 4), st.integers(4, 9), st.randoms(use_true_random=False), st.sampled_from(PREFIXES))
def test_mixed_runs_without_a_label_are_refused_or_given_back(tmp_path_factory, count, rows, random, prefix):
    """Lines of several runs that nothing tells apart never become one run of both."""
    streams = [[evaluation(250 * k, loss_of(3 * run, 250 * k)) for k in range(rows)] for run in range(count)]
    lines = []
    while any(streams):
        lines.append(random.choice([stream for stream in streams if stream]).pop(0))
    path = tmp_path_factory.mktemp("logs") / "a.log"
    path.write_text("\n".join(prefix + line for line in ["tokens per iteration will be: 1,000", *lines]))
    last = 250 * (rows - 1)
    whole = sorted((last, loss_of(3 * run, last)) for run in range(count))
    try:
        found = sorted(end[2:] for end in ends(path, n_params={"": 1e6}))
    except SourceError as error:
        found = str(error)
    assert found == whole or "the lines of several runs are mixed" in found
