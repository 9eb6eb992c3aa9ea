"""The report in a real browser, opened from disk: it draws, it asks nobody, it obeys.

Where no browser is found these tests are skipped; with ``SITUS_REQUIRE_BROWSER`` set (as in CI)
they fail instead.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = pytest.mark.browser

_FLAGS = (
    "--headless=new", "--no-sandbox", "--hide-scrollbars", "--window-size=900,640",
    # WebGL 2 without a graphics card; of the same page, a quarter of the pixels is drawn.
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--force-device-scale-factor=0.5",
    # The browser itself must not ask anybody either.
    "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-default-apps",
)  # fmt: skip
# Software rendering on a busy machine is slow; a browser that hangs is rare.
_PATIENCE_S = 300


def binary(*names: str) -> str:
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        reason = f"no {' or '.join(names)} on this machine"
        if os.environ.get("SITUS_REQUIRE_BROWSER"):
            pytest.fail(f"{reason}, but SITUS_REQUIRE_BROWSER is set")
        pytest.skip(reason)
    return found


def start(profile: Path, *flags: str) -> webdriver.Chrome:
    options = Options()
    options.binary_location = binary("chromium", "chromium-browser", "google-chrome")
    for flag in (*_FLAGS, *flags, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(service=Service(binary("chromedriver")), options=options)
    driver.set_script_timeout(_PATIENCE_S)
    driver.set_page_load_timeout(_PATIENCE_S)
    driver.command_executor.client_config.timeout = _PATIENCE_S
    return driver


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    driver = start(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def opened(browser: webdriver.Chrome, report: Path) -> webdriver.Chrome:
    """The report from disk, with its first viewer opened."""
    browser.get(report.as_uri())
    press(browser, ".v-open")
    viewer_ready(browser)
    return browser


def press(driver: webdriver.Chrome, selector: str) -> None:
    """Click without waiting for the page's smooth scrolling to come to rest."""
    driver.execute_script("document.querySelector(arguments[0]).click()", selector)


def viewer_ready(driver: webdriver.Chrome) -> None:
    driver.execute_async_script(
        "const done = arguments[0], v = window.situs.viewer;"
        "(function look() { v.queue.then(() => v.ready || v.wait.textContent"
        ".startsWith('The viewer stopped') ? done() : setTimeout(look, 100)); })()"
    )
    assert driver.execute_script("return window.situs.viewer.wait.textContent") == ""


def picture(driver: webdriver.Chrome) -> str:
    """What the canvas shows, drawn and read in one go."""
    return str(
        driver.execute_script(
            "const v = window.situs.viewer; v.nv.drawScene(); return v.canvas.toDataURL();"
        )
    )


def lit(driver: webdriver.Chrome) -> int:
    """Pixels of the canvas that are not black."""
    return int(
        driver.execute_script(
            "const v = window.situs.viewer; v.nv.drawScene();"
            "const c = document.createElement('canvas'); c.width = 200; c.height = 150;"
            "const g = c.getContext('2d'); g.drawImage(v.canvas, 0, 0, 200, 150);"
            "const d = g.getImageData(0, 0, 200, 150).data; let n = 0;"
            "for (let i = 0; i < d.length; i += 4) if (d[i] + d[i + 1] + d[i + 2] > 60) n++;"
            "return n;"
        )
    )


def test_the_viewer_draws_and_every_switch_changes_the_picture(opened: webdriver.Chrome) -> None:
    assert lit(opened) > 1000
    boxes = opened.find_elements(By.CSS_SELECTOR, ".v-side input[type=checkbox]")
    names = [box.find_element(By.XPATH, "..").text for box in boxes]
    assert names == ["MNI152", "true", "predicted", "views"]
    for box, name in zip(boxes, names, strict=True):
        before = picture(opened)
        opened.execute_script("arguments[0].click()", box)
        assert picture(opened) != before, f"switching off {name} changed nothing"
        opened.execute_script("arguments[0].click()", box)
        assert picture(opened) == before, f"{name} did not come back"


