"""A visit to the demo's page in Chromium, for tests."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fer_deploy.demo.server import PageServer
from fer_deploy.demo.site import Site

SLOW = 60_000
"""Milliseconds that a step may take on a busy machine."""


def camera_arguments(file: Path) -> tuple[str, ...]:
    """Chromium's, for a camera that shows a file and that pages may use without asking."""
    fake = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    return (*fake, f"--use-file-for-fake-video-capture={file}")


@contextmanager
def serve_site(site: Site) -> Iterator[str]:
    """Serve the page as `ferdeploy demo` does; its address."""
    server = PageServer(site)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.address
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Visit:
    """An open page, with its requests and its errors and warnings."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.requests: list[str] = []
        self.troubles: list[str] = []
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page = self.context.new_page()
        self.page.set_default_timeout(SLOW)
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on(
            "console",
            lambda message: self.troubles.append(message.text) if message.type in ("error", "warning") else None,
        )
        self.page.goto(address)
        self.status("Ready.")

    def status(self, words: str | re.Pattern[str]) -> str:
        """Wait until the status contains `words`; all of its text."""
        status = self.page.get_by_role("status").filter(has_text=words)
        status.wait_for()
        return str(status.inner_text())

    def choose(self, path: Path) -> str:
        self.page.get_by_label("Choose a photo").set_input_files(path)
        return self.status(re.compile("face"))

    def open_camera(self) -> None:
        self.page.get_by_role("button", name="Open the camera").click()
        self.page.get_by_text("frames a second").wait_for()

    def close_camera(self) -> None:
        button = self.page.get_by_role("button", name="Close the camera")
        if button.count():
            button.click()
            self.status("The camera is closed.")

    def faces(self) -> list[str]:
        return [str(heading) for heading in self.page.get_by_role("heading", level=3).all_inner_texts()]

    def close(self) -> None:
        self.context.close()
