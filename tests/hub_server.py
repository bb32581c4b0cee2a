"""A small Hugging Face Hub on 127.0.0.1, so that tests can run the real client code without the network.

`HubServer` holds model and dataset repositories in memory and speaks as much of the Hub's HTTP interface as
`huggingface_hub`, `transformers` and `datasets` need to create a repository, push to it (plain files in the commit
itself, weights and Parquet through Git LFS) and read it back (listings, downloads, byte ranges for streaming):

    with HubServer() as hub:
        subprocess.run([sys.executable, "-c", code], env=hub.environment(tmp_path / "hf_home"), check=True)
        assert "config.json" in hub.files("team/model")

The clients read `HF_ENDPOINT` once, when they are imported, and cache what they download: each push and each load
belongs in a process of its own, and a load proves something only with an `hf_home` the push did not use.

A private repository is there only for those who send the token `hf_dummy`.

What it does not do: it checks no token of a public repository, has no branches, tags, pull requests or history
(one revision per repository: `main`, or the id of its last commit), no Spaces, no Xet and no multipart uploads,
adds no `.gitattributes`, and only looks for a metadata block in a README instead of validating it. A request that it
does not know is answered 404 and, like all others, noted in `HubServer.requests`. There is no dataset viewer:
`datasets` looks for one under the name `datasets-server.127.0.0.1`, finds no such host, and goes on without.
"""

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit


USER = "tester"
TOKEN = "hf_dummy"
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".parquet", ".arrow", ".onnx", ".npz", ".flac", ".wav", ".mp3")
LFS_THRESHOLD = 10 * 2**20
REPO = r"(?P<repo_id>[^/]+(?:/[^/]+)?)"
API_REPO = rf"/api/(?P<kind>model|dataset)s/{REPO}"
WEB_REPO = rf"/(?:(?P<kind>dataset)s/)?{REPO}"
REVISION = r"(?P<revision>[^/]+)"
ROUTES: list[tuple[str, re.Pattern[str], Callable[..., None]]] = []


