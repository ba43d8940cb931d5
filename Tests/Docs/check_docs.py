"""Runs what the documents say: every block of commands of README.md, CONTRIBUTING.md, SECURITY.md and docs/, each document in a sandbox of its
own, several side by side; checks the examples, and the links of all Markdown files. See script/test-docs, and markdown.py for the marks.

    check_docs.py [--jobs N] [DOCUMENT…]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.dont_write_bytecode = True
import links  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
HERE = "Tests/Docs"
# What script/test-docs made, as it is called in the sandbox.
PYTHON = "/mnt/tree/.venv-docs/bin/python"
# A document that takes longer than this hangs.
SECONDS = 170
NAMESPACES = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]


def documents():
    top = [name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md") if (ROOT / name).is_file()]
    return top + sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))


def programs():
    return os.environ["PIKO_BIN"]


def run(name, programs, text=""):
    """What run_document.py found, or what kept it from finding anything. The document - is the text."""
    environment = dict(os.environ, PATH=f"/mnt/tree/{HERE}/bin:" + os.environ["PATH"], DOCS_PYTHON=PYTHON)
    with tempfile.TemporaryDirectory(prefix="test-docs-") as scratch:
        command = [*NAMESPACES, str(ROOT / HERE / "sandbox"), str(ROOT), programs, scratch, PYTHON, f"{HERE}/run_document.py", name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, input=text, env=environment)
        except subprocess.TimeoutExpired:
            return {"failure": f"{name}: not done within {SECONDS} s", "seconds": SECONDS}
    try:
        return json.loads(done.stdout)
    except ValueError:
        return {"failure": f"{name}: {(done.stdout + done.stderr).strip()[-3000:]}", "seconds": 0}


def of(number, word):
    return f"{number} {word}{'' if number == 1 else 's'}"


def line_for(name, result):
    if result["failure"]:
        return f"{name}: FAILED\n{result['failure']}"
    count, parts = result["count"], []
    if count["commands"]:
        parts.append(f"{of(count['commands'], 'command')} run")
    if count["outputs"]:
        parts.append(f"{of(count['outputs'], 'output')} compared")
    if count["files"]:
        parts.append(f"{of(count['files'], 'file')} judged")
    if result["elsewhere"]:
        parts.append(f"{sum(number for *_, number in result['elsewhere'])} run by other scripts")
    if result["skipped"]:
        parts.append(f"{len(result['skipped'])} not run")
    return f"{name}: {', '.join(parts) or 'nothing to run'} ({result['seconds']:.1f} s)"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("documents", nargs="*")
    options = parser.parse_args()
    names = options.documents or documents()
    failed = False
    results = {}
    with ThreadPoolExecutor(options.jobs) as pool:
        for name, result in zip(names, pool.map(lambda name: run(name, programs()), names)):
            results[name] = result
            failed = failed or bool(result["failure"])
            print(line_for(name, result), flush=True)
    if not options.documents:
        count, files, wrong = links.check()
        print(f"links: {count} in {files} Markdown files" + (f", {len(wrong)} of them wrong:" if wrong else ""))
        for one in wrong:
            print(f"  {one}")
        failed = failed or bool(wrong)

    elsewhere = {}
    for name, result in results.items():
        for line, script, number in result.get("elsewhere", []):
            elsewhere.setdefault(script, []).append((f"{name}:{line}", number))
    for script, places in sorted(elsewhere.items()):
        print(f"run by {script}: {of(sum(number for _, number in places), 'command')} ({', '.join(place for place, _ in places)})")
    reasons = {}
    for name, result in results.items():
        for line, command, why in result.get("skipped", []):
            reasons.setdefault(why, []).append((f"{name}:{line}", command))
    for why, places in sorted(reasons.items()):
        print(f"not run, {why}: {of(len(places), 'command')}")
        for place, command in places:
            print(f"  {place}: {command.splitlines()[0]}")
    total = sum(result.get("count", {}).get("commands", 0) for result in results.values())
    print(f"test-docs: {of(total, 'command')} of {of(len(names), 'document')} run" + (", and something failed" if failed else ""))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
