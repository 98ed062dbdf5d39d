"""Nothing goes out: what the page asks for, what it is kept from, and Chromium's own log of its network stack."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from chromium import launch, serve_folder
from demo_visit import Visit, camera_arguments, serve_site

from fer_deploy.demo.site import Site, write_site

TRY_ELSEWHERE = """async (elsewhere) => {
  const tries = {
    fetch: () => fetch(elsewhere, { method: "POST", body: "picture", mode: "no-cors" }),
    image: () => new Promise((resolve, reject) => {
      const image = new Image();
      Object.assign(image, { onload: resolve, onerror: () => reject(new Error("refused")), src: elsewhere });
    }),
    script: () => import(elsewhere + "x.js"),
    evaluation: () => new Promise((resolve, reject) => {
      const attempt = () => { try { resolve((0, eval)("1")); } catch (error) { reject(error); } };
      setTimeout(attempt); // what Playwright starts itself may evaluate
    }),
    socket: () => new Promise((resolve, reject) => {
      const socket = new WebSocket(elsewhere.replace("http", "ws"));
      Object.assign(socket, { onopen: resolve, onerror: () => reject(new Error("refused")) });
    }),
  };
  const refused = [];
  for (const [name, attempt] of Object.entries(tries)) await attempt().catch(() => refused.push(name));
  return refused;
}"""


def test_no_request_leaves_the_machine(site: Site, camera_file: Path, portrait: Path, tmp_path: Path) -> None:
    """One browser visits the page as we serve it and as plain files on another server, and is tempted on both."""
    log, reached = tmp_path / "net.json", []

    class Elsewhere(BaseHTTPRequestHandler):
        def handle(self) -> None:
            reached.append(self.client_address)

    elsewhere = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
    write_site(site, tmp_path / "web" / "some" / "where")
    with (
        serve_site(site) as ours,
        serve_folder(tmp_path / "web") as root,
        launch(*camera_arguments(camera_file), f"--log-net-log={log}") as browser,
    ):
        plain = f"{root}some/where/"
        for address, isolated in ((ours, True), (plain, False)):
            visit = Visit(browser, address)
            assert (
                visit.page.evaluate("() => crossOriginIsolated") is isolated
            )  # for threads; others may not ask for it
            assert visit.choose(portrait).startswith("1 face: ")
            visit.open_camera()
            assert not visit.troubles
            refused = visit.page.evaluate(TRY_ELSEWHERE, f"http://127.0.0.1:{elsewhere.server_port}/")
            assert refused == ["fetch", "image", "script", "evaluation", "socket"]
            visit.close()
            asked = [url for url in visit.requests if str(elsewhere.server_port) not in url]
            assert {url.removeprefix(address) for url in asked} <= {"", *site.files}
    elsewhere.shutdown()
    elsewhere.server_close()
    assert reached == []
    urls = requests_of_pages(log)
    for address in (ours, plain):
        asked = {url.removeprefix(address) for url in urls if url.startswith(address)}
        assert {"", "page.js", "reader.js", "model.onnx", "ort-wasm-simd-threaded.wasm"} <= asked <= {"", *site.files}
    assert [url for url in urls if not url.startswith((ours, plain))] == []


def requests_of_pages(log: Path) -> set[str]:
    """Every address that a page or its workers asked for, from Chromium's log.

    Chromium has requests of its own, for updates and the like; those have no page as initiator, and no page's key.
    """
    urls = set()
    for event in json.loads(log.read_text())["events"]:
        request = event.get("params", {})
        if "initiator" in request:
            by_page = request["initiator"] != "not an origin"
            if by_page or "127.0.0.1" in request["network_isolation_key"]:
                urls.add(request["url"])
    return urls