def route(method: str, pattern: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Have the decorated method answer these requests, with the named groups of the pattern as its arguments."""

    def register(answer: Callable[..., None]) -> Callable[..., None]:
        ROUTES.append((method, re.compile(pattern), answer))
        return answer

    return register


@dataclass(frozen=True)
class RepoFile:
    content: bytes
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def blob_id(self) -> str:
        """Git's own hash, which the client compares with its local files: for an LFS file, of the pointer to it."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        blob = pointer.encode() if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.blob_id


@dataclass
class Repo:
    repo_id: str
    files: dict[str, RepoFile] = field(default_factory=dict)
    commits: int = 0
    private: bool = False

    @property
    def sha(self) -> str:
        return hashlib.sha1(f"{self.repo_id} {self.commits}".encode()).hexdigest()

    def entries(self) -> list[dict[str, Any]]:
        """All folders and files, as the `tree` and `paths-info` answers describe them."""
        folders = {str(parent) for path in self.files for parent in PurePosixPath(path).parents} - {"."}
        entries: list[dict[str, Any]] = [
            {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}
            for path in sorted(folders)
        ]
        for path, file in sorted(self.files.items()):
            size = len(file.content)
            lfs = {"lfs": {"oid": file.sha256, "size": size, "pointerSize": 134}} if file.lfs else {}
            entries.append({"type": "file", "path": path, "oid": file.blob_id, "size": size} | lfs)
        return entries


class HubError(Exception):
    """An error answer; the client turns the `X-Error-Code` header into its own exception types."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: without this, each answer can wait 40 ms
    hub: "HubServer"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.body = self.read_body()  # always, or what is left of it would be taken for the next request
        try:
            for method, pattern, answer in ROUTES:
                # The path is matched before it is unquoted: an escaped slash belongs to a revision or to a file name.
                match = pattern.fullmatch(url.path)
                if match and method == ("GET" if self.command == "HEAD" else self.command):
                    return answer(self, **{name: unquote(value or "") for name, value in match.groupdict().items()})
            raise HubError(404, f"the test hub does not know {self.command} {url.path}")
        except HubError as error:
            headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
            self.reply({"error": error.message}, error.status, headers)

    do_HEAD = do_POST = do_PUT = do_GET

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def reply(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.hub.requests.append(f"{self.command} {urlsplit(self.path).path} {status}")
        self.send_response(status)
        mime_type = "application/octet-stream" if body is content else "application/json"
        for name, value in {"Content-Type": mime_type, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Nothing on stderr: `HubServer.requests` is the log."""

    def repo(self, kind: str, repo_id: str, revision: str = "") -> Repo:
        repo = self.hub.repos.get((kind or "model", repo_id))
        if repo is None or (repo.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            raise HubError(404, "Repository not found", "RepoNotFound")
        if revision not in ("", "main", repo.sha):
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repo

    @route("GET", "/api/whoami-v2")
    def whoami(self) -> None:
        token = {"displayName": "test", "role": "write"}
        self.reply({"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token", "accessToken": token}})

    @route("POST", "/api/repos/create")
    def create_repo(self) -> None:
        request = json.loads(self.body)
        kind = request.get("type") or "model"
        repo_id = f"{request.get('organization') or USER}/{request['name']}"
        if kind not in ("model", "dataset"):
            raise HubError(400, f"the test hub has no {kind} repositories")
        with self.hub.lock:
            exists = (kind, repo_id) in self.hub.repos
            self.hub.repos.setdefault((kind, repo_id), Repo(repo_id, private=request.get("visibility") == "private"))
        # When the caller said `exist_ok`, the client takes the address from the 409 too.
        url = f"{self.hub.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repo_id}"
        self.reply({"url": url, "name": repo_id}, 409 if exists else 200)

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self) -> None:
        has_block = re.match(r"---\s*\n.*?\n---", json.loads(self.body)["content"], re.DOTALL)
        warnings = [] if has_block else [{"message": "empty or missing yaml metadata in repo card"}]
        self.reply({"errors": [], "warnings": warnings})

    @route("GET", rf"{API_REPO}(?:/revision/{REVISION})?")
    def info(self, kind: str, repo_id: str, revision: str) -> None:
        repo = self.repo(kind, repo_id, revision)
        # Only one-line fields (the standard library has no YAML): enough for `pipeline()` to find its task.
        card = repo.files["README.md"].content.decode() if "README.md" in repo.files else ""
        block = card.split("\n---", 1)[0] if card.startswith("---") else ""
        metadata = dict(re.findall(r"^(pipeline_tag|library_name): *(\S+) *$", block, re.MULTILINE))
        siblings = [{"rfilename": path} for path in sorted(repo.files)]
        info = {"id": repo_id, "sha": repo.sha, "private": repo.private, "gated": False, "tags": [], "siblings": siblings}
        self.reply(info | metadata)

    @route("GET", rf"{API_REPO}/refs")
    def refs(self, kind: str, repo_id: str) -> None:
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": self.repo(kind, repo_id).sha}
        self.reply({"branches": [main], "converts": [], "tags": [], "pullRequests": []})

    @route("GET", rf"{API_REPO}/tree/{REVISION}(?:/(?P<path>.*))?")
    def tree(self, kind: str, repo_id: str, revision: str, path: str) -> None:
        prefix = f"{path}/" if path else ""
        inside = [e for e in self.repo(kind, repo_id, revision).entries() if e["path"].startswith(prefix)]
        if path and not inside:
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound")
        recursive = self.query.get("recursive", [""])[0].lower() in ("true", "1")
        self.reply([e for e in inside if recursive or "/" not in e["path"].removeprefix(prefix)])

    @route("POST", rf"{API_REPO}/paths-info/{REVISION}")
    def paths_info(self, kind: str, repo_id: str, revision: str) -> None:
        paths = parse_qs(self.body.decode()).get("paths", [])
        self.reply([e for e in self.repo(kind, repo_id, revision).entries() if e["path"] in paths])

    @route("POST", rf"{API_REPO}/preupload/{REVISION}")
    def preupload(self, kind: str, repo_id: str, revision: str) -> None:
        repo = self.repo(kind, repo_id, revision)
        answer = []
        for path, size in ((file["path"], file["size"]) for file in json.loads(self.body)["files"]):
            mode = "lfs" if path.endswith(LFS_SUFFIXES) or size > LFS_THRESHOLD else "regular"
            # `oid` lets the client leave out of the commit what has not changed.
            oid = repo.files[path].etag if path in repo.files else None
            answer.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.reply({"files": answer})

    @route("POST", rf"{WEB_REPO}\.git/info/lfs/objects/batch")
    def lfs_batch(self, kind: str, repo_id: str) -> None:
        self.repo(kind, repo_id)
        objects = []
        for oid, size in ((item["oid"], item["size"]) for item in json.loads(self.body)["objects"]):
            upload = {"actions": {"upload": {"href": f"{self.hub.endpoint}/lfs/{oid}"}}}
            # No action for what is here already. No `verify` action either: the upload checks the hash.
            objects.append({"oid": oid, "size": size} | ({} if oid in self.hub.lfs else upload))
        self.reply({"transfer": "basic", "objects": objects})

    @route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
    def lfs_upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, "the content does not have the announced sha256")
        self.hub.lfs[oid] = self.body
        self.reply({})

    @route("POST", rf"{API_REPO}/commit/{REVISION}")
    def commit(self, kind: str, repo_id: str, revision: str) -> None:
        if "create_pr" in self.query:
            raise HubError(400, "the test hub has no pull requests")
        with self.hub.lock:
            repo = self.repo(kind, repo_id, revision)
            files = dict(repo.files)  # a copy takes its place at the end: a refused commit leaves no trace
            for line in self.body.splitlines():
                key, value = (item := json.loads(line))["key"], item["value"]
                path = value.get("path", "")
                if key == "header":
                    if value.get("parentCommit", repo.sha) != repo.sha:
                        raise HubError(412, "A commit has happened since. Please refresh and try again.")
                elif key == "file":
                    files[path] = RepoFile(base64.b64decode(value["content"]), lfs=False)
                elif key == "lfsFile" and value["oid"] in self.hub.lfs:
                    files[path] = RepoFile(self.hub.lfs[value["oid"]], lfs=True)
                elif key in ("deletedFile", "deletedFolder"):
                    folder = path.rstrip("/") + "/" if key == "deletedFolder" else None
                    gone = [name for name in files if (name.startswith(folder) if folder else name == path)]
                    if not gone:
                        raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
                    files = {name: file for name, file in files.items() if name not in gone}
                else:
                    raise HubError(400, f"cannot commit this {key}: {path}")
            repo.files, repo.commits = files, repo.commits + 1
            sha = repo.sha
        self.reply({"success": True, "commitOid": sha, "commitUrl": f"{self.hub.endpoint}/{repo_id}/commit/{sha}"})

    @route("GET", rf"{WEB_REPO}/resolve/{REVISION}/(?P<path>.+)")
    def resolve(self, kind: str, repo_id: str, revision: str, path: str) -> None:
        repo = self.repo(kind, repo_id, revision)
        file = repo.files.get(path)
        if file is None:
            raise HubError(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": repo.sha, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if span is None or not any(span.groups()):
            return self.reply(file.content, headers=headers)
        first, last, size = *span.groups(), len(file.content)
        start = int(first) if first else max(0, size - int(last))
        stop = min(int(last) + 1, size) if first and last else size
        if start >= stop:
            return self.reply(b"", 416, headers | {"Content-Range": f"bytes */{size}"})
        self.reply(file.content[start:stop], 206, headers | {"Content-Range": f"bytes {start}-{stop - 1}/{size}"})


@dataclass
class HubServer:
    """The server, running between `with HubServer() as hub:` and the end of the block, on a free port."""

    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)  # "METHOD path status", in the order of the answers
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": self}))
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def environment(self, hf_home: Path) -> dict[str, str]:
        """The whole environment of a process that is to use this server, with its caches under `hf_home`.

        Hugging Face and proxy settings of the calling process are dropped: an offline switch or a cache folder among
        them would lead the child past the server, or past its empty cache.
        """
        hf_home.mkdir(parents=True, exist_ok=True)
        foreign = re.compile(r"(?i)(HF|HUGGINGFACE|HUGGING_FACE|TRANSFORMERS|DATASETS)_|(HTTPS?|ALL)_PROXY$")
        return {name: value for name, value in os.environ.items() if not foreign.match(name)} | {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(hf_home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # `datasets` counts downloads at an address outside of `HF_ENDPOINT`
        }

    def files(self, repo_id: str, repo_type: str = "model") -> dict[str, bytes]:
        return {path: file.content for path, file in self.repos[repo_type, repo_id].files.items()}
