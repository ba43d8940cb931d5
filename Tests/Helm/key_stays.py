"""Whether the gossip key that the chart made once stays the same at an upgrade: Helm's own lookup asks an API server which is played here and
which has nothing but the Secret."""

import base64
import json
import shutil
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import helm_python as helm
import yaml

KEY = base64.b64encode(b"the key of the first installation, which must stay").decode()
OWNED = {"labels": {"app.kubernetes.io/managed-by": "Helm"},
         "annotations": {"meta.helm.sh/release-name": "piko", "meta.helm.sh/release-namespace": "piko"}}
RESOURCES = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": [
    {"name": "secrets", "singularName": "secret", "namespaced": True, "kind": "Secret",
     "verbs": ["create", "delete", "get", "list", "patch", "update"]}]}
# That the server validates what it is sent, so that Helm does not ask for schemas.
VALIDATES = {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.34.0"}, "paths": {
    "/api/v1/namespaces/{namespace}/secrets/{name}": {"patch": {
        "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}], "responses": {"200": {"description": "OK"}},
        "x-kubernetes-group-version-kind": {"group": "", "version": "v1", "kind": "Secret"}}}}}


def answers(secret):
    """What the API server has, by path."""
    found = {"/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}, "/api/v1": RESOURCES,
             "/api": {"kind": "APIVersions", "versions": ["v1"]}, "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
             "/openapi/v3": {"paths": {"api/v1": {"serverRelativeURL": "/openapi/v3/api/v1"}}}, "/openapi/v3/api/v1": VALIDATES}
    if secret:
        found["/api/v1/namespaces/piko/secrets/piko-gossip"] = {
            "kind": "Secret", "apiVersion": "v1", "type": "Opaque", "data": {"gossip-key": KEY},
            "metadata": {"name": "piko-gossip", "namespace": "piko", "resourceVersion": "1"} | OWNED}
    return found


def serve(found, asked):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.split("?")[0]
            asked.append(path)
            body = json.dumps(found.get(path, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404})).encode()
            self.send_response(200 if path in found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def key_made(chart, secret):
    """The key that Helm would write, with or without a Secret in the cluster, and whether it asked for it."""
    asked = []
    server = serve(answers(secret), asked)
    try:
        with helm.Config(namespace="piko", kube_apiserver=f"http://127.0.0.1:{server.server_address[1]}", storage_driver="memory") as config:
            release = config.install(chart, "piko", {}, dry_run="server")
    finally:
        server.shutdown()
        server.server_close()
    if "/api/v1/namespaces/piko/secrets/piko-gossip" not in asked:
        raise RuntimeError(f"Helm did not look for the Secret, but for {asked}")
    return yaml.safe_load(release["manifest"])["data"]["gossip-key"]


def check(chart):
    """What is wrong."""
    with tempfile.TemporaryDirectory() as name:
        # Only the Secret's template: the API server that is played knows no other kind.
        folder = Path(shutil.copytree(chart, Path(name) / "piko"))
        for path in (folder / "templates").iterdir():
            if path.name not in ("_helpers.tpl", "gossip-secret.yaml"):
                path.unlink()
        first, second = key_made(folder, False), key_made(folder, False)
        found = [] if first != second and len(base64.b64decode(first)) == 48 else ["the key is not random"]
        if key_made(folder, True) != KEY:
            found.append("an upgrade makes another key")
    return found
