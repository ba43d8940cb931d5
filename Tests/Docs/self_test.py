"""Tries run_document.py on documents that must fail, and on some that must not: a check that finds nothing must be one that would have."""

import unittest
from concurrent.futures import ThreadPoolExecutor

import check_docs
import compare
import links
import markdown
import run_document

SERVER = "<!-- test: run\npiko server\n-->\n"


def block(text, language="sh", mark=None):
    return (f"<!-- test: {mark} -->\n" if mark else "") + f"```{language}\n{text}\n```\n"


# A document, and what its failure must say; None: it must not fail.
ROWS = [
    ("a command that fails", block("true\nfalse"), "FILE:1: status 1"),
    ("a first command that fails", block("false\ntrue"), "FILE:1: status 1"),
    ("a pipe whose first part fails", block("false | cat"), "status 1"),
    ("a flag that there is not", block("piko server --no-such-flag"), 'unknown flag "--no-such-flag"'),
    ("a status that was announced", block("exit 3", mark="status 3"), None),
    ("another status than announced", block("exit 4", mark="status 3"), "status 4"),
    ("a command that hangs", block("sleep 60", mark="timeout 1"), "did not end within 1 s"),
    ("an answer with an error", SERVER + block("curl -H 'x-piko-endpoint: a' http://localhost:8000/"), "no available upstreams"),
    ("a program that stays", block("piko server\npiko server info\ncurl http://localhost:8002/health"), None),
    ("a program that does not become ready", block("piko server\npiko server"), "Address already in use"),
    ("a program that ends by itself", SERVER + block("kill $(piko server info | sed -n 's/^pid: //p')\nsleep 1"), "ended by itself"),
    ("a program that may end", block("piko server", mark="may end") + block("kill $(piko server info | sed -n 's/^pid: //p')\nsleep 1"), None),
    ("a program that says itself when it is ready", block("echo up\nexec sleep 60", mark='until "up"') + block("true"), None),
    ("afresh", SERVER + block("piko server", mark="afresh"), None),
    ("an output as shown", block("echo 12 apples") + block("7 apples", "text", "output"), None),
    ("another output", block("echo 12 apples") + block("7 pears", "text", "output"), "no line is: 7 pears"),
    ("an output of a session", block("$ echo a\na\n$ echo b\nc", "console"), "no line is: c"),
    ("names in JSON", block("""$ echo '{"a": 1}'\n{"b": 2}""", "console", "names"), "it has no b"),
    ("a key that there is not", block("proxy:\n  no_such_key: 1", "yaml", "server"), 'unknown key "no_such_key"'),
    ("an agent's key that there is not", block("listners: []", "yaml", "agent"), 'unknown key "listners"'),
    ("a forward's key that there is not", block("prts: []", "yaml", "forward"), 'unknown key "prts"'),
    ("a value of the chart that there is not", block("noSuchValue: 1", "yaml", "values"), "noSuchValue"),
    ("an object that Kubernetes does not know", block("apiVersion: v1\nkind: Service\nspec: {prts: []}", "yaml", "kubernetes"), "prts"),
    ("a file of haproxy", block("listen a\n    bind nowhere", "haproxy"), "haproxy -c"),
    ("lines that are not in the file", block("balance leastconn", "haproxy", "part of docs/examples/haproxy.cfg"), "has no such line"),
    ("yaml of no kind", block("a: 1", "yaml"), "is marked as what it is"),
    ("JSON", block('{"a": }', "json"), "not JSON"),
    ("a file that later blocks find", block("a: 1", "json", "file a.json").replace("a: 1", '{"a": 1}') + block("jq -e .a a.json"), None),
    ("a script that there is not", block("true", mark="run by script/no-such-script"), "which is not there"),
    ("a script that does something else", block("systemctl poweroff", mark="run by script/test"), "does not say 'systemctl poweroff'"),
    ("commands that other scripts run", block("docker run IMAGE\nkubectl -n piko exec piko-0 -- piko server info\ntrue",
                                              mark="docker run is run by script/check-image; kubectl is run by script/try-helm"), None),
    ("a command that another script does not run", block("true\nkubectl -n piko cordon a", mark="kubectl is run by script/try-helm"),
     "does not say 'kubectl cordon'"),
    ("a command that is not run", block("false\ntrue", mark="false is not run: it fails"), None),
    ("a mark that fits nothing", block("true", mark="systemctl is not run: it fails"), "nothing here begins with systemctl"),
    ("a mark that there is not", block("true", mark="skip"), "there is no mark 'skip'"),
    ("a mark without a block", "<!-- test: afresh -->\n\nText.\n", "a mark with no block below it"),
    ("a block by indentation", "Text:\n\n    piko server\n", "a block by indentation"),
    ("a command in a text", block("piko server", "text"), "a command in a block of text"),
    ("a language that there is not", block("true", "shell"), "a block of 'shell'"),
    ("the network", block("curl --max-time 5 http://192.0.2.1/"), "curl"),
    ("the machine's files", block("echo a >/etc/piko-was-here && rm -r docs && test ! -e /run/systemd"), None),
]


