"""`bcrit review URL` by the real client to the stand-in server: a sound Report, then one with defects."""

import base64
import hashlib
import json
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from analysis.analyse import analyse
from analysis.growth import Bootstrap
from analysis.report import write_report
from analysis.report.markdown import markdown
from analysis.report.provenance import provenance
from analysis.report.summary import summary
from analysis.report.tables import tables
from analysis.review import examine
from analysis.review.evidence import Evidence, gather
from analysis.review.live import check_report, with_words
from analysis.review.markdown import read_markdown
from analysis.review.published import Lines, LiveRun, Published
from tests import wandb_server
from tests.planted import planted_table
from tests.processes import ENVIRONMENT, bcrit_command
from tests.wandb_server import Run, Server, serving

T = 2**18


@dataclass(frozen=True)
class Sound:
    """A local report and what is published of it."""

    page: Evidence
    published: Published
    folder: Path


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """Without a server: what the client would read."""
    folder = tmp_path_factory.mktemp("report")
    table = planted_table(widths=(64,), noise=0.002, seeds=(0, 1))
    analysis = analyse(table, bootstrap=Bootstrap(resamples=20))
    write_report(table, analysis, folder)
    page = gather(folder)
    drawn = {name: section for name, section in page.document.sections.items() if section.plot is not None}
    titles = [text for section in drawn.values() for kind, text in section.blocks if kind == "h3"]
    parts = (summary(analysis), provenance(table, analysis), tables(table, analysis))
    words = [markdown(html) for html in parts] + ["## Figures", *(f"### {title}" for title in titles)]
    content = (folder / "laws.json").read_bytes() + (folder / "table.csv").read_bytes()
    runs = {
        str(identity): LiveRun("finished", dict(zip(rows["tokens"].astype(int), rows["loss"], strict=True)))
        for identity, rows in table.groupby("run_id")
    }
    published = Published(
        words="\n\n".join(words),
        run=f"analysis-{hashlib.sha256(content).hexdigest()[:12]}",
        media=frozenset(f"figures/{name}" for name in drawn),
        lines=(Lines("Validation loss", "tokens", "loss, nats"),),
        runs=runs,
    )
    return Sound(page, published, folder)


def found(sound: Sound, **changes: Any) -> set[tuple[str, str]]:
    """Severity and rule of everything that is found in the changed Report."""
    published = replace(sound.published, **changes)
    said = examine(with_words(sound.page, published))
    return {(f.severity, f.rule) for f in (*said, *check_report(sound.page, published, sound.folder))}


def test_a_sound_report_has_no_findings(sound: Sound) -> None:
    assert found(sound) == set()


def test_the_words_of_a_report_are_those_of_the_page(sound: Sound) -> None:
    said, page = read_markdown(sound.published.words), sound.page.document
    for name in ("summary", "provenance", "tables", "definitions"):
        assert said.sections[name].facts == page.sections[name].facts
        tables = [[(t.head, t.rows) for t in document.sections[name].tables] for document in (said, page)]
        assert tables[0] == tables[1]
        for _, text in said.sections[name].blocks:
            assert text in page.sections[name].text


def test_what_is_wrong_with_a_report_is_found(sound: Sound) -> None:
    words = sound.published.words
    identity, live = next(iter(sound.published.runs.items()))

    def run(changed: LiveRun) -> dict[str, LiveRun]:
        return sound.published.runs | {identity: changed}

    assert found(sound, words=words.replace("with α = ", "with α = 7", 1)) == {("error", "numbers")}
    assert found(sound, words=words.replace("95 % intervals", "intervals", 1)) == {("error", "intervals")}
    assert found(sound, words=words.replace("- **Seeds**: 0, 1", "")) == {("error", "seeds")}
    assert ("error", "complete") in found(sound, words=words.replace("### 3. ", "### 33. "))
    assert found(sound, media=sound.published.media - {"figures/sensitivity"}) == {("error", "complete")}
    assert found(sound, lines=(Lines("Loss", "tokens", ""),)) == {("error", "axes")}
    assert found(sound, lines=(Lines("Loss", "tokens", "loss"),)) == {("error", "axes")}
    assert found(sound, run="analysis-000000000000") == {("error", "numbers")}
    assert found(sound, runs=run(replace(live, state="running"))) == {("error", "finished")}
    assert found(sound, runs=run(replace(live, loss={T: 9.0}))) == {("error", "numbers")}
    assert found(sound, runs={}) == {("warning", "complete")}
    assert found(sound, runs=sound.published.runs | {"new": live}) == {("warning", "complete")}


