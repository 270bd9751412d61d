"""Drives a headless Chromium over its debugging pipe, without a driver program."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(PROGRAM is None, reason="needs Chromium (apt-get install chromium)")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
         "--hide-scrollbars", "--force-device-scale-factor=1", "--disable-features=IsolateSandboxedIframes",
         "--remote-debugging-pipe")
# The browser reads commands from file descriptor 3 and writes answers to 4.
START = """
import os, sys
from fcntl import F_DUPFD, fcntl
commands, answers = (fcntl(int(n), F_DUPFD, 10) for n in sys.argv[1:3])
os.dup2(commands, 3), os.dup2(answers, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Chromium:
    """A browser with one page. `requests`: the addresses that the page asked for; `errors`: its errors and warnings."""

    def __init__(self, width=1280, height=900):
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        to_browser, ours_out = os.pipe()
        ours_in, from_browser = os.pipe()
        command = [sys.executable, "-c", START, str(to_browser), str(from_browser), PROGRAM, *QUIET,
                   f"--user-data-dir={self._profile.name}", "about:blank"]
        self._process = subprocess.Popen(command, pass_fds=(to_browser, from_browser), stdin=subprocess.DEVNULL,
                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_browser), os.close(from_browser)
        self._out, self._in = os.fdopen(ours_out, "wb"), os.fdopen(ours_in, "rb")
        self._number, self._rest, self.requests, self.errors, self._contexts = 0, b"", [], [], []
        targets = self.call("Target.getTargets", session=None)["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        self._session = self.call("Target.attachToTarget", session=None, targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._out.close()
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._in.close()
        self._profile.cleanup()

    def call(self, method, session="page", **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _message(self):
        while b"\0" not in self._rest:
            piece = os.read(self._in.fileno(), 1 << 20)
            assert piece, "Chromium is gone"
            self._rest += piece
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method, about):
        if method == "Runtime.executionContextCreated":
            self._contexts.append(about["context"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.errors.append(str([a.get("description", a.get("value")) for a in about["args"]]))
        elif method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.errors.append(about["entry"]["text"])

    def open(self, address):
        self.call("Page.navigate", url=str(address))
        self.wait("document.documentElement.dataset.ready")

    def _frame(self):
        """The JavaScript context of the page's only frame."""
        end = time.monotonic() + 180
        while time.monotonic() < end:
            for child in self.call("Page.getFrameTree")["frameTree"].get("childFrames", ()):
                contexts = [c["id"] for c in self._contexts if c["auxData"].get("frameId") == child["frame"]["id"]]
                if contexts:
                    return contexts[-1]
            time.sleep(0.1)
        raise AssertionError("no frame")

    def js(self, expression, frame=False):
        """The value of an expression (of a promise, once it is fulfilled), in the page or in its only frame."""
        where = {"contextId": self._frame()} if frame else {}
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, **where)
        assert "exceptionDetails" not in result, (expression, result["exceptionDetails"])
        return result["result"].get("value")

    def wait(self, condition, seconds=180, frame=False):
        end = time.monotonic() + seconds
        while not self.js(f"(() => {{ try {{ return Boolean({condition}); }} catch {{ return false; }} }})()", frame):
            assert time.monotonic() < end, f"{condition}: not so after {seconds} s; {self.errors}"
            time.sleep(0.02)

    def go(self, place):
        """Goes to another place of the page, for example "#/forward/3", and waits until it is shown."""
        before = self.js("document.documentElement.dataset.ready")
        self.js(f"address.go({json.dumps(place)})")
        self.wait(f"document.documentElement.dataset.ready !== '{before}'")

    def press(self, key, modifiers=0):
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowUp": 38, "ArrowDown": 40, "ArrowLeft": 37, "ArrowRight": 39}
        text = "\r" if key == "Enter" else key if len(key) == 1 else ""
        code = codes.get(key, ord(key[0].upper()))
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, text=text, windowsVirtualKeyCode=code,
                  modifiers=modifiers)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code,
                  modifiers=modifiers)

    def draw(self, points):
        """Draws a stroke with the mouse."""
        for i, (x, y) in enumerate(points):
            kind = "mousePressed" if i == 0 else "mouseMoved"
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1)

    def resize(self, width, height, mobile=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
