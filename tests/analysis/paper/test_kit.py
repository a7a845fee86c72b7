"""The kit of a paper: tables whose every number is the fit's, and figures of a column's width with their fonts."""

import re

import numpy as np
import pandas as pd
import pytest

from isoflop.analysis.evidence import Evidence, UnsupportedError
from isoflop.analysis.own_files import LIST, claimed
from isoflop.analysis.paper import kit
from isoflop.analysis.paper.bibliography import bibliography
from isoflop.analysis.paper.kit import DOUBLE, HEIGHT, SINGLE, write_paper
from isoflop.analysis.paper.tables import _as_fitted, _scored, unit_of
from isoflop.analysis.style import LEVEL
from isoflop.scaling.laws import LAWS, PRESETS, get_law
from isoflop.scaling.selection.scoreboard import compare

pytestmark = pytest.mark.usefixtures("kept_searches")

NUMBER = r"-?[\d.]+(?: \\times 10\^\{-?\d+\})?"


@pytest.fixture(scope="module")
def evidence(study_table):
    found = Evidence(study_table, law="chinchilla", n_draws=50)
    found.done["scoreboard"] = compare(found.points, ("chinchilla", "chinchilla-tied", "power-n"), findings=False)
    return found


@pytest.fixture(scope="module")
def written(evidence, tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    return write_paper(evidence, folder)


def rows(text):
    """The cells of a table's body."""
    body = text.split("\\midrule\n")[1].split("\\bottomrule")[0]
    return [re.split(r"(?<!\\) & ", line.removesuffix(" \\\\")) for line in body.splitlines()]


def value(text):
    mantissa, _, power = text.strip("$").partition(r" \times 10^{")
    return float(f"{mantissa}e{power.rstrip('}') or 0}")


def ends(text):
    return [value(part) for part in re.findall(rf"\${NUMBER}\$", text)]


@pytest.mark.slow
def test_every_table_is_whole(written):
    assert written.missing == {}
    for name in ("parameters", "exponents", "laws"):
        text = (written.folder / f"{name}.tex").read_text()
        columns = re.search(r"\{@\{\}([lrc]+)@\{\}\}", text)[1]
        assert {len(row) for row in rows(text)} == {len(columns)}
        for rule in ("toprule", "midrule", "bottomrule"):
            assert text.count(rf"\{rule}") == 1
        bare = re.sub(r"\\.", "", text)
        assert bare.count("{") == bare.count("}")
        assert all(line.count("$") % 2 == 0 for line in re.sub(r"\\\$", "", text).splitlines())


@pytest.mark.slow
def test_every_number_of_the_parameters_is_the_fits(written, evidence):
    fit, draws = evidence.fit, evidence.draws
    known = dict(zip(fit.law.parameters(), fit.law.values().tolist(), strict=True)) | fit.exponents()
    found = rows((written.folder / "parameters.tex").read_text())
    assert len(found) == len(known)
    for (name, exact), (_, shown, between, _) in zip(known.items(), found, strict=True):
        assert value(shown) == pytest.approx(exact, rel=5.1e-4)
        if name in fit.problem.pinned:
            assert between == "fixed"
        else:
            assert ends(between) == pytest.approx(draws.interval(name, LEVEL), rel=5.1e-4)
    comments = (written.folder / "parameters.tex").read_text()
    for name, exact in known.items():
        assert f"% {name} = {exact!r}" in comments


@pytest.mark.slow
def test_every_number_of_the_other_tables_and_macros_is_the_evidences(written, evidence):
    for row, cells in zip(
        evidence.conventions.to_dict("records"), rows((written.folder / "exponents.tex").read_text()), strict=True
    ):
        assert value(cells[2]) == pytest.approx(row["a"], rel=5.1e-4)
        assert ends(cells[3]) == pytest.approx([row["a_low"], row["a_high"]], rel=5.1e-4)
        assert value(cells[4]) == pytest.approx(row["b"], rel=5.1e-4)
    board = evidence.scoreboard.frame.drop(index="local-slope").reset_index().to_dict("records")
    for row, cells in zip(board, rows((written.folder / "laws.tex").read_text()), strict=True):
        shown = [float(re.sub(r"[^\d.-]", "", cell)) for cell in cells[3:]]
        exact = [100 * sign * row[key] for key, sign in (("error", 1), ("error_se", 1), ("bias", 1), ("coverage", 1))]
        assert shown == pytest.approx(exact, abs=0.51)
        assert shown[:3] == pytest.approx(exact[:3], abs=0.0051)
    macros = dict(
        re.findall(r"\\newcommand\{\\(\w+)\}\{\\ensuremath\{(.*)\}\}", (written.folder / "numbers.tex").read_text())
    )
    fit, draws = evidence.fit, evidence.draws
    for name, exact in zip(fit.law.parameters(), fit.law.values(), strict=True):
        assert value(macros[f"isoflop{name}"]) == pytest.approx(exact, rel=5.1e-4)
    for name, exact in fit.exponents().items():
        assert value(macros[f"isoflopexp{name}"]) == pytest.approx(exact, rel=5.1e-4)
    assert value(macros["isoflopALow"]) == pytest.approx(draws.interval("A", LEVEL)[0], rel=5.1e-4)
    assert value(macros["isoflopexpaHigh"]) == pytest.approx(draws.interval("a", LEVEL)[1], rel=5.1e-4)
    assert all(name.isalpha() for name in macros)


@pytest.mark.slow
def test_every_citation_is_in_the_bibliography_and_every_input_there(written):
    text = "".join(path.read_text() for path in written.folder.glob("*.tex"))
    keys = set(re.findall(r"@misc\{([^,]+),", (written.folder / "laws.bib").read_text()))
    cited = re.findall(r"\\(?:no)?cite\{([^}]+)\}", text)
    assert {key for group in cited for key in group.split(",")} == keys
    for name in re.findall(r"\\input\{(\w+)\}", text):
        assert (written.folder / f"{name}.tex").is_file()
    for name in re.findall(r"\\includegraphics\{([^}]+)\}", text):
        assert (written.folder / name).is_file()
    assert sorted(written.files) == sorted(path.name for path in written.folder.iterdir() if path.name != LIST)


@pytest.mark.slow
def test_figures_are_vectors_of_a_columns_width_with_embedded_fonts(written):
    pdfs = sorted(written.folder.glob("*.pdf"))
    assert {"isoflop-single.pdf", "n_star-single.pdf", "profiles-double.pdf", "prediction-double.pdf"} <= {
        path.name for path in pdfs
    }
    for path in pdfs:
        content = path.read_bytes()
        box = [float(x) for x in re.search(rb"/MediaBox \[([^\]]+)\]", content)[1].split()]
        width = DOUBLE if path.stem.endswith("double") else SINGLE
        assert box == pytest.approx([0, 0, 72 * width, 72 * HEIGHT], abs=0.1), path.name
        assert b"/FontFile2" in content
        assert b"/Type3" not in content


@pytest.mark.slow
def test_the_same_table_gives_the_same_files(evidence, tmp_path, monkeypatch):
    """Of the figures one: what a drawing brings into a file, it brings into each."""
    monkeypatch.setattr(kit, "_FILES", {"n_star-single": ("n_star",)})
    once, again = (write_paper(evidence, tmp_path / name) for name in ("once", "again"))
    assert {"parameters.tex", "laws.bib", "paper.tex", "n_star-single.pdf"} <= {*again.files}
    for name in again.files:
        assert (again.folder / name).read_bytes() == (once.folder / name).read_bytes(), name


@pytest.mark.slow
def test_what_a_table_cannot_support_is_named_and_its_old_file_removed(study_table, tmp_path):
    few = study_table[study_table["final"]].head(4)
    with claimed(tmp_path, ["laws.tex"], "the kit of a paper"):
        (tmp_path / "laws.tex").write_text("of an earlier table")
    found = write_paper(Evidence(few, law="chinchilla"), tmp_path)
    assert "paper: laws" in found.missing
    assert not (tmp_path / "laws.tex").exists()
    assert all(reason and "\n" not in reason for reason in found.missing.values())


@pytest.mark.slow
def test_what_the_data_do_not_determine_is_not_quoted(tmp_path, monkeypatch):
    """Tokens in a fixed proportion to size: alpha and the exponents of the optimum are refused."""
    law = LAWS["chinchilla"](0.9, 33.0, 332.0, 0.45, 0.5)
    size = np.geomspace(1e5, 1e8, 24)
    loss = law(size, 20 * size) * np.exp(np.random.default_rng(0).normal(0, 0.003, len(size)))
    table = pd.DataFrame({"n_params": size, "tokens": 20 * size, "loss": loss})
    monkeypatch.setattr(kit, "_FILES", {})  # no figure is looked at
    evidence = Evidence(table, law="chinchilla", n_draws=50)
    evidence.done["scoreboard"] = UnsupportedError("not requested here")  # every law on such data takes long
    write_paper(evidence, tmp_path)
    body = (tmp_path / "parameters.tex").read_text().split("midrule")[1]
    assert "$N^* \\propto C^a$ & -- & not determined" in body
    assert "isoflopexpa" not in (tmp_path / "numbers.tex").read_text()
    assert not (tmp_path / "exponents.tex").exists()


def test_every_name_of_a_form_has_a_formula_of_its_own():
    """What a name holds a parameter to stands beside the formula, and what it frees has its paper."""
    shown = {name: _scored(name, dict.fromkeys(("error", "error_se", "bias", "coverage", "free"), 0.1), "")[:2]
             for name in ("chinchilla", "chinchilla-kappa", "chinchilla-tied", "chinchilla-no-floor")}  # fmt: skip
    kappa, floor, tied = r"$\kappa =1$", "$E=0$", r"$\alpha =\beta $"
    parts = {name: set(formula.split(", ")[1:]) for name, (_, formula) in shown.items()}
    assert parts == {
        "chinchilla": {kappa}, "chinchilla-kappa": set(), "chinchilla-tied": {kappa, tied},
        "chinchilla-no-floor": {kappa, floor},
    }  # fmt: skip
    assert r"\cite{hoffmann2022training,busbridge2025distillation}" in shown["chinchilla-kappa"][0]
    assert "Distillation Scaling Laws" in bibliography([LAWS["chinchilla"]], [get_law("chinchilla-kappa")[1].paper])
    formulas = [_as_fitted(*preset) for preset in PRESETS.values()]
    assert len(set(formulas)) == len(formulas)


def test_units_of_the_parameters():
    assert [unit_of(LAWS["chinchilla"], n, "nats/byte") for n in ("E", "A", "B", "alpha")] == ["nats/byte", "", "", ""]
    assert [unit_of(LAWS["power-n"], n, "nats/byte") for n in ("E", "K")] == ["nats/byte", ""]
    assert [unit_of(LAWS["kaplan"], n, "nats/token") for n in ("N_c", "D_c", "alpha_N")] == ["parameters", "tokens", ""]
    assert unit_of(LAWS["saturating"], "ceiling", "nats/token") == "nats/token"