# --- by the real client


class Files(BaseHTTPRequestHandler):
    """Hands out the files of runs, at /<project>/<run>/<name>."""

    runs: dict[tuple[str, str], Run]

    def do_GET(self) -> None:
        _, project, run, name = self.path.split("/", 3)
        content = self.runs[project, run].files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The stand-in, which also lists the files of a run and has them fetched."""
    state = Server()
    handler = type("Handler", (Files,), {"runs": state.runs})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listener, pytest.MonkeyPatch.context() as patch:
        threading.Thread(target=listener.serve_forever, daemon=True).start()

        def files(server: Server, given: dict[str, Any]) -> dict[str, Any]:
            run = server.runs[given["project"], given["name"]]
            where = f"http://127.0.0.1:{listener.server_port}/{run.project}/{run.id}"
            edges = [
                {
                    "node": {"id": name, "name": name, "url": f"{where}/{name}", "directUrl": f"{where}/{name}"}
                    | {"sizeBytes": len(content), "mimetype": "", "updatedAt": "2026-01-01T00:00:00Z"}
                    | {"md5": base64.b64encode(hashlib.md5(content).digest()).decode()},
                    "cursor": name,
                }
                for name, content in run.files.items()
            ]
            listed = {"edges": edges, "pageInfo": {"endCursor": "", "hasNextPage": False}}
            return {"project": {"internalId": "1", "run": {"fileCount": len(edges), "files": listed}}}

        patch.setitem(wandb_server.OPERATIONS, "RunFiles", files)
        with serving(state):
            yield state
        listener.shutdown()


def bcrit(server: Server, study: Path, *words: str) -> tuple[int, str]:
    environment = ENVIRONMENT | server.environment
    done = subprocess.run(
        bcrit_command(*words), env=environment, cwd=study, capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_a_report_is_fetched_and_reviewed(server: Server, tmp_path: Path) -> None:
    table = planted_table(widths=(64,), budgets=(T, 2 * T), batches=(2**8, 2**9, 2**10, 2**11), noise=0.003)
    table.to_parquet(tmp_path / "table.parquet")
    for number, (identity, rows) in enumerate(table.groupby("run_id")):
        losses = {f"loss_{tokens}": loss for tokens, loss in zip(rows["tokens"], rows["loss"], strict=True)}
        run = Run(str(identity), "study", number, {"groupName": "planted", "group": "planted"}, state="finished")
        server.runs["study", run.id] = replace(run, summary={"state": "finished", **losses})
    code, said = bcrit(server, tmp_path, "report", str(tmp_path), "--wandb", "lab/study")
    assert code == 0, said
    url = said.rpartition("published ")[2].strip()
    code, said = bcrit(server, tmp_path, "review", url)
    assert server.unknown == []
    assert code == 0, said
    assert "0 errors, 0 warnings, 0 notes" in said

    (report,) = server.reports.values()
    spec = json.loads(report["spec"])
    block = next(b for b in spec["blocks"] if b["type"] == "markdown-block" and "In plain words" in b["content"])
    assert "with α = " in block["content"]
    block["content"] = block["content"].replace("with α = ", "with α = 7", 1)
    report["spec"] = json.dumps(spec)
    first, second = list(table["run_id"].unique())[:2]
    server.runs["study", first].summary["state"] = "running"
    server.runs["study", second].summary[f"loss_{T}"] = 9.0
    code, said = bcrit(server, tmp_path, "review", url)
    assert code == 1
    lines = said.splitlines()
    assert any(line.startswith("  summary, growth of B_crit, surge form, α: says 7") for line in lines), said
    assert f"  run {first}: counted as finished, but it is running on the server" in lines
    assert any(line.startswith(f"  run {second}: loss ") and line.endswith("the server has 9") for line in lines)
    assert "3 errors, 0 warnings, 0 notes" in said


@pytest.mark.parametrize("url", ["{server}/lab/study/reports/none", "{server}/lab/study/reports/x--Vmlldzo5OTk"])
def test_what_is_no_report_is_refused_in_a_line(server: Server, tmp_path: Path, url: str) -> None:
    code, said = bcrit(server, tmp_path, "review", url.format(server=server.url))
    assert code == 2
    assert said.startswith("error: http")
    assert said.count("\n") == 1
