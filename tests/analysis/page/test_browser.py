"""report.html in a real browser: it works, asks nothing of the network, and its numbers are Python's."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from isoflop.analysis.evidence import Evidence
from isoflop.analysis.page.page import page
from isoflop.analysis.style import count
from isoflop.scaling.design.simulate import simulate_points
from isoflop.scaling.laws.chinchilla import Chinchilla

pytestmark = pytest.mark.browser
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
QUANTITIES = {"n_params": "N", "tokens": "D", "loss": "loss"}
POINT = "path[aria-roledescription='point']"

# Every piece of visible text whose contrast with what lies behind it is under 4.5 : 1, as [contrast, text].
CONTRAST = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92
    : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  const behind = (element) => { for (let e = element; e; e = e.parentElement) {
    const c = channels(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; }
    return [255, 255, 255]; };
  const low = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || ["SCRIPT", "OPTION"].includes(element.tagName)) continue;
    if (!element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const ink = channels(element instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    seen += 1;
    if (contrast < 4.5) low.push([contrast, walker.currentNode.data.trim()]);
  }
  return { seen, low };
}"""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    if not Path(CHROMIUM).exists():
        pytest.skip("needs a browser: chromium is not installed")
    with sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def evidence(study_table):
    """A study by three laws: the one that is preferred, another, and one that is far off."""
    with pytest.MonkeyPatch.context() as patch:
        laws = ("chinchilla", "chinchilla-tied", "power-n")
        patch.setattr("isoflop.analysis.evidence.candidates", lambda points: laws)
        yield Evidence(study_table, law="chinchilla", n_draws=100)


@pytest.fixture(scope="module")
def file(evidence, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(evidence, missing={"multiplier": "one <b>arm</b>"}, provenance="- here"), encoding="utf-8")
    return path


@pytest.fixture
def visit(browser):
    """Opens a file and returns the page; nothing may have gone wrong when the test ends."""
    opened, faults = [], []

    def visit(path: Path, **context):
        tab = browser.new_page(**({"viewport": {"width": 1100, "height": 800}} | context))
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else 0)
        tab.on("request", lambda request: faults.append(request.url) if not request.url.startswith("file:") else 0)
        tab.goto(f"file://{path}")
        assert tab.evaluate("window.ready") is True
        opened.append(tab)
        return tab

    yield visit
    for tab in opened:
        tab.close()
    assert not faults


def slide(tab, log_compute: float) -> None:
    tab.locator("#budget").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", log_compute
    )


def shown(tab, name: str) -> dict:
    place = tab.locator(f"#best-{name}")
    values = {k: float(place.get_attribute(f"data-{k}")) for k in ("value", "low", "high")}
    return values | {"text": place.locator(".value").inner_text()}


