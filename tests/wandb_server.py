"""A stand-in for the W&B server on loopback: what the real client needs to log, resume, sync, read back and report.

It is our reading of the protocol of wandb 0.31, not W&B. An operation that it does not know is answered by a GraphQL
error and kept in `unknown`, so that a new client that asks for more is noticed. History lines are placed at the offset
that the client names, as the retries of the client need; `offsets=False` appends them instead.
"""

import base64
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlparse

Fault = Literal["500", "429", "cut", "slow", "lost", "twice", "late 500"]
Faults = Callable[[str, int], Fault | None]  # path and number of a request -> what goes wrong with it
KEY = "0123456789" * 4
AUTHORIZATION = f"Basic {base64.b64encode(f'api:{KEY}'.encode()).decode()}"
SLOW_S = 3.0  # longer than the tests let the client wait
ENTITY = "lab"


@dataclass
class Run:
    """What is known of one run."""

    id: str
    project: str
    number: int
    fields: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: dict[int, str] = field(default_factory=dict)  # line -> JSON
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    state: str = "running"
    preempting: bool = False

    @property
    def lines(self) -> int:
        return max(self.history, default=-1) + 1

    def rows(self) -> list[dict[str, Any]]:
        """The history in order of its lines; what is not finite is text, as the server answers it."""
        return [json.loads(self.history[line], parse_constant=str) for line in sorted(self.history)]


