"""The files of the admin port's page: types, policy, who gets them. What the page does is tested in a browser (Tests/UI)."""

import re

import pytest

from peer.http1 import Connection, request
from programs import ROOT

PAGE = ROOT / "Sources/CAssets/page"
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
          "frame-ancestors 'none'")
FILES = [("", "index.html", "text/html; charset=utf-8"), ("app.js", "app.js", "text/javascript; charset=utf-8"),
         ("tables.js", "tables.js", "text/javascript; charset=utf-8"), ("style.css", "style.css", "text/css; charset=utf-8"),
         ("icon.svg", "icon.svg", "image/svg+xml")]


def test_files(node):
    with Connection(node.admin) as client:
        for name, file, kind in FILES:
            answer = client.request(target=f"/ui/{name}", host="a")
            assert answer.status == 200 and answer.body == (PAGE / file).read_bytes(), name
            assert answer.get("content-type") == kind and answer.get("content-security-policy") == POLICY
            assert answer.get("x-content-type-options") == "nosniff" and answer.get("referrer-policy") == "no-referrer"
            assert answer.get("cache-control") == "no-cache"
            head = client.request("HEAD", f"/ui/{name}", host="a")
            assert head.status == 200 and head.body == b"" and int(head.get("content-length")) == len(answer.body)
            assert client.request("POST", f"/ui/{name}", host="a").status == 405
        answer = client.request(target="/ui", host="a")
        assert answer.status == 308 and answer.get("location") == "ui/"


@pytest.mark.parametrize("target", ["/ui/nothing.js", "/ui/index.html", "/ui/../metrics", "/ui/%61pp.js", "/ui//app.js", "/uix", "/ui/app.js/"])
def test_no_other_files(node, target):
    assert request(node.admin, target=target, host="a").status == 404


def test_files_name_nothing_elsewhere():
    """No script, style or handler in the HTML, which the policy would refuse; nothing that writes HTML; no other host."""
    html = (PAGE / "index.html").read_text()
    assert not re.search(r"<style|\bstyle=|\bon[a-z]+=|<script(?![^>]*\bsrc=\"app\.js\")", html)
    for file in PAGE.iterdir():
        text = file.read_text()
        assert re.findall(r"https?://[^\"' ]+", text) in ([], ["http://www.w3.org/2000/svg"]), file
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), file


def test_files_need_no_token(new_node):
    node = new_node(arguments=["--admin.auth.hmac-secret-key", "a-secret-that-is-long-enough-for-this"])
    for name in ["", *(f"/{name}" for name, _, _ in FILES)]:
        assert request(node.admin, target=f"/ui{name}", host="a").status in (200, 308)
    for target in ("/status/node", "/ui/nothing.js", "/ui/?forward=other"):
        assert request(node.admin, target=target, host="a").status == 401
