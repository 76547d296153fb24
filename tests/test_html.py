"""report.html: whole, safe from what names hold, and alive in a browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from builders import make_ceilings, make_environment, make_record, make_round, make_sweep

from vanbench.record.ceilings import Book
from vanbench.record.record import Failed
from vanbench.record.store import Store
from vanbench.report.columns import COLUMNS
from vanbench.report.findings import findings
from vanbench.report.table import rows
from vanbench.report.to_html import alone, html_page
from vanbench.report.to_markdown import heading_of_run
from vanbench.report.write import redraw, write_report

HOSTILE = 'a:b"><script>alert(1)</script>&lt;'
FAILED = Failed(kind="exception", message="<img src=x onerror=alert(2)>", rerun="vanbench run --models x")


class Page(HTMLParser):
    """The tags that are open when each text comes, ids, and links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if tag == "a":
            self.links.append(str(given.get("href")))
        if tag not in ("meta", "input", "br", "path", "use", "rect", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four cells of different speeds, one of which has a hostile name and one of which failed."""
    path = tmp_path_factory.mktemp("html") / "run"
    sweep = make_sweep(["van_b0", HOSTILE, "resnet18", "resnet50"], batch_size=(8,), question="Is <b>it</b> faster?")
    with Store.create(path, sweep, make_environment()) as store:
        for i, cell in enumerate(sweep.cells()[:3]):
            seconds = (0.1, 0.05, 0.2)[i]
            store.save(make_record(cell, [make_round(f"r{k}", [seconds + k / 1000] * 4) for k in range(5)]))
        store.save(make_record(sweep.cells()[3], [], FAILED))
    write_report(path)
    return path


def test_the_page_is_whole_and_needs_nothing_else(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids)), "ids of several plots do not meet"
    assert {link for link in page.links if link.startswith("#")} <= {f"#{each}" for each in page.ids}
    assert not [link for link in page.links if not link.startswith("#")]
    for tag, given in page.tags:
        assert tag not in ("link", "iframe", "img")
        assert "src" not in given
    # An SVG names its namespaces, which nothing fetches.
    fetched = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert "http://" not in fetched
    assert "https://" not in fetched


def test_names_and_messages_are_text(run: Path) -> None:
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "img" not in [tag for tag, _ in page.tags]
    shown = [text for tag, text in page.texts if tag == "th"]
    assert any(HOSTILE in text for text in shown)
    assert ("p", "Is <b>it</b> faster?") in page.texts
    assert any("onerror=alert(2)" in text for _, text in page.texts)


def test_every_column_is_there_with_its_meaning(run: Path) -> None:
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    titles = {given.get("title") for tag, given in page.tags if tag == "button"}
    assert {column.meaning for column in COLUMNS} <= titles


def test_each_plot_names_itself_and_the_rows_it_is_made_of(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    plots = [path.stem for path in (run / "plots").glob("*.svg")]
    assert text.count("<figure role=") == len(plots) > 1
    assert text.count("<figcaption>") == len(plots)
    page = Page(text)
    assert page.links.count("#row-1") == len(plots)
    assert "#row-4" not in page.links, "what failed is in no plot"
    # The plots' words can be searched and read aloud.
    assert any("images/s" in said for tag, said in page.texts if tag == "text")


def test_what_was_measured_comes_first() -> None:
    sweep = make_sweep(["van_b0", "resnet18"], batch_size=(8,))
    first, second = sweep.cells()[:2]
    table = rows(sweep, make_environment(), [make_record(first, [], FAILED), make_record(second)])
    text = html_page(table, heading_of_run(sweep, make_environment()), [("a", "A title", "", "no <data>")])
    assert text.index('id="row-2"') < text.index('id="row-1"')
    assert "No figure “A title”: no &lt;data&gt;." in text


def test_a_drawings_ids_are_its_own() -> None:
    svg = (
        '<?xml version="1.0"?><svg width="9pt" height="8pt" viewBox="0 0 9 8"><metadata>x</metadata>'
        '<path id="p1"/><use xlink:href="#p1" clip-path="url(#p1)" width="3"/></svg>'
    )
    assert alone(svg, "a/b") == (
        '<svg viewBox="0 0 9 8" style="max-width: 9pt"><path id="a_b-p1"/>'
        '<use xlink:href="#a_b-p1" clip-path="url(#a_b-p1)" width="3"/></svg>'
    )


def test_one_page_holds_every_machines_findings_tables_and_plots(run: Path, tmp_path: Path) -> None:
    for machine in ("one-machine", "other-machine"):
        folder = tmp_path / machine
        folder.mkdir()
        (folder / "environment.json").write_bytes((run / "environment.json").read_bytes())
        (folder / "speed.csv").write_bytes((run / "results.csv").read_bytes())
        (folder / "speed-ratio.svg").write_bytes((run / "plots" / "ratio.svg").read_bytes())
        (folder / "speed_again.csv").write_bytes((run / "results.csv").read_bytes())
        (folder / "foreign.csv").write_text("a,b\n1,2\n")
    (tmp_path / "README.md").write_text(
        "| experiment | finding |\n|---|---|\n| [speed](x) ([table](one-machine/speed.csv)) | `a` is <b> [fast](y) |\n"
    )
    (written,) = redraw(tmp_path)
    assert written == tmp_path / "report.html"
    page = Page(written.read_text(encoding="utf-8"))
    assert len(page.ids) == len(set(page.ids))
    assert {link for link in page.links if link.startswith("#")} <= {f"#{each}" for each in page.ids}
    said = [text.strip() for tag, text in page.texts if tag in ("p", "h2")]
    assert said.count("a is <b> fast") == 1
    assert said.count("speed") == said.count("speed_again") == 2
    assert "foreign" not in said
    # What the README tells of comes first, whatever it is called.
    (tmp_path / "one-machine" / "a_first.csv").write_bytes((run / "results.csv").read_bytes())
    redraw(tmp_path)
    again = Page(written.read_text(encoding="utf-8"))
    titles = [text for tag, text in again.texts if tag == "h2"]
    assert titles.index("speed") < titles.index("a_first") < titles.index("speed_again")
    assert [tag for tag, _ in page.tags].count("figure") == 2


def test_what_follows_from_rows_is_on_the_page_and_is_text_too(tmp_path: Path) -> None:
    sweep = make_sweep(["van_b0", HOSTILE, "resnet18"], batch_size=(8,), memory_format=("contiguous", "channels_last"))
    table = rows(sweep, make_environment(), [make_record(cell) for cell in sweep.cells()])
    page = Page(html_page(table, heading_of_run(sweep, make_environment()), []))
    titles = [text for tag, text in page.texts if tag == "h3"]
    assert titles == ["What memory format is worth", "Order of the models"]
    assert page.open == []
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert any(text.startswith(HOSTILE) for tag, text in page.texts if tag == "th")


def test_the_ceilings_of_a_run_are_a_section_of_their_own() -> None:
    sweep = make_sweep(["van_b0"], batch_size=(8,))
    table = rows(sweep, make_environment(), [make_record(sweep.cells()[0])])
    svg = "<svg><text>GB/s</text></svg>"
    plots = [("ratio", "Ratios", "<svg></svg>", ""), ("ceilings", "Roofs", svg, "")]
    text = html_page(table, heading_of_run(sweep, make_environment()), plots, Book(entries=(make_ceilings(),)))
    page = Page(text)
    assert [said for tag, said in page.texts if tag == "h2"][:2] == ["The table and its plots", "The measured ceilings"]
    assert text.index("The measured ceilings") < text.index("GB/s</text>")
    assert "With 2 threads" in [said for tag, said in page.texts if tag == "h3"]
    assert any(said == "multiply-add, fp32" for tag, said in page.texts if tag == "th")
    without = html_page(table, heading_of_run(sweep, make_environment()), [])
    assert "The measured ceilings" not in without


def test_the_projects_own_results_make_a_page(tmp_path: Path) -> None:
    results = Path(__file__).parents[1] / "results"
    found = findings(results.joinpath("README.md").read_text(encoding="utf-8"))
    named = {(file.parent.name, file.stem) for file in results.glob("*/*.csv")}
    assert len(found) > 15
    assert {table for finding in found for table in finding.tables} <= named


# --- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install 'vanbench[test]'")
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if driver is None or chromium is None:
        pytest.skip("no chromium and chromedriver on the path (Debian: apt install chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    assert selenium
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


@pytest.fixture
def opened(browser: Any, run: Path) -> Any:
    browser.set_window_size(1200, 900)
    browser.get((run / "report.html").as_uri())
    return browser


def shown(opened: Any) -> list[str]:
    script = "return [...document.querySelectorAll('table.cells tbody tr')].filter(r => !r.hidden).map(r => r.id)"
    found: list[str] = opened.execute_script(script)
    return found


def press(opened: Any, called: str) -> Any:
    button = next(b for b in opened.find_elements("css selector", "table.cells thead button") if b.text == called)
    button.click()
    return button.find_element("xpath", "..")


def test_a_heading_sorts_and_sorts_back_with_the_absent_last(opened: Any) -> None:
    head = press(opened, "images/s")
    assert head.get_attribute("aria-sort") == "ascending"
    assert shown(opened) == ["row-3", "row-1", "row-2", "row-4"]
    head = press(opened, "images/s")
    assert head.get_attribute("aria-sort") == "descending"
    assert shown(opened) == ["row-2", "row-1", "row-3", "row-4"]
    for _ in range(2):
        press(opened, "reason")
        assert shown(opened)[0] == "row-4", "the only one that has a reason, whichever way"
    press(opened, "cell")
    assert shown(opened)[0] == "row-2"
    assert head.get_attribute("aria-sort") is None


def test_words_choose_rows_and_the_count_is_said(opened: Any) -> None:
    field = opened.find_element("id", "filter")
    field.send_keys("RESNET measured")
    assert shown(opened) == ["row-3"]
    assert opened.find_element("id", "said").text == "1 of 4 rows"
    opened.execute_script("location.hash = '#row-1'")
    opened.execute_async_script("setTimeout(arguments[0], 100)")
    assert len(shown(opened)) == 4, "a link to a hidden row shows it"


def test_all_columns_are_shown_if_asked(opened: Any) -> None:
    extra = opened.find_element("css selector", "table.cells thead th.extra")
    assert not extra.is_displayed()
    opened.find_element("id", "all").click()
    assert extra.is_displayed()


def test_the_browser_has_nothing_to_complain_of_and_runs_nothing_foreign(opened: Any) -> None:
    press(opened, "ratio")
    assert [entry for entry in opened.get_log("browser") if entry["level"] != "INFO"] == []
    with pytest.raises(Exception, match="no such alert"):
        _ = opened.switch_to.alert
    assert HOSTILE in opened.find_element("id", "row-2").text


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_itself_never_scrolls_sideways(opened: Any, width: int) -> None:
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_the_paper(opened: Any, scheme: str) -> None:
    """WCAG's contrast, 4.5 at least, of every kind of text on what lies behind it."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    colours = opened.execute_script(
        """
        const of = (selector, name) => getComputedStyle(document.querySelector(selector)).getPropertyValue(name);
        const paper = of("body", "background-color");
        return [["body", paper], ["a", paper], ["dt", paper], ["caption", paper],
                ["thead th", of("thead th", "background-color")]].map(([s, b]) => [s, of(s, "color"), b]);
        """
    )
    for selector, ink, paper in colours:
        assert contrast(ink, paper) >= 4.5, (selector, ink, paper)