@dataclass
class Server:
    """The state of the stand-in and how it misbehaves."""

    url: str = ""
    faults: Faults = lambda path, number: None
    offsets: bool = True
    runs: dict[tuple[str, str], Run] = field(default_factory=dict)  # by project and id
    deleted: set[tuple[str, str]] = field(default_factory=set)
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)  # paths, and the operation of a GraphQL one
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def environment(self) -> dict[str, str]:
        """What leads the client here."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_ENTITY": ENTITY}

    def run(self, identity: str, project: str = "bcrit") -> Run:
        return self.runs[project, identity]


@contextmanager
def serving(server: Server, port: int = 0) -> Iterator[Server]:
    """Answer requests until the end of the block; what it holds survives, so that it can come back at its port."""

    class Listener(ThreadingHTTPServer):
        daemon_threads = True
        allow_reuse_address = True

        def handle_error(self, request: Any, client_address: Any) -> None:  # a client that hangs up is no news
            pass

    listener = Listener(("127.0.0.1", port), type("Bound", (_Handler,), {"server_state": server}))
    server.url = f"http://127.0.0.1:{listener.server_address[1]}"
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: Server

    def do_POST(self) -> None:
        self._answer()

    do_PUT = do_GET = do_POST  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        server, path = self.server_state, urlparse(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        asked = json.loads(body) if path == "/graphql" else None
        name = f"{path} {_operation(asked)}" if asked else path
        with server.lock:
            number = len(server.requests)
            server.requests.append(name)
        if name.startswith("/graphql") and self.headers.get("Authorization") != AUTHORIZATION:
            return self._send(401, {"errors": [{"message": "user is not logged in"}]})
        fault = server.faults(name, number)
        if fault == "cut":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if fault == "slow":
            time.sleep(SLOW_S)
        if fault in ("500", "429"):
            return self._send(int(fault), {"error": "injected"})
        done: tuple[int, Any] = (200, {})
        with server.lock:
            for _ in range({"lost": 0, "twice": 2}.get(fault or "", 1)):
                done = _graphql(server, asked) if asked else _upload(server, path, body)
        self._send(*((500, {"error": "injected"}) if fault == "late 500" else done))

    def _send(self, code: int, content: Any) -> None:
        payload = json.dumps(content).encode()
        try:
            self.send_response(code)
            if code == 429:
                self.send_header("Retry-After", "1")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)
        except OSError:
            self.close_connection = True


def _operation(asked: dict[str, Any]) -> str:
    """`UpsertBucket` of `mutation UpsertBucket($id: String) {...}`."""
    words = asked["query"].replace("#graphql", "").replace("(", " ").replace("{", " ").split()
    return words[1]


# Uploads: files by PUT; the file stream by POST, which carries history, events, summary and the end of the run.


def _upload(server: Server, path: str, body: bytes) -> tuple[int, Any]:
    parts = path.strip("/").split("/")
    match parts:
        case ["files", _, project, identity, "file_stream"]:
            return _stream(server, server.runs.get((project, identity)), json.loads(body))
        case ["storage", project, identity, *name]:
            server.runs[project, identity].files["/".join(name)] = body
            return 200, {}
        case ["sdk", "otel", *_]:  # telemetry of the client
            return 200, {}
        case _:
            server.unknown.append(path)
            return 404, {"error": f"unknown path {path}"}


def _stream(server: Server, run: Run | None, sent: dict[str, Any]) -> tuple[int, Any]:
    if run is None:
        return 404, {"error": "no such run"}
    for name, chunk in (sent.get("files") or {}).items():
        if name == "wandb-history.jsonl":
            first = chunk["offset"] if server.offsets else run.lines
            run.history.update(enumerate(chunk["content"], first))
        elif name == "wandb-summary.json":
            run.summary = json.loads(chunk["content"][-1], parse_constant=str)
    run.preempting |= bool(sent.get("preempting"))
    if sent.get("complete"):
        ended = "preempted" if run.preempting else "failed"
        run.state = "finished" if sent.get("exitcode", 0) == 0 else ended
    return 200, {}


# GraphQL: one function an operation.


def _graphql(server: Server, asked: dict[str, Any]) -> tuple[int, Any]:
    name = _operation(asked)
    answer = OPERATIONS.get(name)
    if answer is None:
        server.unknown.append(f"{name}: {asked['query'][:300]}")
        return 200, {"data": None, "errors": [{"message": f"unknown operation {name}"}]}
    try:
        return 200, {"data": answer(server, asked.get("variables") or {})}
    except LookupError as error:
        return 409, {"errors": [{"message": str(error)}]}


def _viewer(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    team = {"edges": [{"node": {"name": ENTITY}}]}
    return {"viewer": {"id": "u1", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "teams": team}}


def _upsert(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    project = given.get("project") or "bcrit"
    by_storage = {_storage(run): run for run in server.runs.values()}
    run = by_storage.get(given.get("id") or "") or server.runs.get((project, given.get("name") or ""))
    inserted = run is None
    if run is None:
        key = (project, given["name"])
        if key in server.deleted:
            raise LookupError(f"run {given['name']} was previously created and deleted; try a new run name")
        run = server.runs[key] = Run(given["name"], project, len(server.runs))
    for ours, theirs in FIELDS.items():
        value = given.get(theirs, given.get({"displayName": "display_name"}.get(theirs, theirs)))
        if value is not None:
            run.fields[ours] = value
    if given.get("config"):
        run.config |= json.loads(given["config"])
    if given.get("summaryMetrics"):
        run.summary |= json.loads(given["summaryMetrics"])
    run.state = given.get("state") or ("running" if inserted else run.state)
    return {"upsertBucket": {"bucket": _described(run) | {"project": _project(run.project)}, "inserted": inserted}}


FIELDS = {"group": "groupName", "displayName": "displayName", "jobType": "jobType", "tags": "tags", "notes": "notes"}


def _storage(run: Run) -> str:
    return f"storage-{run.project}-{run.id}"


def _project(name: str) -> dict[str, Any]:
    return {"id": f"project-{name}", "name": name, "entity": {"id": "e1", "name": ENTITY}}


def _described(run: Run) -> dict[str, Any]:
    """Everything that any query asks for about a run."""
    rows = run.rows()
    keys = {key: {"typeCounts": [{"type": "number", "count": 1}]} for row in rows for key in row}
    last = max((row.get("_step", -1) for row in rows), default=-1)
    return {
        "id": _storage(run),
        "name": run.id,
        "displayName": run.fields.get("displayName") or run.id,
        "projectId": "1",
        "tags": run.fields.get("tags") or [],
        "sweepName": None,
        "state": run.state,
        "config": json.dumps(run.config),
        "group": run.fields.get("group"),
        "jobType": run.fields.get("jobType"),
        "commit": None,
        "readOnly": False,
        "createdAt": f"2026-01-01T00:{run.number // 60:02d}:{run.number % 60:02d}Z",
        "heartbeatAt": "2026-01-01T00:00:00Z",
        "description": None,
        "notes": run.fields.get("notes"),
        "systemMetrics": "{}",
        "summaryMetrics": json.dumps(run.summary),
        "historyLineCount": run.lines,
        "user": {"name": ENTITY, "username": ENTITY},
        "historyKeys": {"sets": [], "keys": keys, "lastStep": last},
    }


def _resume(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    run = server.runs.get((given["project"], given["name"]))
    if run is None:
        return {"model": _project(given["project"]) | {"bucket": None}}
    tail = json.dumps([json.dumps(row) for row in run.rows()[-1:]])
    started = {"t": run.config.get("_wandb", {}).get("value", {}).get("t")}  # without it there is nothing to resume
    counts = {"logLineCount": 0, "historyLineCount": run.lines, "eventsLineCount": 0}
    about = {"historyTail": tail, "eventsTail": "[]", "wandbConfig": json.dumps(started)}
    return {"model": _project(given["project"]) | {"bucket": _described(run) | counts | about}}


def _create_files(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    where = f"{server.url}/storage/{given['project']}/{given['run']}"
    files = [{"name": name, "uploadUrl": f"{where}/{name}"} for name in given["files"]]
    return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}


def _runs(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    wanted = json.loads(given.get("filters") or "{}")
    there = [run for (project, _), run in server.runs.items() if project == given["project"]]
    if not there:
        return {"project": None}
    found = [run for run in there if _matches(run, wanted)]
    first = int(given.get("cursor") or 0)
    page = found[first : first + (given.get("perPage") or 50)]
    edges = [{"node": _described(run), "cursor": str(first + i + 1)} for i, run in enumerate(page)]
    more = {"endCursor": str(first + len(page)), "hasNextPage": first + len(page) < len(found)}
    about = {"internalId": "1", "runCount": len(found), "readOnly": False}
    return {"project": about | {"runs": {"edges": edges, "pageInfo": more}}}


def _matches(run: Run, wanted: dict[str, Any]) -> bool:
    """The few filters that are used: equality of a field, all of several conditions, any of several."""
    for key, value in wanted.items():
        if key == "$and":
            holds = all(_matches(run, part) for part in value)
        elif key == "$or":
            holds = any(_matches(run, part) for part in value)
        elif key in ("name", "id"):
            holds = run.id in value["$in"] if isinstance(value, dict) else run.id == value
        else:
            holds = _described(run).get(key) == value
        if not holds:
            return False
    return True


def _run(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    run = server.runs.get((given["project"], given.get("name") or given.get("run") or given.get("runName") or ""))
    return {"project": {"run": _described(run) if run else None}}


def _history(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    run = server.runs[given["project"], given["run"]]
    rows = [row for row in run.rows() if given["minStep"] <= row["_step"] < given["maxStep"]][: given["pageSize"]]
    return {"project": {"run": {"history": [json.dumps(row) for row in rows]}}}


def _sampled(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    run = server.runs[given["project"], given.get("run") or given["name"]]
    specs = given.get("specs") or [given["spec"]]
    found = []
    for spec in map(json.loads, specs):
        low, high = spec.get("minStep", 0), spec.get("maxStep", 2**62)
        rows = [row for row in run.rows() if low <= row["_step"] <= high and all(key in row for key in spec["keys"])]
        found.append([{key: row[key] for key in spec["keys"]} for row in rows[: spec.get("samples", 500)]])
    return {"project": {"run": {"sampledHistory": found}}}


def _full(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    run = server.runs[given["project"], given["name"]]
    return {"project": {"run": {"history": [json.dumps(row) for row in run.rows()], "events": []}}}


def _delete(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    for key, run in list(server.runs.items()):
        if _storage(run) == given["id"]:
            del server.runs[key]
            server.deleted.add(key)
    return {"deleteRun": {"clientMutationId": None}}


def _projects(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    names = sorted({project for project, _ in server.runs})
    nodes = [
        _project(name) | {"entityName": ENTITY, "createdAt": "", "isBenchmark": False, "user": None} for name in names
    ]
    edges = [{"node": node, "cursor": node["name"]} for node in nodes]
    return {"models": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}}


def _view(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    identity = given.get("id") or base64.b64encode(f"View:{1000 + len(server.reports)}".encode()).decode()
    project = {"id": "1", "name": given["projectName"], "entityName": given["entityName"]}
    times = {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z"}
    kept = {key: given.get(key) for key in ("name", "displayName", "description", "spec", "type")}
    server.reports[identity] = kept | {"id": identity, "project": project} | times
    return {"upsertView": {"view": server.reports[identity], "inserted": "id" not in given}}


OPERATIONS: dict[str, Callable[[Server, dict[str, Any]], dict[str, Any]]] = {
    "Viewer": _viewer,
    "GetViewer": _viewer,
    "GetDefaultEntity": _viewer,
    "ServerFeaturesQuery": lambda server, given: {"serverInfo": {"features": []}},
    "OrganizationCoreWeaveOrganizationID": lambda server, given: {"entity": {"organization": None}},
    "UpsertBucket": _upsert,
    "RunResumeStatus": _resume,
    "CreateRunFiles": _create_files,
    "Runs": _runs,
    "Run": _run,
    "RunState": _run,
    "RunHistoryKeys": _run,
    "RunParquetHistory": lambda server, given: {"project": {"run": {"parquetHistory": {"parquetUrls": []}}}},
    "HistoryPage": _history,
    "SampledHistoryPage": _sampled,
    "RunSampledHistory": _sampled,
    "RunFullHistory": _full,
    "DeleteRun": _delete,
    "GetProjects": _projects,
    "ProjectInternalId": lambda server, given: {"project": {"id": "1", "internalId": "1"}},
    "upsertView": _view,
    "SpecificReport": lambda server, given: {"view": server.reports.get(given["reportId"])},
}