class Documents(unittest.TestCase):
    def test_rows(self):
        with ThreadPoolExecutor(4) as pool:
            failures = list(pool.map(lambda row: check_docs.run("-", check_docs.programs(), row[1])["failure"], ROWS))
        for (name, _, expected), failure in zip(ROWS, failures):
            with self.subTest(name):
                if expected is None:
                    self.assertIsNone(failure)
                else:
                    self.assertIn(expected.replace("FILE", "-"), failure or "nothing failed")
        self.assertTrue((links.ROOT / "docs").is_dir(), "a document removed the folder of the documents")

    def test_anchors(self):
        taken = set()
        for heading, anchor in [("With systemd", "with-systemd"), ("A server: `piko server diagnose`", "a-server-piko-server-diagnose"),
                                ("Reading the loop's lag", "reading-the-loops-lag"), ("With systemd", "with-systemd-1")]:
            self.assertEqual(markdown.anchor_of(heading, taken), anchor)
            taken.add(anchor)

    def test_links(self):
        text = "# A `b`\n[a](x.txt#c) [over\nlines](o.txt) ![p](y.png) `[no](z.txt)` and `docs/README.md`\n```sh\n[no](q.txt)\n```\n"
        document = markdown.read("-", text)
        self.assertEqual(document.links, [(2, "x.txt#c", False), (2, "o.txt", False), (3, "y.png", True)])
        self.assertEqual(document.names, [(3, "docs/README.md")])
        self.assertEqual(document.anchors, {"a-b"})

    def test_outputs(self):
        for expected, output, same in [("a 1.5  b", "a 22 b", True), ("a …", "a b c", True), ("a\n…\nd", "a\nb\nc\nd", True),
                                       ("a\nd", "a\nb\nd", False), ("id: node-1", "id: node-37", True), ("a.b", "axb", False), ("a", "a\n\n", True)]:
            self.assertEqual(compare.difference(expected, output) is None, same, (expected, output))

    def test_commands(self):
        self.assertEqual(run_document.commands_of("# no\na \\\n  b\n\nc"), ["a \\\n  b", "c"])
        for command, stays in [("piko server", True), ("piko server --log.level warn", True), ("piko server info", False),
                               ("piko server &", False), ("piko agent http a 3000   # a comment", True), ("piko agent diagnose http a 3000", False),
                               ("piko bench http", False), ("piko server --help", False)]:
            self.assertEqual(run_document.ready_text(command) is not None, stays, command)
        for command, name in [("docker compose up --detach", "docker compose up"), ("kubectl -n piko exec piko-0 -- true", "kubectl exec"),
                              ("sudo systemctl reload piko-agent  # now", "systemctl reload"), ("script/setup", "script/setup"), ("ls -l a", "ls")]:
            self.assertEqual(run_document.name_of(command), name)


if __name__ == "__main__":
    unittest.main()
