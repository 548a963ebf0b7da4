"""Takes the screenshots of the documentation, of a cluster that runs for a few minutes.

python -m tests.browser.screenshots docs/images [SECONDS]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import attrs
from playwright.sync_api import Browser

from tests.browser.scene import Scene

__all__ = ["SCREENSHOTS", "Screenshot", "take"]

WARM_UP_S = 240.0
"""For the history of the charts."""


@attrs.frozen
class Screenshot:
    """One screenshot."""

    name: str
    path: str
    scheme: Literal["light", "dark"]
    width: int = 1320
    height: int = 900
    scale: float = 1.0


SCREENSHOTS = (
    Screenshot("console-light", "/?sort=in", "light", height=1130),
    Screenshot("console-dark", "/?sort=in", "dark", height=1130),
    Screenshot("channel-light", "/topics/payments/fraud-check", "light", height=1130),
    Screenshot("channel-dark", "/topics/payments/fraud-check", "dark", height=1130),
    Screenshot("phone-light", "/?sort=in", "light", width=390, height=844, scale=2.0),
    Screenshot("phone-dark", "/topics/payments/fraud-check", "dark", width=390, height=844, scale=2.0),
)


def take(browser: Browser, scene: Scene, screenshot: Screenshot, folder: Path) -> Path:
    """Take one screenshot."""
    page = browser.new_page(
        viewport={"width": screenshot.width, "height": screenshot.height},
        color_scheme=screenshot.scheme,
        device_scale_factor=screenshot.scale,
    )
    page.goto(scene.url(screenshot.path))
    page.wait_for_selector("#pulse[data-state=live]")
    page.wait_for_selector(".plot canvas")
    page.evaluate("document.fonts.ready")
    path = folder / f"{screenshot.name}.png"
    page.screenshot(path=path)
    page.close()
    return path


def main(folder: Path, warm_up_s: float) -> None:
    """Start the cluster, wait, take all screenshots."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data, Scene(Path(data), ("--poll-interval=2s",)) as scene:
        print(f"the cluster runs for {warm_up_s:.0f} s first")
        time.sleep(warm_up_s)
        with scene.browser() as browser:
            for screenshot in SCREENSHOTS:
                path = take(browser, scene, screenshot, folder)
                print(f"{path} ({path.stat().st_size // 1024} KiB)")


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else WARM_UP_S)