def test_views_and_scenes_can_be_chosen(opened: webdriver.Chrome) -> None:
    before = picture(opened)
    for button, same in ((5, False), (1, True)):
        press(opened, f".v-views button:nth-child({button})")
        viewer_ready(opened)
        assert (picture(opened) == before) == same
    # Other sub-tasks take the one viewer over, and its base volume with it.
    for section in opened.execute_script(
        "return [...document.querySelectorAll('.viewer')].map((v) => v.dataset.section)"
    ):
        home = opened.find_element(By.CSS_SELECTOR, f".viewer[data-section='{section}']")
        if not home.find_elements(By.TAG_NAME, "canvas"):
            opened.execute_script("arguments[0].querySelector('.v-open').click()", home)
        viewer_ready(opened)
        last = len(home.find_elements(By.CSS_SELECTOR, ".v-side option")) - 1
        opened.execute_script(
            "const s = arguments[0].querySelector('select'); s.value = arguments[1];"
            "s.dispatchEvent(new Event('change'));",
            home,
            str(last),
        )
        viewer_ready(opened)
        assert lit(opened) > 300
    assert len(opened.find_elements(By.TAG_NAME, "canvas")) == 1


def test_prediction_truth_and_errors_of_a_segmentation_can_be_switched(
    opened: webdriver.Chrome,
) -> None:
    home = opened.find_element(By.CSS_SELECTOR, "#transfer .viewer")
    if not home.find_elements(By.TAG_NAME, "canvas"):
        opened.execute_script("arguments[0].querySelector('.v-open').click()", home)
    viewer_ready(opened)
    boxes = home.find_elements(By.CSS_SELECTOR, ".v-side input[type=checkbox]")
    names = [box.find_element(By.XPATH, "..").text for box in boxes]
    assert names == ["MNI152", "predicted", "true", "errors"]
    assert [box.is_selected() for box in boxes] == [True, True, False, False]
    keys = [item.text for item in home.find_elements(By.CSS_SELECTOR, ".v-key li")]
    assert keys[:2] == ["grey matter", "white matter"]
    assert "missed" in keys
    seen = [picture(opened)]
    for box in boxes[1:]:
        # From the keyboard: the space bar switches.
        opened.execute_script("arguments[0].focus({preventScroll: true})", box)
        box.send_keys(Keys.SPACE)
        seen.append(picture(opened))
    assert len(set(seen)) == len(seen), "a switch changed nothing"


def test_the_slider_moves_figures_scores_and_viewer_through_time(
    opened: webdriver.Chrome,
) -> None:
    slider = opened.find_element(By.CSS_SELECTOR, "input[data-steps]")
    section = slider.find_element(By.XPATH, "./ancestor::section")

    def shown() -> list[str]:
        nodes = section.find_elements(By.CSS_SELECTOR, "[data-step]")
        return [n.get_attribute("data-step") or "" for n in nodes if n.is_displayed()]

    assert set(shown()) == {"200"}
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
    slider.send_keys(Keys.ARROW_LEFT)
    assert set(shown()) == {"0"}
    assert section.find_element(By.TAG_NAME, "output").text == "step 0"
    others = opened.find_elements(By.CSS_SELECTOR, "input[data-steps]")
    assert {s.get_attribute("aria-valuetext") for s in others} == {"step 0"}
    viewer_ready(opened)
    assert lit(opened) > 300
    slider.send_keys(Keys.ARROW_RIGHT)
    assert set(shown()) == {"200"}


def test_hostile_strings_are_shown_as_text(opened: webdriver.Chrome) -> None:
    assert opened.execute_script("return window.hostile") is None
    assert "<script>window.hostile=1</script>" in opened.page_source.replace("&lt;", "<").replace(
        "&gt;", ">"
    )
    assert not opened.find_elements(By.CSS_SELECTOR, "img")


def test_the_theme_button_cycles(opened: webdriver.Chrome) -> None:
    page = "return getComputedStyle(document.body).backgroundColor"
    button = opened.find_element(By.ID, "theme")
    seen = []
    for _ in range(3):
        opened.execute_script("arguments[0].click()", button)
        seen.append(opened.execute_script(page))
    assert len(set(seen[:2])) == 2
    assert button.get_attribute("aria-label") == "Colours: as the system"


def test_a_phone_does_not_scroll_sideways(opened: webdriver.Chrome) -> None:
    device = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
    try:
        # The viewer's canvas follows the window one frame later.
        WebDriverWait(opened, 10).until(
            lambda page: page.execute_script("return document.documentElement.scrollWidth") <= 360
        )
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def box(driver: webdriver.Chrome, selector: str) -> dict[str, float]:
    """Left, top, right and bottom of an element in the window."""
    found = driver.execute_script(
        "return document.querySelector(arguments[0]).getBoundingClientRect().toJSON()", selector
    )
    return {str(k): float(v) for k, v in found.items()}


