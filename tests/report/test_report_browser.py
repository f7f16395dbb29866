"""The report page in a real browser: at the width of a desk and of a phone, on light and dark ground, and on paper."""

import base64
import shutil

import pytest

from tests.report.test_report_page import HOSTILE, html, outputs  # noqa: F401

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser():
    if not BROWSER or not DRIVER:
        pytest.skip("chromium or its driver is absent; type apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(params=[(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")], ids=str)
def opened(request, browser, html, tmp_path):  # noqa: F811
    width, scheme = request.param
    file = tmp_path / "page.html"
    file.write_text(html)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    )
    browser.get(file.as_uri())
    return browser


def fits(driver) -> bool:
    wide, inner = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    return wide <= inner


def test_nothing_sticks_out_and_nothing_is_complained_about(opened):
    assert fits(opened)
    opened.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert fits(opened)
    shown = """Promise.all([...document.images].map(one => { one.loading = 'eager'; return one.decode() }))
      .then(() => arguments[0](document.images.length), error => arguments[0](String(error)))"""
    assert opened.execute_async_script(shown) > 20
    assert opened.get_log("browser") == []


def test_curves_are_whole_and_each_has_its_label(opened):
    seen = """
      const box = e => e.getBoundingClientRect(), shown = e => box(e).width > 0
      const figure = [...document.querySelectorAll('svg.curves')].filter(shown)[0]
      const labels = [...figure.querySelectorAll('.line text'),
        ...figure.closest('figure').querySelectorAll('.legend li')].filter(shown)
      const ticks = [...figure.querySelectorAll('text.x')].map(e => e.textContent)
      const inside = [figure, ...figure.querySelectorAll('path, circle, text'), ...labels].filter(shown)
      return [inside.map(e => box(e).right).sort((a, b) => b - a)[0], Math.min(...inside.map(e => box(e).left)),
              figure.querySelectorAll('.line').length, labels.length, ticks,
              Math.max(...labels.map(e => box(e).height)), innerWidth]"""
    right, left, lines, labels, ticks, height, width = opened.execute_script(seen)
    assert left >= 0 and right <= width, "nothing has to be scrolled to"
    assert lines == labels == 12
    assert ticks[:-1] == ["1", "2", "3", "4", "5"] and height > 9, "every task is there, and letters can be read"


def test_classes_and_what_they_are_taken_for_are_whole(opened):
    seen = """
      document.querySelectorAll('.configuration, .classes').forEach(one => one.open = true)
      const box = e => e.getBoundingClientRect()
      return [...document.querySelectorAll('.classes .matrix, .classes .heat, .classes .all')].map(
        e => [box(e).left, box(e).right, e.parentElement.clientWidth, box(e).width])"""
    found = opened.execute_script(seen)
    assert len(found) == 6  # of two configurations
    assert all(left >= 0 and right <= opened.execute_script("return innerWidth") and width <= room + 1
               for left, right, room, width in found), found  # fmt: skip


def test_a_click_tells_what_made_a_number(opened):
    from selenium.webdriver.common.by import By

    run = opened.find_element(By.CSS_SELECTOR, ".run")
    command = run.find_element(By.CSS_SELECTOR, ".command code")
    assert not command.is_displayed()
    opened.find_element(By.CSS_SELECTOR, ".configuration > summary").click()
    run.find_element(By.CSS_SELECTOR, "summary").click()
    assert command.is_displayed() and command.text == f"python run.py method=method0 seed=0 'note={HOSTILE}'"
    assert "c0ffee" in run.text and "ab" * 32 in run.text and "torch 2.15.0" in run.text


def test_a_name_in_the_table_leads_to_its_runs(opened):
    from selenium.webdriver.common.by import By

    opened.execute_script("document.querySelector('.all tbody a').click()")
    first = opened.find_element(By.CSS_SELECTOR, ".configuration")
    assert first.get_attribute("open") and first.find_element(By.CSS_SELECTOR, ".matrix").is_displayed()


def test_words_can_be_read_on_their_ground(opened):
    """WCAG's 4.5 to 1, for text, soft text, links and the numbers on the matrix's colours."""
    ratio = """
      const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => v / 255).map(
        v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b }
      const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor
        if (!c.startsWith('rgba(0, 0, 0, 0')) return c } return 'rgb(255, 255, 255)' }
      document.querySelectorAll('details').forEach(one => one.open = true)
      return [...document.querySelectorAll('p, small, td, th, dt, dd, figcaption, code, .pub, a, .n i')].map(e => {
        const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x)
        return [(a + 0.05) / (b + 0.05), e.outerHTML.slice(0, 80)] }).sort((x, y) => x[0] - y[0])[0]"""
    lowest, where = opened.execute_script(ratio)
    assert lowest >= 4.5, where


def test_it_prints(opened):
    made = opened.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    data = base64.b64decode(made["data"])
    assert data.startswith(b"%PDF") and len(data) > 20_000
