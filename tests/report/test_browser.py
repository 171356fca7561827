"""The page in a real browser: everything is drawn, nothing is complained about."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

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
    assert buttons == {"Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"}  # none uploads


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
