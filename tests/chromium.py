"""A headless Chromium, driven through its DevTools protocol over a pipe: what a page does in a real browser.

with Browser(profile) as browser:
    tab = browser.open(path.as_uri(), width=1280)
    assert tab.value("document.title") == "..."
"""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.paths import ROOT

REQUIRED = "MVIT_VIDEO_REQUIRE_CHROMIUM"  # set: these tests may not be skipped; Chromium is installed for them
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT_S = 120  # for an answer: far more than any takes on a busy machine
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic", "--disable-extensions", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--mute-audio", "--remote-debugging-pipe",
)  # fmt: skip
# Chromium reads commands from descriptor 3 and answers on 4; these are put there in a process of their own.
_LAUNCH = """
import fcntl, os, sys
high = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for place, number in zip((3, 4), high):
    os.dup2(number, place)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def find_chromium() -> str:
    """The program; installs it where it is required and absent, and skips the test where it is neither."""
    if _installed() is None and not os.environ.get(REQUIRED):
        pytest.skip(f"no Chromium is installed here; {REQUIRED}=1 lets scripts/chromium.sh install Debian's package")
    if _installed() is None:
        subprocess.run(["bash", str(ROOT / "scripts" / "chromium.sh")], check=True, timeout=600)
    found = _installed()
    assert found is not None, f"scripts/chromium.sh left none of {', '.join(NAMES)}"
    return found


def _installed() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """A browser process with a fresh profile; a context manager that ends it.

    Args:
        profile: folder for what it writes.
    """

    def __init__(self, profile: Path) -> None:
        theirs_in, self._commands = os.pipe()
        self._answers, theirs_out = os.pipe()
        words = [find_chromium(), *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._log = open(profile.with_name(f"{profile.name}.log"), "wb")  # noqa: SIM115 - open as long as this object
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _LAUNCH, str(theirs_in), str(theirs_out), *words],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._pending = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.ask("Browser.close")
            self._process.wait(20)
        except (OSError, AssertionError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait(20)
        os.close(self._commands)
        os.close(self._answers)
        self._log.close()

    def open(self, url: str, *, width: int, height: int = 900, **preferred: str) -> "Tab":
        """A page, once it has loaded, in a window of that size, for a reader who prefers that (see `Tab.prefer`)."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.ask(f"{domain}.enable")
        tab.resize(width, height)
        tab.prefer(**preferred)
        tab.ask("Page.navigate", url=url)
        self.wait(lambda: any(e["method"] == "Page.loadEventFired" and tab.owns(e) for e in self.events), "the page")
        return tab

    def ask(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The result of a command; what happens meanwhile is kept in `events`."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            self.events.append(answer)
        raise AssertionError("unreachable")

    def wait(self, happened: Callable[[], bool], what: str) -> None:
        """Take in events until something has happened."""
        messages = self._messages()
        while not happened():
            message = next(messages, None)
            assert message is not None, f"{what} did not come"
            self.events.append(message)

    def _messages(self) -> Iterator[dict[str, Any]]:
        deadline = time.monotonic() + WAIT_S
        while True:
            while b"\0" in self._pending:
                text, _, self._pending = self._pending.partition(b"\0")
                yield json.loads(text)
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self._answers], [], [], left)[0], "the browser does not answer"
            data = os.read(self._answers, 1 << 20)
            assert data, f"the browser has ended: {Path(self._log.name).read_text(errors='replace')[-2000:]}"
            self._pending += data


class Tab:
    """A page in a browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session

    def owns(self, event: dict[str, Any]) -> bool:
        """Whether an event is of this page."""
        return event.get("sessionId") == self.session

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command to the page."""
        return self.browser.ask(method, self.session, **parameters)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression comes to, a promise included."""
        answer = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def resize(self, width: int, height: int = 900) -> None:
        """Give the window another size, in pixels."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def prefer(self, **features: str) -> None:
        """What the reader prefers: color_scheme="dark", reduced_motion="reduce"."""
        wanted = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
        self.ask("Emulation.setEmulatedMedia", features=wanted)

    def press(self, key: str, *, text: str = "") -> None:
        """Press and release a key by its name, such as "Tab" or "ArrowRight"."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}
        same = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code[key]}
        self.ask("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **same)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **same)

    def errors(self) -> list[str]:
        """What the console and the log of the browser say that is no mere information."""
        found = []
        for event in filter(self.owns, self.browser.events):
            said = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(said["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
                found.append(json.dumps(said["args"]))
            elif event["method"] == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
                found.append(said["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """The addresses that the page asked for, without those that hold their own content."""
        asked = [
            e["params"]["request"]["url"] for e in self.browser.events if e["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in asked if not url.startswith("data:")]

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write what the window shows, or all of the page, as PNG."""
        data = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole))[
            "data"
        ]
        path.write_bytes(base64.b64decode(data))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}
