"""The page in a real browser: everything is drawn, nothing is complained about."""

import json
import re
import shutil
import subprocess
import threading
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from launch.cli import main
from tests.analysis.test_arms import study as ruled
from tests.report.conftest import Report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--allow-file-access-from-files",  # the test of a narrow screen looks into a frame
    "--virtual-time-budget=20000",
    "--enable-logging=stderr",
    "--v=0",
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on PATH: install it to test the page in a browser"
)

PHONE = """<iframe src="PAGE" style="border:0;width:360px;height:800px"></iframe><script>
const timer = setInterval(() => {
  const page = document.querySelector("iframe").contentDocument.documentElement;
  if (page.dataset.state !== "drawn") return;
  clearInterval(timer);
  const data = document.body.dataset;
  data.inner = page.clientWidth;
  data.content = page.scrollWidth;
  data.plots = page.querySelectorAll(".js-plotly-plot").length;
}, 100);
</script>"""


USE = """<iframe src="PAGE" style="border:0;width:1200px;height:900px"></iframe><script>
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
async function use() {
  const frame = document.querySelector("iframe"), found = {};
  while (frame.contentDocument?.documentElement.dataset.state !== "drawn") await wait(50);
  const page = frame.contentDocument, window = frame.contentWindow, form = page.querySelector("form.choose");
  const count = (selector) => page.querySelectorAll(selector).length;
  const shown = () => ({
    panels: Object.fromEntries([...page.querySelectorAll("figure[data-drawn]")].map((figure) => [
      figure.id, figure.className.includes("nothing") ? 0 : figure.querySelectorAll(".subplot").length])),
    series: count("#critical-batch .legend button"), rows: count("#tables tbody tr:not([hidden])"),
  });
  const choose = async (name, value) => {
    form.elements[name].value = value;
    form.dispatchEvent(new window.Event("change"));
    await wait(200);
    return shown();
  };
  found.all = shown();
  found.width = await choose("N", "128");
  found.budget = await choose("T", "262144");
  found.definition = await choose("definition", "hyperbola");
  form.reset();
  await wait(200);
  found.reset = shown();
  const saved = {}, make = window.URL.createObjectURL;
  window.URL.createObjectURL = (blob) => { saved[blob.type] = blob; return make.call(window.URL, blob); };
  page.querySelector("#critical-batch [data-svg]").click();
  page.querySelector("#critical-batch [data-csv]").click();
  while (Object.keys(saved).length < 2) await wait(50);
  found.svg = await saved["image/svg+xml"].text();
  found.csv = await saved["text/csv"].text();
  const box = page.querySelector("#loss-against-lr .plot");
  box.focus();
  found.focused = page.activeElement === box;
  const press = async (key) => {
    box.dispatchEvent(new window.KeyboardEvent("keydown", { key }));
    await wait(150);
    return page.querySelector("#loss-against-lr .said").textContent;
  };
  found.first = await press("ArrowRight");
  found.second = await press("ArrowRight");
  found.hovered = count("#loss-against-lr .hovertext");
  found.left = await press("Escape");
  found.asked = window.performance.getEntriesByType("resource").map((entry) => entry.name);
  return found;
}
use().catch((error) => ({ error: String(error) }))
  .then((found) => fetch("SERVER", { method: "POST", mode: "no-cors", body: JSON.stringify(found) }));
</script>"""