def test_the_page_of_all_results_lives_too(browser: Any, tmp_path: Path) -> None:
    """The project's own results: every table sorts by itself, words choose rows of all of them, nothing complains."""
    results = tmp_path / "results"
    shutil.copytree(Path(__file__).parents[1] / "results", results)
    (page,) = redraw(results)
    browser.set_window_size(1200, 900)
    browser.get(page.as_uri())
    tables = browser.find_elements("css selector", "table.cells")
    assert len(tables) > 8
    order = (
        "return [...document.querySelectorAll('table.cells')].map(t => [...t.tBodies[0].rows].map(r => r.id).join())"
    )
    before = browser.execute_script(order)
    first = tables[0].find_element("css selector", "thead th.number button")
    browser.execute_script("arguments[0].click(); arguments[0].click()", first)
    after = browser.execute_script(order)
    assert after[0] != before[0]
    assert after[1:] == before[1:]
    browser.find_element("id", "filter").send_keys("convnext_tiny channels_last")
    seen = shown(browser)
    assert 0 < len(seen) < sum(len(each.split(",")) for each in before)
    hidden = browser.execute_script("return document.querySelectorAll('figure svg text').length")
    assert hidden > 500, "the plots' words can be searched"
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 1200


def contrast(one: str, other: str) -> float:
    """Of two colours as a browser says them, by WCAG 2's formula."""

    def luminance(colour: str) -> float:
        parts = [int(each) / 255 for each in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)
