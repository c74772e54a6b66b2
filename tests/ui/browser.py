# SPDX-License-Identifier: Apache-2.0
"""Debian's chromium without a window, by chromedriver: opens a page and looks at it."""

import shutil
from typing import Any, Self

PATIENCE = 120.0  # seconds after which a condition is taken never to come

# Calls back as soon as a condition holds: after each change of the page it is looked at again. What it asks of an
# element that is not there yet (a TypeError, of null) does not hold.
_WHEN = """
const [condition, done] = [new Function("return " + arguments[0]), arguments[arguments.length - 1]];
const look = () => {
    let found = null;
    try { found = condition(); } catch (error) { if (!(error instanceof TypeError)) throw error; }
    if (found) { observer.disconnect(); done(found); }
};
const observer = new MutationObserver(look);
observer.observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
look();
"""


class Browser:
    """The browser, with one page open."""

    def __init__(self) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options: Any = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        # as root there is no sandbox to be had; /dev/shm may be small
        for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self._driver: Any = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
        self._driver.set_script_timeout(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._driver.quit()

    def open(self, url: str, width: int = 1100, height: int = 900, dark: bool = False) -> None:
        """Opens a page that was not open, on a screen of this size in CSS pixels."""
        self._driver.get("about:blank")
        self.complaints()
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self._driver.get(url)

    def when(self, condition: str) -> Any:
        """Waits for an expression of JavaScript to hold; returns its value."""
        return self._driver.execute_async_script(_WHEN, condition)

    def value(self, expression: str) -> Any:
        """Returns what an expression of JavaScript is now."""
        return self._driver.execute_script(f"return {expression}")

    def press(self, *keys: str) -> None:
        """Types keys, named as in KeyboardEvent.key, at what has the focus."""
        codes = {"Enter": 13, "Escape": 27, "Tab": 9}
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            event = {"key": key, "text": text, "windowsVirtualKeyCode": codes.get(key, 0)}
            self._driver.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyDown", **event})
            self._driver.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyUp", **event, "text": ""})

    def accessible(self) -> list[tuple[str, str]]:
        """Returns the role and the name of all that a screen reader finds."""
        self._driver.execute_cdp_cmd("Accessibility.enable", {})
        nodes = self._driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")
        ]

    def complaints(self) -> list[str]:
        """Returns what the browser has complained of since this was asked last: faults, and what the policy forbade."""
        return [str(entry["message"]) for entry in self._driver.get_log("browser")]

    def screenshot(self, path: str) -> None:
        self._driver.save_screenshot(path)
