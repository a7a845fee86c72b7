"""page.js by itself, without a browser: what it writes, what it interpolates, and what each control does."""

import json
import math
import re
import shutil
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from isoflop.analysis.style import count
from isoflop.printable import loss_text
from isoflop.scaling.table.meaning import number
from tests.support.root import ROOT

SCRIPT = ROOT / "analysis/page/page.js"
HARNESS = ROOT / "tests/support/page/run_script.js"
FLOPS = (1e10, 1e11, 1e12, 1e13, 1e15)


def row(given: str, compute: float, **changes: float | None) -> dict:
    """A row of the calculator: N = C^.5 / 10, D = C / 6 N, loss 40 C^-.1, intervals of a tenth to either side."""
    n = compute**0.5 / 10
    values = {"flops": compute, "n_params": n, "tokens": compute / 6 / n, "loss": 40 * compute**-0.1}
    made: dict = {"given": given}
    for name, value in values.items():
        made |= {name: value, f"{name}_low": value * 0.9, f"{name}_high": value * 1.1}
    return made | changes


RUNS = [
    {"run_id": f"r{i}", "convention": convention, "n_params": 10.0 * i, "loss": 3.0, "chinchilla": 3.0 * 2**-i}
    for convention, runs in (("one", 5), ("two", 3))
    for i in range(runs)
]
PAGE = {
    "convention": "one", "laws": ["chinchilla", "power"], "fitted": [1e11, 1e12],
    "calculator": [row(given, c) for given in ("flops", "n_params", "tokens") for c in FLOPS],
    "charts": {
        name: {"params": [{"name": "law"}, {"name": "brush", "value": 7}, {"name": "at"}], "datasets": {"own": [1]}}
        for name in ("isoflop", "residuals by flops", "residuals by tokens")
    } | {"plain": {"params": [], "datasets": {}, "brushless": True}},
    "datasets": {"points": RUNS},
}  # fmt: skip
CHARTS = [{"dataset": {"chart": name}} for name in ("isoflop", "residuals", "plain")]
LISTS = {
    ".chart": CHARTS,
    "input[name='given']": [{"value": v, "checked": v == "flops"} for v in ("flops", "n_params", "tokens")],
    "input[name='laws']": [{"value": v, "checked": v == "chinchilla"} for v in ("chinchilla", "power")],
    "details": [{"open": False}, {"open": False}],
}
ELEMENTS = {"#residuals-by": {"value": "flops"}, '[data-chart="residuals"]': CHARTS[1], "#price": {"value": "3.6"},
            "#speed": {"value": "1e9"}}  # fmt: skip


@cache
def node() -> str:
    """Node: on the path, or the one that comes with playwright."""
    inside = find_spec("playwright")
    own = Path(inside.origin).parent / "driver" / "node" if inside and inside.origin else Path("/nowhere")
    found = shutil.which("node") or (str(own) if own.exists() else None)
    if found is None:
        pytest.skip("needs node: neither on the path nor with playwright (the extra browser)")
    return found