def open_page(page: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """The document after its scripts ran, and what the console said."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *flags, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize(
    "flags", [("--window-size=1300,900",), ("--window-size=500,900", "--blink-settings=preferredColorScheme=0")]
)
def test_all_figures_are_drawn_without_a_word_on_the_console(
    report: Report, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    dom, console = open_page(report.page, tmp_path, *flags)
    assert console == []
    assert 'data-state="drawn"' in dom
    assert dom.count('class="plot js-plotly-plot"') == 9
    assert dom.count('class="main-svg"') >= 9
    buttons = set(re.findall(r'class="modebar-btn[^"]*" data-title="([^"]*)"', dom))
    assert buttons == {"Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"}  # none uploads


def test_nothing_sticks_out_on_a_narrow_phone(report: Report, tmp_path: Path) -> None:
    outer = report.page.parent.with_name("phone.html")
    outer.write_text(PHONE.replace("PAGE", report.page.as_uri()))
    dom, console = open_page(outer, tmp_path)
    assert console == []
    found = re.search(r'data-inner="(\d+)" data-content="(\d+)" data-plots="(\d+)"', dom)
    assert found is not None, "the framed page was not measured"
    inner, content, plots = map(int, found.groups())
    assert inner == 360
    assert content <= inner
    assert plots == 9


def test_what_cannot_be_drawn_does_not_stop_the_rest(small_report: Report, tmp_path: Path) -> None:
    dom, console = open_page(small_report.page, tmp_path)
    assert console == []
    assert dom.count('class="plot js-plotly-plot"') == 1


def test_figures_of_curves_alone_are_drawn(tmp_path: Path) -> None:
    """`bcrit rules` has two, whose panels hold nothing that can be pointed at."""
    ruled(tmp_path / "s")
    assert main(["rules", str(tmp_path / "s")]) == 0
    dom, console = open_page(tmp_path / "s" / "rules" / "index.html", tmp_path / "profile")
    assert console == []
    assert dom.count('class="plot js-plotly-plot"') == 3


class Told(BaseHTTPRequestHandler):
    """Hears what the script found. Chromium's virtual time does not wait for work in other threads; this does."""

    def do_POST(self) -> None:
        self.server.found.set_result(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def used(report: Report, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a reader finds who chooses, saves and walks."""
    outer, log = report.page.parent.with_name("use.html"), tmp_path_factory.mktemp("used") / "log"
    with HTTPServer(("127.0.0.1", 0), Told) as server, log.open("wb") as stderr:
        server.found = Future()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        outer.write_text(
            USE.replace("PAGE", report.page.as_uri()).replace("SERVER", f"http://127.0.0.1:{server.server_port}")
        )
        flags = [flag for flag in FLAGS if not flag.startswith("--virtual-time-budget")]
        command = [str(CHROMIUM), *flags, "--remote-debugging-port=0", f"--user-data-dir={log.parent}", outer.as_uri()]
        browser = subprocess.Popen(command, stderr=stderr)
        try:
            found = server.found.result(timeout=120)
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()
    console = [line for line in log.read_text().splitlines() if "CONSOLE" in line]
    return found | {"console": console}


def test_using_the_page_asks_nobody_and_complains_of_nothing(used: dict[str, Any]) -> None:
    assert "error" not in used
    assert used["console"] == []
    assert used["asked"] == []


def test_figures_and_tables_follow_the_choice_of_width_budget_and_definition(used: dict[str, Any]) -> None:
    everything, width, budget, definition = (used[name] for name in ("all", "width", "budget", "definition"))
    assert everything["panels"]["lr-against-tokens"] == 2
    assert everything["panels"]["loss-against-lr"] == 6
    assert width["panels"]["lr-against-tokens"] == 1
    assert width["panels"]["loss-against-lr"] == 3
    assert budget["panels"]["loss-against-lr"] == budget["panels"]["width-transfer"] == 1
    assert everything["rows"] > width["rows"] > budget["rows"] > 0
    assert everything["series"] == 11
    assert definition["series"] == 3  # the hyperbola; B* of this width and of all together
    assert definition["panels"]["lr-crit"] == 0  # it has no hyperbola, and says so
    assert used["reset"] == everything


def test_a_figure_is_saved_as_svg_and_csv(used: dict[str, Any], report: Report) -> None:
    assert used["csv"] == (report.page.parent / "data" / "critical-batch.csv").read_text()
    picture = ElementTree.fromstring(used["svg"])
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    words = "".join(picture.itertext())
    for text in ("3. Critical and best batch against token budget", "batch B, tokens", ", 20 % overhead", "N = 128"):
        assert text in words


def test_arrow_keys_walk_through_the_runs(used: dict[str, Any], report: Report) -> None:
    assert used["focused"]
    runs = report.csv("loss-against-lr")
    ids = list(report.table["run_id"])
    first, second = (re.search(r"run (\w+)$", used[name]) for name in ("first", "second"))
    assert first is not None
    assert second is not None
    assert first[1] in ids
    assert second[1] in ids
    assert first[1] != second[1]
    assert used["first"].startswith(f"1 of {int((runs['kind'] != 'parabola').sum())}: N = 64, T = 2^18, B = 2^8, η = ")
    assert used["hovered"] == 1
    assert used["left"] == ""


def test_it_prints_on_paper(report: Report, tmp_path: Path) -> None:
    pdf = tmp_path / "page.pdf"
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path}", f"--print-to-pdf={pdf}", report.page.as_uri()]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes()))
    assert 5 <= pages <= 30
