"""The page of `./demo --web` in a real browser: a click moves the server, and the player stays.

Chromium by Debian's chromium-driver, headless, on loopback only; `./bootstrap.sh web` installs it.
"""

from __future__ import annotations

import asyncio
import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from examples.quake.web import listen, of_lab, serve
from examples.quake.web_state import PHASES
from tests.e2e.quake_world import MARK, QuakeWorld, quake_lab

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root"),
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="no chromium and chromedriver: ./bootstrap.sh web"
    ),
]
LAB = "e2ew"
PICTURE = os.environ.get("MIGRATE_WEB_PICTURE")  # where the picture of the README comes from


@pytest.fixture(scope="module")
def quake() -> Iterator[QuakeWorld]:
    with quake_lab(LAB) as made:
        made.start_server(made.a)
        made.mark("first")
        yield made


@pytest.fixture
def page(quake: QuakeWorld) -> Iterator[str]:
    """The page's URL. It is served by a thread, as the demo does it in its main one."""
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    urls: queue.Queue[str] = queue.Queue()
    serving = serve(of_lab(quake), "127.0.0.1", listen("127.0.0.1", 0), urls.put, stop)
    thread = threading.Thread(target=loop.run_until_complete, args=(serving,))
    thread.start()
    try:
        yield urls.get(timeout=60)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=80)
        assert not thread.is_alive()
        loop.close()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                 "--no-proxy-server", "--disable-background-networking", "--no-first-run",
                 "--window-size=1000,1000", f"--user-data-dir={tmp_path}"):  # fmt: skip
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(executable_path=DRIVER))
    yield driver
    driver.quit()


def text(browser: Chrome, selector: str) -> str:
    return str(browser.execute_script(
        "return document.querySelector(arguments[0])?.textContent ?? ''", selector))  # fmt: skip


def enabled(browser: Chrome) -> bool:
    """Can the button be pressed? Asked in one go: the page makes new ones."""
    return bool(browser.execute_script("return !document.querySelector('button').disabled"))


def wait(browser: Chrome, what: Callable[[], bool], seconds: float) -> None:
    WebDriverWait(browser, seconds, 0.05).until(lambda _: what())


# Notes each phase that the page shows, and whether the button could be pressed then. In the page:
# who asks from outside comes too late for a phase of tenths of a second.
WATCH = """
window.noted = [];
new MutationObserver(() => {
  const now = document.querySelector("#phases .now")?.textContent;
  if (now && !noted.some(([phase]) => phase === now)) {
    noted.push([now, document.querySelector("button")?.disabled === false]);
  }
}).observe(document.body, { subtree: true, childList: true, attributes: true });
"""


def marker(browser: Chrome) -> str:
    return browser.find_element(By.ID, "server").get_attribute("transform") or ""


def test_a_click_moves_the_server_and_the_player_stays(
    quake: QuakeWorld, page: str, browser: Chrome, tmp_path: Path
) -> None:
    browser.get(page)
    wait(browser, lambda: text(browser, ".here b") == "a", 60)
    wait(browser, lambda: "migrant" in text(browser, "#players"), 60)
    wait(browser, lambda: "1 gamestate," in text(browser, "#seen"), 60)
    (button,) = browser.find_elements(By.TAG_NAME, "button")  # none for the host where it is
    assert button.get_attribute("data-host") == "b"
    before, began = marker(browser), quake.status().cvars["g_timestamp"]

    browser.execute_script(WATCH)
    button.click()
    wait(browser, lambda: text(browser, ".here b") == "b", 120)
    wait(browser, lambda: "The player noticed" in text(browser, "#result"), 60)
    noted = browser.execute_script("return noted")
    # It is told what is now: of two phases that come close together, on a busy machine, the second.
    phases = [phase for phase, _ in noted]
    assert phases == [phase for phase in PHASES if phase in phases]
    assert len(phases) > 2, noted
    assert not any(pressable for _, pressable in noted), noted
    assert "Moved from a to b" in text(browser, "#result")
    assert "runs on b" in text(browser, "#headline")
    wait(browser, lambda: marker(browser) != before, 30)
    assert quake.b.sh("docker inspect -f '{{.State.Running}}' quake") == "true"

    # The same game, and the same player in it.
    after = quake.status()
    assert (after.cvars["g_timestamp"], after.cvars[MARK]) == (began, "first")
    assert "migrant" in [player.name for player in after.players]
    assert "1 gamestate," in text(browser, "#seen")
    assert " 0 reconnects" in text(browser, "#seen")

    wait(browser, lambda: enabled(browser), 60)
    picture = Path(PICTURE or tmp_path / "page.png")
    assert browser.save_screenshot(str(picture))
    assert picture.stat().st_size > 20_000
    # Nothing was blocked by the page's own policy, nothing was missing, no script failed.
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []  # type: ignore[no-untyped-call]


def test_a_name_that_is_markup_is_shown_as_text(
    quake: QuakeWorld, page: str, browser: Chrome
) -> None:
    name = "<img src=x>"
    browser.get(page)
    player = quake.player("--name", name)
    wait(browser, lambda: name in text(browser, "#players"), 60)
    assert browser.find_elements(By.TAG_NAME, "img") == []
    player.stop()
    wait(browser, lambda: name not in text(browser, "#players"), 60)