@pytest.fixture(scope="module")
def harness():
    """Node with the harness, which waits for scripts."""
    with subprocess.Popen([node(), str(HARNESS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def run(harness):
    """A function that returns the values of expressions, evaluated one after the other in a page's script."""

    def evaluate(*steps: str, dark: bool = False, absent: tuple[str, ...] = (), **page: object) -> list:
        given = {"script": str(SCRIPT), "page": PAGE | page, "lists": LISTS, "elements": ELEMENTS, "absent": absent,
                 "dark": dark, "steps": steps}  # fmt: skip
        harness.stdin.write(json.dumps(given) + "\n")
        harness.stdin.flush()
        answer = json.loads(harness.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["values"]

    return evaluate


def test_numbers_are_written_as_the_report_writes_them(run):
    values = (
        999.4,
        999.6,
        1000,
        59_400,
        999_400,
        999_600,
        1.234e9,
        9.994e11,
        9.996e11,
        2e12,
        1e15,
        3.5e15,
        7,
        0.5,
        0.0123456,
    )
    assert run(*(f"count({value!r})" for value in values)) == [count(value) for value in values]
    assert run("count(999.5)", "count(999499.9)") == ["1k", "999k"]
    assert run("flops(1.2345e12)", "nats(1.23456)") == ["1.23e+12", "1.2346"]
    assert run("nats(0.0523)", "nats(1.5e-4)", "nats(6.1234e-5)") == ["0.05230", "0.0001500", "6.123e-5"]
    assert run("nats(0.1)", "nats(1e-4)") == ["0.1000", "0.0001000"] == [loss_text(0.1), loss_text(1e-4)]
    open_ = [f"{name}({value})" for name in ("count", "flops", "nats") for value in ("null", "Infinity", "NaN")]
    assert run(*open_) == ["open"] * 9
    assert run("written.tokens === count && written.n_params === count && written.loss === nats") == [True]


def test_the_calculator_interpolates_in_logarithms(run):
    inside = row("flops", 3e11)
    (found,) = run("answer('flops', 3e11)")
    assert found.keys() == inside.keys() - {"given"}
    for name, value in found.items():
        wanted = 3e11 if name.startswith("flops") else inside[name]
        assert value == pytest.approx(wanted, rel=1e-9), name
    by_size, by_tokens = run(f"answer('n_params', {inside['n_params']})", f"answer('tokens', {inside['tokens']})")
    assert (by_size["flops"], by_size["tokens"]) == pytest.approx((3e11, inside["tokens"]))
    assert (by_tokens["flops"], by_tokens["n_params"]) == pytest.approx((3e11, inside["n_params"]))
    assert by_tokens["flops_low"] == pytest.approx(0.9 * 3e11)


def test_the_calculator_goes_on_beyond_its_rows_by_the_two_nearest(run):
    rows = [
        row("flops", 1e10),
        row("flops", 1e11, tokens=5e6),
        row("flops", 1e12, tokens=4e7),
        row("flops", 1e13, tokens=5e8),
    ]
    found = run("answer('flops', 1e9)", "answer('flops', 1e14)", "answer('flops', 1e13)", "answer('flops', 1e11)",
                "answer('flops', 1e12)", "answer('flops', 1e10)", calculator=rows)  # fmt: skip
    first = rows[0]["tokens"]
    wanted = [first * first / 5e6, 5e8 * 12.5, 5e8, 5e6, 4e7, first]
    assert [f["tokens"] for f in found] == pytest.approx(wanted)


@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_what_is_open_at_a_row_is_open_between_rows(run, end, value):
    rows = [row("flops", 1e10), row("flops", 1e12)]
    rows[0 if end == "low" else 1]["loss_low"] = value
    (found,) = run("answer('flops', 1e11)", calculator=rows)
    assert found["loss_low"] is None
    assert found["loss_high"] > 0


def test_what_is_known_at_a_row_is_known_whatever_is_open_before_it(run):
    rows = [row("flops", 1e10, loss_low=0.0), row("flops", 1e11), row("flops", 1e12)]
    (found,) = run("answer('flops', 1e11)", calculator=rows)
    assert found["loss_low"] == pytest.approx(rows[1]["loss_low"])


def test_a_quantity_below_one_is_interpolated_too(run):
    rows = [row("flops", 1e10, loss=0.5), row("flops", 1e12, loss=0.25)]
    (found,) = run("answer('flops', 1e11)", calculator=rows)
    assert found["loss"] == pytest.approx(0.125**0.5)


def test_the_page_opens_at_the_largest_run_with_what_the_law_says_there(run):
    best, place, slider, box, at, more = run(
        "test.elements['#best-n_params'].dataset", "test.elements['#best-flops .span'].textContent",
        "test.elements['#budget']", "test.elements['#exact'].value", "signals.at",
        "['n_params', 'tokens', 'loss'].map((n) => [test.elements[`#best-${n} .value`].textContent, "
        "test.elements[`#best-${n} .span`].textContent])",
    )  # fmt: skip
    wanted = row("flops", 1e12)
    assert (best["value"], best["low"], best["high"]) == pytest.approx(
        tuple(wanted[f"n_params{e}"] for e in ("", "_low", "_high"))
    )
    assert place == "as given"
    assert (slider["min"], slider["max"], slider["value"]) == (10, 15, 12)
    assert slider["attributes"]["aria-valuetext"] == "1.00e+12"
    assert (box, at) == ("1.00e+12", 1e12)
    assert more == [["100k", "90%: 90k to 110k"], ["1.67M", "90%: 1.5M to 1.83M"], ["2.5238", "90%: 2.2714 to 2.7762"]]
    assert run("test.elements['#best-tokens .more'].textContent") == ["16.7 tokens per parameter"]
    assert run("[test.elements['#best-loss'].dataset.low, test.views.isoflop.signals.at]") == [
        [pytest.approx(wanted["loss_low"]), 1e12]
    ]


READ = {
    "1e12": 1e12, " 2.5E13 ": 2.5e13, "1.3T": 1.3e12, "400k": 4e5, "2 m": 2e6, "7B": 7e9, "3g": 3e9, "0": 0.0,
    "-3": -3.0,
    "1,000,000": 1e6, "1,238,144.5": 1238144.5, "1 000 000": 1e6, "1_000": 1e3, "12'500": 12500.0, "1,234.5": 1234.5,
    "2,5e13": 2.5e13, "1,5M": 1.5e6, "0,125": 0.125, "1,2345": 1.2345, "1,23": 1.23, "12,3": 12.3,
    "10^13": 1e13, "2.5 x 10^13": 2.5e13, "3\u00d710^-1": 0.3, "1.": 1.0, ".5": 0.5, "4e+14": 4e14, "1e-3k": 1.0,
}  # fmt: skip
UNREAD = ("", " ", "k", "x", "1e12.5", "1.3TT", "12 apples", "1,2,3", "1,00,000", "1.2.3", "1/2", "0x10", "1e", "NaN",
          "1,234", "12,345k", "999,000e3", "1-2", "1,000.000,000")  # fmt: skip


def test_numbers_are_read_as_tables_are_or_not_at_all(run):
    """Of 1,234 nobody knows whether it is a thousand or one and a bit."""
    assert run(*(f"amount({json.dumps(text)})" for text in READ)) == [pytest.approx(value) for value in READ.values()]
    assert set(run(*(f"String(amount({json.dumps(text)}))" for text in UNREAD))) == {"NaN"}


@pytest.mark.parametrize("text", sorted(set(READ) - {"0", "-3"}))
def test_the_page_reads_a_number_no_other_way_than_a_table(run, text):
    """Where the reader of cells knows a number, too; it has a whole column to tell a decimal comma by."""
    (found,) = run(f"amount({json.dumps(text)})")
    if (known := number(text)) is not None and not re.match(r"0,", text):
        assert found == pytest.approx(known)


def test_what_is_typed_is_used_as_it_stands_or_refused_with_the_reason(run):
    """Rows from 1e10 to 1e15 FLOPs; the answer before is that of the largest run."""
    state = (
        "[signals.at, test.elements['#exact'].value, test.elements['#exact'].attributes['aria-invalid'], "
        "test.elements['#warning'].textContent, test.elements['#warning'].className]"
    )
    typed = {text: run(f"test.fire('#exact', 'change', {{value: {json.dumps(text)}}}), {state}")[0]
             for text in ("1.23456T", "1e10", "1e15", "1M", "1e25", "", "x", "-1", "0", "1,234", "1e16")}  # fmt: skip
    inside = "Inside the range of the runs."
    assert typed["1.23456T"] == [1.23456e12, "1.23456T", "false", "1.2 times beyond the largest run.", ""]
    assert [typed[end][0] for end in ("1e10", "1e15")] == [1e10, 1e15]
    for text, why in (
        ("1M", "lies outside 1e+10 to 1e+15, where this calculator ends"),
        ("1e16", "lies outside 1e+10 to 1e+15, where this calculator ends"),
        ("1e25", "lies outside 1e+10 to 1e+15, where this calculator ends"),
        ("0", "lies outside 1e+10 to 1e+15, where this calculator ends"),
        ("-1", "lies outside 1e+10 to 1e+15, where this calculator ends"),
        ("", "is no number like 1e12, 1.3T or 2,500,000"),
        ("x", "is no number like 1e12, 1.3T or 2,500,000"),
        ("1,234", "may have a comma of thousands or of decimals: write it without"),
    ):
        message = f"Exactly: \u201c{text}\u201d {why}. Shown is 1.00e+12 FLOPs. {inside}"
        assert typed[text] == [1e12, text, "true", message, "beyond"], text


def test_a_refused_value_is_forgotten_when_another_is_chosen(run):
    bad = "test.fire('#exact', 'change', {value: 'x'})"
    state = (
        "[test.elements['#exact'].value, test.elements['#exact'].attributes['aria-invalid'], "
        "test.elements['#warning'].textContent, test.elements['#warning'].className]"
    )
    good = ["false", "Inside the range of the runs.", ""]
    assert run(f"{bad}, test.fire('#budget', 'input', {{value: '11.5'}}), {state}") == [["3.16e+11", *good]]
    assert run(f"{bad}, test.fire('#exact', 'change', {{value: '2e11'}}), {state}") == [["2e11", *good]]
    radio = "test.fire(\"input[name='given']\", 'change', {at: 0})"
    assert run(f"{bad}, {radio}, {state}") == [["1.00e+12", *good]]


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("price", "-3", "Price: \u201c-3\u201d is not 0 or more."),
        ("price", "-0.5", "Price: \u201c-0.5\u201d is not 0 or more."),
        ("price", "", "Price: \u201c\u201d is no number like 1e12, 1.3T or 2,500,000."),
        ("price", "1e999", "Price: \u201c1e999\u201d is beyond 1.8e308."),
        ("speed", "-1", "FLOP/s: \u201c-1\u201d is not above 0."),
        ("speed", "0", "FLOP/s: \u201c0\u201d is not above 0."),
        ("speed", "1e999", "FLOP/s: \u201c1e999\u201d is beyond 1.8e308."),
        ("speed", "1,234", "FLOP/s: \u201c1,234\u201d may have a comma of thousands or of decimals: write it without."),
    ],
)
def test_there_is_no_cost_of_a_price_or_speed_that_is_none(run, field, text, message):
    shown = (
        f"[test.elements['#best-cost .value'].textContent, test.elements['#{field}'].attributes['aria-invalid'], "
        "test.elements['#warning'].textContent, test.elements['#warning'].className]"
    )
    bad, good = run(
        f"test.fire('#{field}', 'input', {{value: {json.dumps(text)}}}), {shown}",
        f"test.fire('#{field}', 'input', {{value: '1k'}}), {shown}",
    )
    assert bad == ["give a price and a speed", "true", f"{message} Inside the range of the runs.", "beyond"]
    assert good[1:] == ["false", "Inside the range of the runs.", ""]
    assert good[0] != bad[0]


def test_slider_and_box_stay_within_the_rows(run):
    """Ends that are no round logarithm: the slider's are the hundredths inside them."""
    rows = [row("flops", 1.02e10), row("flops", 0.99e14)]
    ends, moved, typed, bad = run(
        "[test.elements['#budget'].min, test.elements['#budget'].max]",
        "test.fire('#budget', 'input', {value: '13.5'}), [signals.at, test.elements['#exact'].value, "
        "test.elements['#budget'].attributes['aria-valuetext']]",
        "['1.01e10', '1e20', '2e13'].map((v) => { test.fire('#exact', 'change', {value: v}); return signals.at; })",
        "['0', '-1', 'x', '1e-3'].map((v) => { "
        "test.fire('#exact', 'change', {value: v}); return signals.at; })",
        calculator=rows,
    )  # fmt: skip
    assert ends == [10.01, 13.99]
    assert moved == [pytest.approx(10**13.5), "3.16e+13", "3.16e+13"]
    assert typed == [pytest.approx(10**13.5), pytest.approx(10**13.5), 2e13]
    assert bad == [2e13] * 4
    assert run("range('n_params')") == [[row("n_params", 1e10)["n_params"], row("n_params", 1e15)["n_params"]]]
    assert run("test.fire('#exact', 'change', {value: '0.5'}), signals.at",
               calculator=[row("flops", 0.25), row("flops", 4.0)], fitted=[1, 2]) == [0.5]  # fmt: skip


def test_another_given_quantity_begins_where_the_last_one_was(run):
    boxes = "test.listed(\"input[name='given']\")"
    switched = (
        f"{boxes}.forEach((b, i) => {{ b.checked = i === 1; }}), "
        "test.fire(\"input[name='given']\", 'change', {at: 1}), "
        "[givenQuantity(), test.elements['#exact'].value, signals.at, test.elements['#budget'].value, "
        "test.elements['#best-n_params .span'].textContent, test.elements['#best-flops .span'].textContent]"
    )
    given, box, at, slider, span, other = run(switched)[0]
    assert (given, box, slider, span) == ("n_params", "1.00e+5", 5, "as given")
    assert at == pytest.approx(1e12)
    assert other == "90%: 9.00e+11 to 1.10e+12"


def test_the_price_of_a_compute(run):
    """1e12 FLOPs at 1e9 a second and 3.6 an hour."""
    shown = "[test.elements['#best-cost .value'].textContent, test.elements['#best-cost .span'].textContent]"
    usual = "device-hours at 1.00e+9 FLOP/s, 3.6 each"
    computes = (0, 3.6e10, 3.6e10 * 0.999, 0.999e18, 3.6e18, 1.0049 * 3.6e12)
    steps = [shown] + [f"price({c}), {shown}" for c in computes]
    found = run(*steps)
    assert found[0] == ["1", f"0.278 {usual}"]
    assert found[1] == ["0", f"0 {usual}"]
    assert found[2] == ["0.036", f"0.01 {usual}"]
    assert found[3] == ["0.036", f"9.99e-3 {usual}"]
    assert found[4] == ["999,000", f"278,000 {usual}"]
    assert found[5] == ["3.60e+6", f"1.00e+6 {usual}"]
    assert found[6] == ["3.62", f"1 {usual}"]
    typed = {
        ("speed", "0"): ["give a price and a speed", ""],
        ("price", "0"): ["0", "0.278 device-hours at 1.00e+9 FLOP/s, 0 each"],
        ("price", "0.5"): ["0.139", "0.278 device-hours at 1.00e+9 FLOP/s, 0.5 each"],
        ("speed", "0.5"): ["2.00e+9", "5.56e+8 device-hours at 0.5 FLOP/s, 3.6 each"],
        ("price", "7.2"): ["2", "0.278 device-hours at 1.00e+9 FLOP/s, 7.2 each"],
        ("price", "x"): ["give a price and a speed", "0.278 device-hours at 1.00e+9 FLOP/s"],
    }
    for (field, text), answer in typed.items():
        assert run(f"test.fire('#{field}', 'input', {{value: '{text}'}}), {shown}") == [answer]


def test_how_far_beyond_the_runs_is_said(run):
    """Fitted from 1e11 to 1e12 FLOPs."""
    far = "times beyond the largest run: the interval does not cover a wrong form of the law, see isoflop predict."
    very_far = "times beyond the largest run: trust neither the point nor its interval, see isoflop predict."
    reported = "[test.elements['#warning'].textContent, test.elements['#warning'].className]"
    wanted = {
        "1e12": ("Inside the range of the runs.", ""), "1e11": ("Inside the range of the runs.", ""),
        "1.001e12": ("Inside the range of the runs.", ""), "1.002e12": ("1 times beyond the largest run.", ""),
        "0.9995e11": ("Inside the range of the runs.", ""), "0.999e11": ("Inside the range of the runs.", ""),
        "0.8e11": ("Below the smallest run, by a factor 1.3.", ""), "3e12": ("3 times beyond the largest run.", ""),
        "10e12": ("10 times beyond the largest run.", ""),
        "10.5e12": (f"Extrapolates 11 {far}", "beyond"),
        "100e12": (f"Extrapolates 100 {far}", "beyond"),
        "100.5e12": (f"Extrapolates 100 {very_far}", "beyond"),
        "2222e12": (f"Extrapolates 2200 {very_far}", "beyond"),
    }  # fmt: skip
    found = run(*(f"warn({compute}), {reported}" for compute in wanted))
    assert found == [list(pair) for pair in wanted.values()]


def test_a_brush_picks_the_runs_inside_it_in_every_chart(run):
    picked = "[signals.picked, test.elements['#picked'].textContent, test.views.isoflop.signals.picked]"
    found = run(
        f"test.views.isoflop.brush('brush', {{n_params: [30, 10], loss: [2, 3]}}), {picked}",
        f"pick({{residual: [{math.log(2)!r}, {math.log(4)!r}]}}), {picked}",
        f"pick({{n_params: [0, 100], loss: [5, 6]}}), {picked}", f"pick({{vlPoint: {{}}}}), {picked}",
        f"pick(undefined), {picked}", f"pick({{n_params: [10, 40], residual: [0, 1]}}), {picked}",
    )  # fmt: skip
    assert found[0] == [["r1", "r2", "r3"], "3 of 5 runs brushed", ["r1", "r2", "r3"]]
    assert found[1][0] == ["r1", "r2"]
    assert found[2][:2] == [[], "0 of 5 runs brushed"]
    assert found[3] == found[4] == [None, "", None]
    assert found[5][0] == ["r1"]


def test_charts_are_drawn_with_the_signals_of_the_page(run):
    charts, spec, sent, ran = run(
        "test.specs.map((s) => s.chart)", "test.specs.map((s) => s.spec.params)",
        "test.views.plain.signals", "Object.values(test.views).map((v) => v.ran)",
    )  # fmt: skip
    assert charts == ["isoflop", "residuals", "plain"]
    assert spec[0] == [
        {"name": "law", "value": "chinchilla"}, {"name": "brush", "value": 7}, {"name": "at", "value": 1e12},
    ]  # fmt: skip
    assert sent == {"convention": "one", "laws": ["chinchilla"], "law": "chinchilla", "picked": None, "at": 1e12,
                    "ramp": sent["ramp"]}  # fmt: skip
    assert min(ran) >= 2  # drawn, then updated
    data, options, autosize = run(
        "test.specs[1].spec.datasets", "test.specs[0].options", "test.specs[0].spec.autosize"
    )[0:3]
    assert data == {"own": [1], "points": RUNS}
    assert (options["actions"], options["mode"], options["renderer"]) == (False, "vega-lite", "svg")
    assert autosize == {"type": "fit-x", "contains": "padding"}


def test_what_is_shown_is_written_beside_the_charts(run):
    """In print there are no controls to read it off."""
    shown = "[test.elements['#shown'].textContent]"
    assert run(shown) == [["one; laws chinchilla; residuals of chinchilla"]]
    assert run("signals.laws = [], update(), " + shown) == [["one; laws none; residuals of chinchilla"]]


def test_the_controls_of_the_charts_change_their_signals(run):
    found = run(
        "test.fire('#convention', 'change', {value: 'two'}), "
        "[signals.convention, test.views.isoflop.signals.convention]",
        "pick({n_params: [10, 20]}), signals.picked.length",
        "test.fire('#law', 'change', {value: 'power'}), test.views.residuals.signals.law",
        "test.listed(\"input[name='laws']\")[1].checked = true, test.fire(\"input[name='laws']\", 'change', {at: 1}), "
        "test.views.plain.signals.laws",
        "test.found('#residuals-by').value = 'tokens', test.fire('#residuals-by', 'change'), "
        "[test.specs.length, test.specs[test.specs.length - 1].chart]",
    )  # fmt: skip
    assert found == [["two", "two"], 2, "power", ["chinchilla", "power"], [4, "residuals"]]
    assert run("1", absent=("#convention", "#law")) == [1]


def test_the_theme_is_the_screens_until_it_is_chosen_and_paper_is_light(run):
    theme = "[test.root.dataset.theme, test.views.isoflop.signals.ramp[0]]"
    click, screen = "test.fire('#theme', 'click')", "test.media.listeners.change({{matches: {}}})"
    dark, _, clicked, _, again, _, light, _, bright, _, paper, opened, _, after = run(
        theme, click, theme, click, theme, screen.format("false"), theme, screen.format("true"), theme,
        "test.windowListeners.beforeprint()", theme, "test.listed('details').map((d) => d.open)",
        "test.windowListeners.afterprint()", theme, dark=True,
    )  # fmt: skip
    assert dark[0] == again[0] == bright[0] == "dark"
    assert clicked[0] == light[0] == "light"
    assert paper == ["dark", "#97c7a4"]
    assert opened == [True, True]
    assert after == ["dark", "#3f5f8f"]
    assert run(theme)[0][0] == "light"


def test_a_page_without_a_law_has_no_calculator(run):
    ready, touched = run("window.ready", "'#budget' in test.elements", calculator=None, fitted=None)
    assert (ready, touched) == (True, False)
