"""The page in a real browser: no errors, all pictures, two widths, the keyboard, dark mode, and no markup in names."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mvit_video import report
from tests.chromium import Browser, Tab
from tests.reporting.written_runs import CLASSES, evaluate, image_manifest, sure_of, write_images, write_run

WIDE, NARROW = 1280, 390
# The least contrast of letters that are seen against what is behind them, and the text that has it (WCAG 2.2, 1.4.3).
CONTRAST = """
(() => {
  const numbers = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = numbers(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  let least = [99, ""];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest(".number.strong, script")) continue;
    const style = getComputedStyle(element);
    const inside = element instanceof SVGElement;
    const pair = [light(numbers(inside ? style.fill : style.color)), light(behind(element))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < least[0]) least = [ratio, element.textContent.slice(0, 60)];
  }
  return least;
})()
"""
READY = """
Promise.all([...document.querySelectorAll("video")].map((clip) => new Promise((done, failed) => {
  if (clip.readyState >= 2) done();
  clip.addEventListener("loadeddata", done);
  clip.addEventListener("error", () => failed(clip.error.message));
})))
"""


@pytest.fixture(scope="module")
def page(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on videos, and one on images."""
    root = tmp_path_factory.mktemp("page")
    images = write_run(root / "runs", "images", items=3)
    evaluate(images, image_manifest(write_images(root / "images")), sure_of(1, 2, 0), data={"fingerprint": "other"})
    runs = [written / "first <b>run", written / "second", images]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "known_queue", lambda folders: {})
        assert report.main([*map(str, runs), "--output", str(root / "report.html")]) == 0
    return root / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium") / "profile") as browser:
        yield browser


@pytest.fixture(scope="module")
def tab(browser: Browser, page: Path) -> Tab:
    """The page in a wide window, once its clips are there."""
    tab = browser.open(page.as_uri(), width=WIDE)
    tab.value(READY)
    return tab


def test_nothing_fails_and_nothing_is_loaded(tab: Tab, page: Path) -> None:
    assert tab.requests() == [page.as_uri()]
    assert tab.errors() == []


def test_all_pictures_and_clips_are_there(tab: Tab) -> None:
    assert (
        tab.value("[...document.images].map((image) => [image.naturalWidth, image.naturalHeight])") == [[264, 176]] * 3
    )
    sizes = tab.value("[...document.querySelectorAll('video')].map((clip) => [clip.videoWidth, clip.videoHeight])")
    assert sizes == [[96, 64]] * 4
    posters = (
        "Promise.all([...document.querySelectorAll('video')].map(async (clip) => {"
        " const image = new Image(); image.src = clip.poster; await image.decode(); return image.naturalWidth; }))"
    )
    assert tab.value(posters) == [96] * 4
    empty = "[...document.querySelectorAll('.curve')].filter((curve) => !(curve.getTotalLength() > 0)).length"
    assert tab.value(empty) == 0


def test_names_with_markup_do_nothing(tab: Tab) -> None:
    assert tab.value("window.hacked") is None
    assert tab.value("document.scripts.length + document.styleSheets.length") == 2
    assert tab.value("document.querySelectorAll('b, i, u, [onmouseover], [onerror]').length") == 0
    assert set(tab.value("[...document.querySelectorAll('.bars th[scope=row]')].map((cell) => cell.textContent)")) == {
        *CLASSES
    }


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_it_fits_the_window(tab: Tab, width: int) -> None:
    tab.resize(width)
    try:
        assert tab.value("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
        outside = (
            "[...document.querySelectorAll('main *')].filter((one) => !one.closest('.scroll, svg, nav') &&"
            " one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.outerHTML.slice(0, 80))"
        )
        assert tab.value(outside) == []
    finally:
        tab.resize(WIDE)


def test_letters_are_read_in_light_and_in_dark(tab: Tab) -> None:
    backgrounds = []
    for scheme in ("dark", "light"):
        tab.prefer(color_scheme=scheme)
        backgrounds.append(tab.value("getComputedStyle(document.body).backgroundColor"))
        least, text = tab.value(CONTRAST)
        assert least >= 4.5, f"{scheme}: {text}"
    assert backgrounds == ["rgb(20, 24, 29)", "rgb(255, 255, 255)"]


def test_the_keyboard_reaches_and_works_everything(tab: Tab) -> None:
    focused = "document.activeElement.className + ' ' + document.activeElement.tagName"
    tab.value("document.activeElement.blur()")
    tab.press("Tab")
    assert tab.value(focused) == "skip A"
    assert tab.value("document.activeElement.getBoundingClientRect().left >= 0")
    tab.press("Enter", text="\r")
    assert tab.value("location.hash") == "#summary"
    seen = set()
    for _ in range(60):  # by the order of the page, through links, tables and drawings
        tab.press("Tab")
        seen.add(tab.value(focused))
        if "chart FIGURE" in seen:
            break
    assert {"chart FIGURE", "scroll DIV"} <= seen
    readout = "document.activeElement.querySelector('.readout').textContent"
    tab.press("ArrowRight")
    assert tab.value(readout) == "step 1: first <b>run 1.975, second 1.975, images 1.975"
    tab.press("End")
    assert tab.value(readout).startswith("step 40: first <b>run 1, ")
    tab.press("Escape")
    assert tab.value(readout) == ""
    tab.value("document.querySelector('#options summary').focus()")
    tab.press("Enter", text="\r")
    assert tab.value("document.querySelector('#options details').open")
    tab.value("document.querySelector('#pause').focus()")
    tab.press(" ", text=" ")
    told = "document.querySelector('#pause').textContent"
    later = "new Promise((done) => setTimeout(done, 5))"
    tab.value(f"(async () => {{ while ({told} !== 'Play all clips') await {later}; }})()")
    assert tab.value("[...document.querySelectorAll('video')].every((clip) => clip.paused)")


def test_the_pointer_shows_values_and_a_word_picks_options(tab: Tab) -> None:
    tab.value("document.querySelector('.chart').scrollIntoView()")
    box = "JSON.parse(JSON.stringify(document.querySelector('.chart svg').getBoundingClientRect()))"
    place = tab.value(box)
    middle = {"x": place["x"] + place["width"] / 2, "y": place["y"] + place["height"] / 2}
    tab.ask("Input.dispatchMouseEvent", type="mouseMoved", **middle)
    assert tab.value("document.querySelector('.readout').textContent").startswith("step 19: first")
    tab.value("document.querySelector('#options details').open = true; document.querySelector('[data-table]').focus()")
    tab.ask("Input.insertText", text="optim.LR")
    rows = "[...document.querySelectorAll('#all-options tbody tr')]"
    assert tab.value(f"{rows}.filter((row) => !row.hidden).map((row) => row.innerText)") == [
        "optim.lr\t0.001\t0.01\t0.001"
    ]


def test_who_wants_no_motion_gets_none(browser: Browser, page: Path) -> None:
    tab = browser.open(page.as_uri(), width=NARROW, reduced_motion="reduce")
    assert tab.value("[...document.querySelectorAll('video')].map((clip) => clip.paused)") == [True] * 4
    # And what got into the page all the same would not run: the browser is told so by the page itself.
    tab.value("document.body.insertAdjacentHTML('beforeend', '<img src=data:, onerror=\"window.hacked = 1\">')")
    browser.wait(lambda: bool(tab.errors()), "the refusal")
    assert "Content Security Policy" in tab.errors()[0]
    assert tab.value("window.hacked") is None
