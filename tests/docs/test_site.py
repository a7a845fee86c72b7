"""The site in a real browser: reachable, readable in both schemes at both widths, and nothing asked of the network."""

import functools
import html.parser
import http.server
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from docs import build
from tests.support.root import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow]
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
# A question: the page of its answer, which the front page leads to, and words of that answer.
PATHS = {
    "how do I fit my own CSV": ("your-table", "isoflop fit runs.csv"),
    "why does my exponent differ from Chinchilla's": ("why-exponents-differ", "What N counts"),
    "which of two architectures should I scale": ("comparing-arms", "isoflop multiplier"),
    "how do I run this on SLURM": ("clusters", "hydra/launcher=slurm_cpu"),
    "what will 10x compute reach and how sure is that": ("forecasting", "isoflop predict"),
}
# The text of the article of a page, as far as it needs no layout.
TEXT = """async (address) => {
  const page = new DOMParser().parseFromString(await (await fetch(address)).text(), "text/html");
  return page.querySelector("main article").textContent;
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the site, built from pages whose commands are shown and not run (test_build runs them)."""
    folder = tmp_path_factory.mktemp("site")
    pages = folder / "build" / "docs"
    pages.mkdir(parents=True)
    for path in build.pages():
        (pages / path.name).write_text(build.on_site(path.read_text()))
    for path in build.assets():
        shutil.copy(path, pages)
    for name, text in build.generated_pages().items():
        (pages / name).parent.mkdir(exist_ok=True)
        (pages / name).write_text(text)
    shutil.copy(ROOT / "mkdocs.yml", folder)
    zensical = Path(sys.executable).parent / "zensical"
    done = subprocess.run([zensical, "build", "--strict"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[str]:
    """Address of the site."""
    handler = functools.partial(_Quiet, directory=str(folder / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    if not Path(CHROMIUM).exists():
        pytest.skip("needs a browser: chromium is not installed")
    with sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


class _Links(html.parser.HTMLParser):
    """The addresses that a page of HTML leads to, and the names that may be led to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("href", "src"):
                self.links.add(value)
            elif value and name in ("id", "name"):
                self.names.add(value)


def test_every_link_of_the_site_leads_somewhere(folder: Path):
    """Pages, headings, figures, styles and scripts: of every page of the site, by its files."""
    pages = {path: _Links(path.read_text()) for path in (folder / "site").rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 40
    broken, seen = [], 0
    for path, page in pages.items():
        for link in page.links:
            target, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            file = (path.parent / target).resolve() if target else path
            seen += 1
            if not file.exists() or (anchor and file in pages and anchor not in pages[file].names):
                broken.append((path.name, link))
    assert broken == []
    assert seen > 1000


@pytest.fixture(scope="module")
def front(site: str, browser: Any) -> Iterator[Any]:
    """The front page, opened."""
    page = browser.new_page()
    page.goto(f"{site}/index.html")
    yield page
    page.close()


@pytest.mark.parametrize("question", PATHS)
def test_an_answer_is_one_click_from_the_front_page(front: Any, question: str):
    """The link can be clicked: it is seen and nothing lies over it. To load each page would cost two seconds."""
    name, words = PATHS[question]
    link = front.locator(f"main article a[href*='{name}']").first
    link.click(trial=True)
    address = link.evaluate("link => link.href")
    assert address.split("#")[0].endswith(f"/{name}.html")
    assert words in front.evaluate(TEXT, address)


def test_a_click_opens_the_page(site: str, browser: Any):
    page = browser.new_page()
    page.goto(f"{site}/index.html")
    name, words = next(iter(PATHS.values()))
    page.locator(f"main article a[href*='{name}']").first.click()
    page.wait_for_url(f"**/{name}.html*")
    assert words in page.locator("main article").inner_text()
    page.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_pages_are_readable_and_ask_nothing_of_the_network(site: str, browser: Any, width: int, scheme: str):
    from axe_playwright_python.sync_playwright import Axe

    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    requested, errors, bad = [], [], []
    page.on("request", lambda request: requested.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    for name in (
        "index",
        "your-table",
        "why-exponents-differ",
        "laws/index",
        "laws/chinchilla",
        "commands/fit",
        "python",
    ):
        page.goto(f"{site}/{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        found = Axe().run(page)
        bad += [(name, v["id"], [n["html"] for n in v["nodes"]][:3]) for v in found.response["violations"]]
    assert bad == []
    assert errors == []
    assert [url for url in requested if not re.match(rf"{re.escape(site)}|data:|blob:", url)] == []
    page.close()