def test_the_slider_never_covers_the_viewer(opened: webdriver.Chrome) -> None:
    """Scrolled until the slider sticks inside the viewer, the viewer is in front."""
    home = "#spatial-chunks .v-open"
    if opened.find_elements(By.CSS_SELECTOR, home):
        press(opened, home)
        viewer_ready(opened)
    opened.execute_script(
        "document.documentElement.style.scrollBehavior = 'auto';"
        "const v = document.querySelector('#spatial-chunks .viewer');"
        "window.scrollTo(0, v.getBoundingClientRect().top + scrollY - 40);"
    )
    time, viewer = box(opened, "#spatial-chunks .time"), box(opened, "#spatial-chunks .viewer")
    assert viewer["top"] < time["bottom"], "they do not meet, so this shows nothing"
    front = opened.execute_script(
        "return document.elementFromPoint(arguments[0], arguments[1])"
        ".closest('.time, .viewer, .top').className",
        time["left"] + 30,
        time["bottom"] - 4,
    )
    assert front == "viewer"


@pytest.mark.parametrize("width", [390, 900, 1280])
def test_the_track_says_what_its_mark_is(opened: webdriver.Chrome, width: int) -> None:
    device = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
    try:
        scale = box(opened, ".g-scale span:first-child")
        track, mark = box(opened, ".g-track"), box(opened, ".g-mark")
        at = track["left"] + 0.2 * track["width"]
        assert scale["height"] > 0, "the track has no header"
        for words in (scale, mark):
            assert abs((words["left"] + words["right"]) / 2 - at) < 3
        assert opened.find_element(By.CSS_SELECTOR, ".g-mark").text == "constant"
        # Nothing is cut off: every figure's labels keep 10 pixels.
        smallest = opened.execute_script(
            "return Math.min(...[...document.querySelectorAll('main svg text')].filter("
            "(t) => t.getClientRects().length).map((t) => parseFloat(getComputedStyle(t).fontSize)"
            " * Math.hypot(t.getScreenCTM().a, t.getScreenCTM().b)))"
        )
        assert smallest >= 9.9
        touching = opened.execute_script(
            "return [...document.querySelectorAll('.gauge')].filter((g) => {"
            "const words = g.querySelector('.g-verdict').getBoundingClientRect();"
            "return [...g.querySelectorAll('.g-value span')].some((s) => {"
            "const r = s.getBoundingClientRect();"
            "return r.right > words.left - 10 && r.bottom > words.top && r.top < words.bottom})"
            "}).map((g) => g.textContent)"
        )
        assert touching == []
        if width == 1280:
            cut = "return [...document.querySelectorAll('.scores')].filter((t) => t.clientHeight"
            cut += " && (t.scrollWidth > t.clientWidth || t.scrollHeight > t.clientHeight)).length"
            assert opened.execute_script(cut) == 0, "a score table is cut"
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_no_console_error_and_no_request_to_any_host(opened: webdriver.Chrome) -> None:
    """Last of the tests on this page: it judges everything that happened before."""
    console = [e for e in opened.get_log("browser") if e["level"] in {"SEVERE", "WARNING"}]
    assert console == []
    asked = set()
    for entry in opened.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.add(urlparse(message["params"]["request"]["url"]).scheme)
    # "chrome" is the browser's own start page, before the report was opened.
    assert asked <= {"file", "data", "blob", "chrome"}, asked


def test_without_webgl_the_page_says_so(report: Path, tmp_path: Path) -> None:
    driver = start(tmp_path, "--disable-3d-apis")
    try:
        driver.get(report.as_uri())
        note = driver.find_element(By.CSS_SELECTOR, ".v-note").text
        assert "needs WebGL 2" in note
        assert not driver.find_element(By.CSS_SELECTOR, ".v-open").is_displayed()
        assert [e for e in driver.get_log("browser") if e["level"] == "SEVERE"] == []
    finally:
        driver.quit()


def test_a_full_report_loads_its_files_from_beside_it(
    browser: webdriver.Chrome, light_run: Path, tmp_path: Path
) -> None:
    from situs.report.report import write_report  # noqa: PLC0415

    page = write_report(light_run, out=tmp_path, full=True)
    browser.get(page.as_uri())
    press(browser, ".v-open")
    viewer_ready(browser)
    assert lit(browser) > 1000
