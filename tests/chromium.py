"""A real headless Chromium for tests of pages, and a web server for their files. Skips where Chromium is absent."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

QUIET = (
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-features=OptimizationHints,MediaRouter,Translate,AutofillServerCommunication",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)
"""Switches off Chromium's own traffic and all name look-ups: a page that requests another host fails its test."""


KINDS = {".mjs": "text/javascript", ".wasm": "application/wasm"}
"""Media types that Python's server does not know on every system."""


@contextmanager
def launch(*arguments: str) -> Iterator[Any]:
    """A Chromium driven by Playwright. Skips the test, with the reason, where one of the two is absent."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is absent: pip install playwright")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("Chromium is absent: apt-get install chromium")
    as_root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*QUIET, *as_root, *arguments])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """Serve a folder on the loopback as any web server would, and give its address."""

    class Handler(SimpleHTTPRequestHandler):
        def guess_type(self, path: Any) -> str:
            return {".mjs": "text/javascript", ".wasm": "application/wasm"}.get(
                Path(path).suffix, super().guess_type(path)
            )

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