# Cells of tables whose text is broken inside a word or a number, as [lines, text].
BROKEN = """() => [...document.querySelectorAll(".scroll td, .checks td:nth-child(3)")].flatMap((cell) => {
  const range = document.createRange(), broken = [];
  const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) for (const word of walker.currentNode.data.matchAll(/[^\\s-]+/g)) {
    range.setStart(walker.currentNode, word.index);
    range.setEnd(walker.currentNode, word.index + word[0].length);
    const tops = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
    if (tops.size > 1) broken.push([tops.size, word[0]]);
  }
  return broken;
})"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_but_tables_and_formulas_scrolls_sideways_and_no_word_of_a_table_is_broken(visit, file, width):
    long = "- " + "a-file-with-a-name-that-has-no-place-to-break-" * 4
    file.with_name("long.html").write_text(file.read_text().replace("<li>here</li>", f"<li>{long}</li>"))
    tab = visit(file.with_name("long.html"), viewport={"width": width, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert "to-break" in tab.locator("#provenance").inner_text()
    assert tab.locator(".scroll td").count() > 50
    assert tab.evaluate(BROKEN) == []


@pytest.mark.slow
def test_the_law_is_set_as_mathematics_and_what_nobody_would_use_is_folded(visit, file, evidence):
    tab = visit(file)
    formula = tab.locator("#verdict math").first
    assert formula.locator("msup").count() >= 2
    assert f"{evidence.fit.law.alpha:.4f}" in formula.text_content()
    said = tab.locator("#verdict p", has_text="Losses are in nats/token. By this law the best model size grows as C")
    assert said.count() == 1
    assert "N^" not in tab.locator("#verdict").inner_text()
    assert "one <b>arm</b>" in tab.locator("#missing").inner_text(), "what a table says stays text"
    board = tab.locator("#scoreboard")
    assert "the scoreboard prefers chinchilla-tied" in board.locator("p").first.inner_text()
    far = board.locator("details td").first
    assert not far.is_visible()
    board.locator("summary").click()
    assert far.is_visible()


def test_the_slider_gives_pythons_numbers(visit, file, evidence):
    tab = visit(file)
    for compute in (10**10.5, 1e12, 1e14):
        slide(tab, np.log10(compute))
        best = evidence.fit.optimal(compute)
        for name, letter in QUANTITIES.items():
            found, true = shown(tab, name), float(getattr(best, letter))
            assert found["value"] == pytest.approx(true, rel=1e-4)
            assert found["text"] == (f"{true:.4f}" if name == "loss" else count(true))
            interval = evidence.draws.interval(
                lambda law, c=compute, letter=letter: getattr(law.optimal(c, evidence.fit.cost), letter)
            )
            assert (found["low"], found["high"]) == pytest.approx(interval, rel=5e-4)


def test_a_size_or_a_number_of_tokens_can_be_given_and_far_beyond_the_runs_it_warns(visit, file, evidence):
    tab, compute = visit(file), 3e11
    best = evidence.fit.optimal(compute)
    for given, letter in (("n_params", "N"), ("tokens", "D")):
        tab.locator(f"input[name='given'][value='{given}']").check()
        tab.locator("#exact").fill(f"{getattr(best, letter):.8g}")
        tab.keyboard.press("Enter")
        assert shown(tab, "flops")["value"] == pytest.approx(compute, rel=1e-3)
        assert shown(tab, "loss")["value"] == pytest.approx(float(best.loss), rel=1e-4)
        assert shown(tab, given)["low"] == shown(tab, given)["high"]
    tab.locator("input[name='given'][value='flops']").check()
    slide(tab, 11.0)
    assert "Inside" in tab.locator("#warning").inner_text()
    slide(tab, 15.0)
    factor = 1e15 / evidence.points.frame["flops"].max()
    assert factor > 100
    assert "trust neither the point nor its interval" in tab.locator("#warning").inner_text()
    tab.locator("#price").fill("3600")
    tab.locator("#speed").fill("1e15")
    assert tab.locator("#best-cost .value").inner_text() == "1"


def test_what_is_typed_is_used_or_refused_in_sight(visit, file):
    tab = visit(file)
    before = shown(tab, "n_params")
    for text in ("1.3X", "1e25", "", "1,234"):
        tab.locator("#exact").fill(text)
        tab.keyboard.press("Enter")
        assert tab.locator("#exact").input_value() == text
        assert tab.locator("#exact").get_attribute("aria-invalid") == "true"
        assert f"\u201c{text}\u201d" in tab.locator("#warning").inner_text()
        assert shown(tab, "n_params") == before
    tab.locator("#exact").fill("0.3T")
    tab.keyboard.press("Enter")
    assert shown(tab, "flops")["value"] == 3e11
    tab.locator("#price").fill("-3")
    assert tab.locator("#best-cost .value").inner_text() == "give a price and a speed"
    assert tab.locator("#price").get_attribute("aria-invalid") == "true"


def test_everything_is_reached_by_the_keyboard(visit, file):
    tab = visit(file)
    reached = []
    for _ in range(80):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.id || document.activeElement.name || ''"))
        if reached[-1] == "budget":
            before = shown(tab, "n_params")["value"]
            tab.keyboard.press("ArrowRight")
            assert shown(tab, "n_params")["value"] > before
    wanted = {"theme", "given", "budget", "exact", "price", "speed", "convention", "laws", "law", "residuals-by"}
    assert wanted <= set(reached)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_and_axe_finds_no_error(visit, file, scheme):
    from axe_playwright_python.sync_playwright import Axe

    tab = visit(file, color_scheme=scheme)
    for part in tab.locator("summary").all():
        part.click()
    violations = Axe().run(tab).response["violations"]
    assert [(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in violations] == []
    found = tab.evaluate(CONTRAST)
    assert found["seen"] > 300
    assert found["low"] == []
    tab.locator("#theme").click()
    tab.wait_for_function("old => document.documentElement.dataset.theme !== old", arg=scheme)
    assert tab.evaluate(CONTRAST)["low"] == []


def test_a_run_tells_who_it_is_and_a_brush_picks_runs(visit, file, study_table):
    tab = visit(file)
    chart = tab.locator("[data-chart='isoflop']")
    chart.scroll_into_view_if_needed()
    chart.locator(POINT).first.hover(force=True)
    tab.wait_for_selector("#vg-tooltip-element.visible")
    assert any(run in tab.locator("#vg-tooltip-element").inner_text() for run in study_table["run_id"].unique())
    box = chart.bounding_box()
    tab.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 20)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 200, steps=5)
    tab.mouse.up()
    tab.wait_for_function("document.querySelector('#picked').textContent.includes('brushed')")
    dim = tab.locator(f"[data-chart='compute'] {POINT}[opacity='0.12']").count()
    assert dim > 0, "the other charts show the same runs"


def test_conventions_and_laws_are_switched(visit, file):
    tab = visit(file)
    points, lines = (
        "[data-chart='isoflop'] path[aria-roledescription='point']",
        "[data-chart='isoflop'] .mark-line path",
    )
    before = tab.locator(points).first.get_attribute("aria-label")
    drawn = tab.locator(lines).count()
    tab.locator("#convention").select_option(index=1)
    tab.wait_for_function(
        "([selector, label]) => document.querySelector(selector).getAttribute('aria-label') !== label",
        arg=[points, before],
    )
    tab.locator("input[name='laws']").nth(1).check()
    tab.wait_for_function("([selector, n]) => document.querySelectorAll(selector).length === 2 * n", arg=[lines, drawn])
    looks = tab.locator(lines).evaluate_all(
        "paths => paths.map((p) => [p.getAttribute('stroke'), p.getAttribute('stroke-dasharray')].join())"
    )
    assert len(set(looks)) == 2, "a look a law"
    legend = tab.locator("[data-chart='isoflop'] .role-legend-label")
    drawn_laws = tab.locator("input[name='laws']:checked").evaluate_all("boxes => boxes.map((box) => box.value)")
    assert legend.all_text_contents() == drawn_laws
    tab.locator("#residuals-by").select_option("tokens")
    tab.wait_for_selector("[data-chart='residuals'] [aria-label*='training tokens D']", state="attached")


def test_a_table_that_holds_no_law_still_opens(visit, tmp_path):
    few = simulate_points(Chinchilla(1.0, 30.0, 300.0, 0.4, 0.4), [1e4, 1e5], [1e6, 1e7])
    path = tmp_path / "few.html"
    path.write_text(page(Evidence(few), missing={}, provenance="- none"), encoding="utf-8")
    tab = visit(path)
    assert "cannot determine" in tab.locator("#verdict").inner_text()
    assert "Not available" in tab.locator("#calculator").inner_text()


def test_paper_holds_the_whole_page(visit, file):
    """At the width between the margins of A4 nothing is cut, nor hidden in a box that scrolls."""
    tab = visit(file, viewport={"width": 1280, "height": 800})
    tab.emulate_media(media="print")
    tab.set_viewport_size({"width": 718, "height": 1000})
    tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    outside = (
        "[...document.querySelectorAll('main td, main th, main p, main math, main li, main svg')]"
        ".filter((e) => e.getBoundingClientRect().right > 718).map((e) => e.textContent)"
    )
    assert tab.evaluate(outside) == []
    hidden = "[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth + 1).length"
    assert tab.evaluate(hidden) == 0


def test_paper_is_light_whatever_the_screen_is(visit, file):
    """Printed from the dark theme: dark text on white, and no mark of a chart too pale to see."""
    tab = visit(file, color_scheme="dark")
    fills = "[...document.querySelectorAll(\"path[aria-roledescription='point']\")].map((p) => p.getAttribute('fill'))"
    before = set(tab.evaluate(fills))
    tab.emulate_media(media="print", color_scheme="dark")
    tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate(CONTRAST)["low"] == []
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    after = set(tab.evaluate(fills))
    assert after.isdisjoint(before - {"transparent"})
    for fill in after - {"transparent"}:
        channels = (
            [int(c) for c in re.findall(r"\d+", fill)] if fill.startswith("rgb") else list(bytes.fromhex(fill[1:]))
        )
        assert min(channels) < 180, f"{fill} is pale on white"
    tab.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert set(tab.evaluate(fills)) == before
