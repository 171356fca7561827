"""What `bcrit sync` asks of a Weights & Biases server: which lines it has, a run's description, lines at their places.

These are the requests of the client (wandb 0.31) itself. Lines are sent with the number of the first one, as the client
does when it repeats a request, so that a repetition changes nothing. A rate limit is waited for as long as it says.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from configs.errors import ConfigError
from configs.mirrored import Described, Row

TIMEOUT_S = (10.0, 60.0)  # to connect, to answer
RETRIES = Retry(
    total=6,
    status_forcelist=(408, 429, 500, 502, 503, 504),
    allowed_methods=None,  # POST too: what is sent twice lies at the same place
    backoff_factor=0.25,  # s, doubled each time
    backoff_jitter=0.25,
    respect_retry_after_header=True,
    raise_on_status=False,
)
EMPTY_ANSWERS = 4  # in a row before a question is given up
# As `define_metric("*", step_metric="tokens")` writes it: tokens are the x-axis of every chart.
AXIS = [{"2": "*", "5": 2, "6": [1], "7": []}, {"1": "tokens", "6": [], "7": []}]

RUNS = """query Runs($project: String!, $entity: String!, $filters: JSONString, $perPage: Int) {
  project(name: $project, entityName: $entity) {
    runs(filters: $filters, first: $perPage) { edges { node { name state historyLineCount } } }
  }
}"""
UPSERT = """mutation UpsertBucket($name: String, $project: String, $entity: String, $groupName: String,
  $displayName: String, $config: JSONString, $tags: [String!]) {
  upsertBucket(input: {name: $name, modelName: $project, entityName: $entity, groupName: $groupName,
    displayName: $displayName, config: $config, tags: $tags}) { bucket { name historyLineCount } inserted }
}"""
VIEWER = "query Viewer { viewer { entity } }"


class ServerError(RuntimeError):
    """The server was not reached, or did not do what it was asked; one line says why."""


class UnreachableError(ServerError):
    """The server was not reached or does not know who asks: nothing else that is asked of it would succeed."""


@dataclass(frozen=True)
class There:
    """What the server has of a run."""

    lines: int = 0
    state: str = ""  # "": it does not know the run


@dataclass(frozen=True)
class Server:
    """A server and who asks it. One is enough for several threads."""

    url: str
    session: requests.Session
    timeout_s: tuple[float, float]

    def default_entity(self) -> str:
        """The user's own entity. Raises ServerError."""
        viewer = self._graphql(VIEWER, {})["viewer"]
        if not viewer:
            raise UnreachableError(f"{self.url} does not know this API key; run `wandb login`")
        return viewer["entity"]

    def look(self, entity: str, project: str, ids: Sequence[str]) -> dict[str, There]:
        """What the server has of each of the runs. Raises ServerError."""
        filters = json.dumps({"name": {"$in": list(ids)}})
        asked = {"project": project, "entity": entity, "filters": filters, "perPage": len(ids)}
        found = self._graphql(RUNS, asked)["project"] or {"runs": {"edges": []}}
        nodes = [edge["node"] for edge in found["runs"]["edges"]]
        known = {node["name"]: There(node["historyLineCount"] or 0, node["state"]) for node in nodes}
        return {identity: known.get(identity, There()) for identity in ids}

    def describe(self, entity: str, project: str, run: Described) -> None:
        """Make a run known, or describe it anew. Raises ServerError."""
        config = {key: {"value": value} for key, value in run.config.items()}
        config["_wandb"] = {"value": {"m": AXIS, "t": {"3": []}}}
        about = {"name": run.id, "groupName": run.group, "displayName": run.name, "tags": list(run.tags)}
        self._graphql(UPSERT, {"project": project, "entity": entity, "config": json.dumps(config), **about})

    def send(self, entity: str, project: str, identity: str, first: int, lines: Sequence[Row]) -> None:
        """Put lines at their places in a run's history. Raises ServerError."""
        content = [json.dumps(line) for line in lines]
        self._stream(
            entity, project, identity, {"files": {"wandb-history.jsonl": {"offset": first, "content": content}}}
        )

    def conclude(self, entity: str, project: str, identity: str, summary: Row, ending: Row) -> None:
        """Replace a run's summary; `ending` says that it has ended and how, or nothing. Raises ServerError."""
        content = {"offset": 0, "content": [json.dumps(summary)]}
        self._stream(entity, project, identity, {"files": {"wandb-summary.json": content}, **ending})

    def _stream(self, entity: str, project: str, identity: str, content: Row) -> None:
        self._post(f"/files/{entity}/{project}/{identity}/file_stream", content)

    def _graphql(self, query: str, variables: Row) -> Row:
        for _ in range(EMPTY_ANSWERS):
            answer = self._post("/graphql", {"query": query, "variables": variables})
            if errors := answer.get("errors"):
                raise ServerError(str(errors[0].get("message", errors[0])))
            if data := answer.get("data"):
                return data
        raise ServerError(f"{self.url}/graphql answers without data")

    def _post(self, path: str, content: Any) -> Row:
        try:
            answer = self.session.post(self.url + path, json=content, timeout=self.timeout_s)
        except requests.RequestException as error:
            raise UnreachableError(f"{self.url} is not reached: {type(error).__name__}") from error
        if answer.status_code == 401:
            raise UnreachableError(f"{self.url} does not know this API key; run `wandb login`")
        try:
            found = answer.json()
        except ValueError:
            found = {}
        if not answer.ok and not found.get("errors"):
            raise ServerError(f"{self.url}{path} answers {answer.status_code} {answer.reason}")
        return found


def connect() -> Server:
    """The server of the client's settings, with its key, as `wandb login` or WANDB_API_KEY left it.

    Nothing is asked of the server yet. Raises ConfigError without a key.
    """
    import wandb
    from wandb.sdk.lib import wbauth

    url = wandb.setup().settings.base_url
    try:
        auth = wbauth.authenticate_session(host=url, source="bcrit sync", prompt=False, update_session=False)
    except wandb.Error as error:
        raise ConfigError(f"wandb: {str(error).splitlines()[0]}") from None
    if not isinstance(auth, wbauth.AuthApiKey):
        raise ConfigError(f"wandb: no API key for {url}; run `wandb login`, or set WANDB_API_KEY")
    return server_at(url, auth.api_key)


def server_at(url: str, key: str, timeout_s: tuple[float, float] = TIMEOUT_S) -> Server:
    """The server at an address; `timeout_s`: to connect, and to answer."""
    session = requests.Session()
    session.auth = ("api", key)
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=RETRIES, pool_maxsize=16))
    return Server(url.rstrip("/"), session, timeout_s)
