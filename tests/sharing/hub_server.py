"""A stand-in of the Hub's HTTP API on this machine: repositories, branches, commits, LFS, downloads, tokens, failures.

huggingface_hub's own client talks to it (`HF_ENDPOINT`). What it takes and gives is what that client sends and reads:
a commit is one request, and a file is LFS where it is a safetensors file, as on the Hub.
"""

import base64
import hashlib
import json
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKENS = {"hf_ann": ("ann", {"ann", "org"}), "hf_bob": ("bob", {"bob"})}
"""Token → whose it is, and in which namespaces they may write."""


@dataclass
class Repository:
    """A repository: its commits by id, each with files by path, and the branches that point to them."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit that a branch or an id names, with its files."""
        commit = self.branches.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else None


@dataclass
class Failure:
    """What goes wrong at requests whose method and path match: a status, or seconds of silence, a number of times."""

    pattern: str
    status: int = 503
    times: int = 1
    silence: float = 0.0
    afterwards: bool = False
    """Whether the request is served first, and its answer lost."""


class Hub:
    """The state of the stand-in, and the requests that it had."""

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.failures: list[Failure] = []
        self.endpoint = ""

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository at a revision."""
        return self.repositories[name].at(revision)[1]


@contextmanager
def serving():
    """A `Hub` that answers at its `endpoint` while this is open."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self):
        length = int(self.headers.get("Content-Length") or 0)
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            self.body = self._chunks()
        else:
            self.body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        line = f"{self.command} {path}"
        self.hub.requests.append(line)
        failure = next((f for f in self.hub.failures if f.times and re.search(f.pattern, line)), None)
        if failure is not None:
            failure.times -= 1
            if failure.afterwards:
                self._route(path, silent=True)
            if failure.silence:
                time.sleep(failure.silence)
            self.close_connection = True
            return None if failure.silence else self._answer(failure.status, {"error": "made to fail"})
        return self._route(path)

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _route(self, path, silent=False):
        self.silent = silent
        routes = (
            (r"POST /api/repos/create", self._create),
            (r"POST /api/validate-yaml", lambda: self._answer(200, {"errors": [], "warnings": []})),
            (r"POST /api/models/([^/]+/[^/]+)/branch/(.+)", self._branch),
            (r"POST /api/models/([^/]+/[^/]+)/preupload/(.+)", self._preupload),
            (r"POST /api/models/([^/]+/[^/]+)/commit/(.+)", self._commit),
            (r"GET /api/models/([^/]+/[^/]+)/tree/([^/]+).*", self._tree),
            (r"GET /api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self._info),
            (r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            (r"PUT /lfs/(\w+)", self._put),
            (r"(?:GET|HEAD) /([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
        )
        for pattern, handle in routes:
            match = re.fullmatch(pattern, f"{self.command} {path}")
            if match:
                return handle(*match.groups())
        return self._answer(404, {"error": f"the stand-in has no {self.command} {path}"})

    def _answer(self, status, value=None, content=None, **headers):
        if getattr(self, "silent", False):
            return
        content = json.dumps(value).encode() if content is None else content
        self.send_response(status)
        for key, text in headers.items():
            self.send_header(key.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _who(self):
        return TOKENS.get((self.headers.get("authorization") or "").removeprefix("Bearer "), (None, set()))

    def _may_write(self, name) -> bool:
        who, namespaces = self._who()
        if who is None:
            self._answer(401, {"error": "Invalid username or password."})
        elif name.partition("/")[0] not in namespaces:
            self._answer(403, {"error": "You don't have the rights to write here"}, X_Error_Message="no rights")
        return who is not None and name.partition("/")[0] in namespaces

    def _repository(self, name, revision="main"):
        found = self.hub.repositories.get(name)
        if found is None or (found.private and name.partition("/")[0] not in self._who()[1]):
            status = 404 if self._who()[0] else 401
            self._answer(status, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return None
        if found.at(revision) is None:
            self._answer(404, {"error": "Revision not found"}, X_Error_Code="RevisionNotFound")
            return None
        return found

    def _create(self):
        values = json.loads(self.body)
        name = f"{values.get('organization') or self._who()[0]}/{values['name']}"
        if not self._may_write(name):
            return
        url = {"url": f"{self.hub.endpoint}/{name}"}
        if name in self.hub.repositories:
            self._answer(409, {"error": "You already created this model repo", **url})
            return
        private = values.get("visibility") == "private" or values.get("private") is True
        self.hub.repositories[name] = Repository(private)
        self._answer(200, url)

    def _branch(self, name, branch):
        if not self._may_write(name):
            return
        repository = self._repository(name)
        if branch in repository.branches:
            self._answer(409, {"error": "Reference already exists"})
            return
        repository.branches[branch] = repository.branches["main"]
        self._answer(200, {})

    def _preupload(self, name, revision):
        if not self._may_write(name):
            return
        repository = self._repository(name, revision)
        if repository is None:
            return
        there = repository.at(revision)[1]
        files = [
            {
                "path": each["path"],
                "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
                "oid": _blob_id(there[each["path"]], each["path"]) if each["path"] in there else None,
            }
            for each in json.loads(self.body)["files"]
        ]
        self._answer(200, {"files": files})

    def _batch(self, name):
        if not self._may_write(name):
            return
        objects = []
        for each in json.loads(self.body)["objects"]:
            href = {"upload": {"href": f"{self.hub.endpoint}/lfs/{each['oid']}"}}
            objects.append(each if each["oid"] in self.hub.objects else each | {"actions": href})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _put(self, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.objects[oid] = self.body
        self._answer(200, {})

    def _commit(self, name, branch):
        if not self._may_write(name):
            return
        repository = self._repository(name, branch)
        if repository is None:
            return
        _, before = repository.at(branch)
        files = dict(before)
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        commit = hashlib.sha1(self.body + str(len(repository.commits)).encode()).hexdigest()
        repository.commits[commit] = files
        repository.branches[branch] = commit
        self._answer(200, {"commitUrl": f"{self.hub.endpoint}/{name}/commit/{commit}", "commitOid": commit})

    def _info(self, name, revision):
        repository = self._repository(name, revision or "main")
        if repository is not None:
            commit, files = repository.at(revision or "main")
            siblings = [{"rfilename": path} for path in files]
            values = {"id": name, "modelId": name, "sha": commit, "private": repository.private, "siblings": siblings}
            self._answer(200, values | {"tags": [], "downloads": 0, "likes": 0})

    def _tree(self, name, revision):
        repository = self._repository(name, revision)
        if repository is not None:
            files = repository.at(revision)[1]
            self._answer(200, [_tree_entry(path, content) for path, content in files.items()])

    def _resolve(self, name, revision, path):
        repository = self._repository(name, revision)
        if repository is None:
            return
        commit, files = repository.at(revision)
        if path not in files:
            self._answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            return
        etag = f'"{_blob_id(files[path], path)}"'
        self._answer(200, content=files[path], X_Repo_Commit=commit, ETag=etag)


def _blob_id(content: bytes, path: str) -> str:
    """git's id of a file, or of an LFS file the SHA-256 of its content."""
    if path.endswith(".safetensors"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def _tree_entry(path: str, content: bytes) -> dict:
    entry = {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content), "path": path}
    if path.endswith(".safetensors"):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry
