"""The page in a real browser, Chromium without a window: what a reader clicks, types, points at and prints."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memprof.record import Record
from memprof.report.page import html

pytestmark = pytest.mark.browser
Make = Callable[..., Record]
GIB = 2**30
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = "<script>document.title='taken'</script><img src=https://evil.example/x>"
WIDTHS = (360, 800, 1400)


class Page:
    """A page that is open, and what a test asks of it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, file: Path, width: int = 1400, scheme: str = "light") -> None:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.driver.get(file.as_uri())

    def ask(self, expression: str) -> Any:
        return self.driver.execute_script(f"return {expression}")

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def point_at(self, element: Any) -> None:
        """Bring it on the screen first: a page that scrolls afterwards takes its tips away."""
        from selenium.webdriver import ActionChains

        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        self.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        ActionChains(self.driver).move_to_element(element).perform()

    def rows(self) -> list[str]:
        """Methods in the table's order, as far as they are shown."""
        return list(
            self.ask(
                "[...document.querySelectorAll('#comparison tbody tr')]"
                ".filter((row) => !row.hidden).map((row) => row.cells[0].textContent)"
            )
        )

    def requests(self) -> list[str]:
        """Every address that anything on the page asked for since the last call."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        return [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Page]:
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver_binary = shutil.which("chromedriver")
    if binary is None or driver_binary is None:
        pytest.skip("no Chromium with its driver on this machine")
    options = selenium.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--lang=en-US"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(driver_binary))
    yield Page(driver)
    driver.quit()


@pytest.fixture
def file(record: Make, tmp_path: Path) -> Path:
    """AdamW, two methods, a name that is markup, and a cell without figures."""
    records = [
        record("adamw", (2, 2, 4, 1, 1), timeline=True, speed=20.0),
        record("galore", (2, 2, 1, 1, 1), timeline=True, speed=15.0, hyperparameters={"rank": 64}),
        record("galore", (2, 2, 2, 1, 1), timeline=True, speed=14.0, hyperparameters={"rank": 128}),
        record(HOSTILE, (2, 0, 0, 1, 1), timeline=True, speed=30.0),
        record("dora", formula=False, trace=False, status="oom", reason=HOSTILE),
    ]
    place = tmp_path / "report.html"
    place.write_text(html(records, environment={"torch": "2.13"}, commands=["memprof compare"]), encoding="utf-8")
    return place


@pytest.fixture
def page(chromium: Page, file: Path) -> Page:
    chromium.open(file)
    return chromium


ORDER = ["adamw", "galore rank=64", "galore rank=128", HOSTILE, "dora"]


def test_a_header_sorts_by_bytes_and_back(page: Page) -> None:
    assert page.rows() == ORDER
    button = next(each for each in page.all("#comparison th button") if each.text.startswith("Peak"))
    button.click()
    assert page.rows() == [HOSTILE, "galore rank=64", "galore rank=128", "adamw", "dora"], "what is unknown comes last"
    assert page.ask("document.querySelector('th[aria-sort]').textContent") == "Peak"
    button.click()
    assert page.rows() == ["adamw", "galore rank=128", "galore rank=64", HOSTILE, "dora"]
    bars = [bar.get_attribute("data-row") for bar in page.all("#memory .bar")]
    assert bars == [row.get_attribute("data-row") for row in page.all("#comparison tbody tr")]


def test_words_filter_table_and_bars(page: Page) -> None:
    field = page.one("#filter")
    field.send_keys("GALORE 64")
    assert page.rows() == ["galore rank=64"] and page.one("#count").text == "1 of 5"
    assert [bar.is_displayed() for bar in page.all("#memory .bar")].count(True) == 1
    field.clear()
    field.send_keys("oom")
    assert page.rows() == ["dora"], "the status is a word too"
    field.clear()
    field.send_keys("oom, rank=64,")
    assert page.rows() == ["galore rank=64", "dora"], "a comma means or"
    field.clear()
    field.send_keys("nothing like it")
    assert page.rows() == []


BROKEN = """(() => {
  const broken = [], nodes = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (nodes.nextNode()) {
    for (const word of nodes.currentNode.data.matchAll(/[\\w.=]+/g)) {
      const range = document.createRange();
      range.setStart(nodes.currentNode, word.index);
      range.setEnd(nodes.currentNode, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map((box) => box.top)).size > 1) broken.push(word[0]);
    }
  }
  return broken;
})()"""


@pytest.mark.parametrize("width", [360, 390])
def test_a_phone_breaks_no_number(chromium: Page, record: Make, tmp_path: Path, width: int) -> None:
    settings = [{"rank": rank, "update_gap": 1000} for rank in (128, 1024)]
    records = [record(name, batch_size=batch, hyperparameters=each, given=["update_gap"], timeline=True)
               for name in ("adamw", "galore") for batch in (4, 128) for each in settings]  # fmt: skip
    place = tmp_path / "report.html"
    place.write_text(html(records, environment={}), encoding="utf-8")
    chromium.open(place, width)
    assert chromium.ask(BROKEN) == []


def test_pointing_at_a_size_tells_its_bytes(page: Page) -> None:
    cell = page.one(f"#comparison td[data-tip='{10 * GIB:,} bytes']")
    page.point_at(cell)
    assert page.one("#tip").text == f"{10 * GIB:,} bytes"
    page.point_at(page.one("h2"))
    assert not page.one("#tip").is_displayed()
    page.point_at(page.one("#memory .bar svg"))
    assert f"optimizer state {4 * GIB:,} bytes" in page.one("#tip").text


def test_the_keyboard_reaches_every_cell(page: Page) -> None:
    from selenium.webdriver import Keys

    page.driver.execute_script("document.querySelector('#comparison tbody td').focus()")
    page.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    page.driver.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert page.driver.switch_to.active_element.get_attribute("data-tip") == f"{7 * GIB:,} bytes"
    assert page.one("#tip").is_displayed() and page.one("#tip").text == f"{7 * GIB:,} bytes"
    page.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not page.one("#tip").is_displayed()
    assert page.ask("document.querySelectorAll('#comparison td[tabindex=\"0\"]').length") == 1


def test_a_timeline_zooms_by_buttons_keys_and_dragging(page: Page) -> None:
    from selenium.webdriver import ActionChains, Keys

    def window() -> list[float]:
        return [float(part) for part in page.one(".areas").get_dom_attribute("viewBox").split()]

    plot = page.one("figure.timeline .plot")
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    assert window() == [0, 0, 1000, 1000]
    page.one("figure.timeline button[data-do=in]").click()
    assert window()[2] == 500
    page.one("figure.timeline button[data-do=all]").click()
    plot.send_keys("+")
    assert window()[2] == 500
    plot.send_keys(Keys.ESCAPE)
    assert window()[2] == 1000
    width = plot.size["width"]
    drag = ActionChains(page.driver).move_to_element_with_offset(plot, -width // 4, 0).click_and_hold()
    drag.move_to_element_with_offset(plot, width // 4, 0).release().perform()
    left, _, across, _ = window()
    assert left == pytest.approx(250, abs=8) and across == pytest.approx(500, abs=16)


def test_a_timeline_tells_the_bytes_of_each_instant(page: Page) -> None:
    from selenium.webdriver import Keys

    plot, told = page.one("figure.timeline .plot"), page.one("figure.timeline .readout")
    plot.send_keys(Keys.END)
    assert told.text.startswith(f"optimizer, 1,000 of 1,000: {6 * GIB:,} bytes"), "the steady state"
    plot.send_keys(Keys.HOME)
    for _ in range(2):
        plot.send_keys(Keys.ARROW_RIGHT)
    assert told.text.startswith(f"backward, 310 of 1,000: {10 * GIB:,} bytes"), "the peak"


def test_another_method_takes_the_lower_timelines_place(page: Page) -> None:
    from selenium.webdriver.support.select import Select

    def shown() -> list[str]:
        figures = [each for each in page.all("figure.timeline") if each.is_displayed()]
        return [each.find_element("css selector", "b").text for each in figures]

    assert shown() == ["adamw", "galore rank=64"]
    Select(page.one("#which")).select_by_visible_text("galore rank=128")
    assert shown() == ["adamw", "galore rank=128"]


def test_names_are_shown_as_text_and_nothing_runs(page: Page) -> None:
    assert HOSTILE in page.rows() and page.driver.title.startswith("1b: memory")
    assert page.ask("document.images.length") == 0
    assert page.ask("document.scripts.length") == 3
    assert HOSTILE in page.one("#memory").text


def test_no_request_leaves_and_the_console_is_silent(chromium: Page, file: Path) -> None:
    chromium.requests(), chromium.complaints()
    for width in WIDTHS:
        chromium.open(file, width)
        chromium.one("#filter").send_keys("galore")
        chromium.one("#save").click()
    asked = chromium.requests()
    assert asked and all(url.startswith(("file:", "data:", "blob:")) for url in asked), asked
    assert chromium.complaints() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_is_as_wide_as_its_window(chromium: Page, file: Path, width: int, scheme: str) -> None:
    """Only the table scrolls sideways; and text stands out from its ground by the 4.5 that WCAG asks for."""
    chromium.open(file, width, scheme)
    assert chromium.ask("document.documentElement.scrollWidth") <= width
    for selector in ("h1", ".quiet", "#comparison td", "#memory .failed", "a"):
        assert contrast(chromium, selector) >= 4.5, selector


def contrast(page: Page, selector: str) -> float:
    """Of an element's text against the page, by WCAG's formula."""
    style = "getComputedStyle(document.querySelector({!r})).{}"
    colours = [page.ask(style.format(selector, "color")), page.ask(style.format("body", "backgroundColor"))]
    dark, light = sorted(luminance(colour) for colour in colours)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_it_prints(page: Page) -> None:
    """To a PDF of a few pages; the tools of the screen are not on it."""
    made = page.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert base64.b64decode(made).startswith(b"%PDF")
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not page.one("#filter").is_displayed() and page.one("#comparison").is_displayed()
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen"})
