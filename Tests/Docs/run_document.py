"""Runs the blocks of one document, in their order, and judges what they do. Runs within Tests/Docs/sandbox; writes what it found as JSON.

    run_document.py DOCUMENT       - is one on standard input

Each block of sh is one script of bash, which ends at the first command that fails, in the document's folder. A block in which a program
stays (STAYS, and no & behind it) is taken line by line instead, as a reader would who gives each such program a terminal: a line with
such a program is left running once it is ready, and must still run when the document ends. (Not so where the block is to end with a
status, or says itself when it is ready.) A block of console has commands behind
"$ ", and below each what it writes.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import compare
import judge
import markdown

# Programs that stay, and what they have written when they are ready.
STAYS = [
    (re.compile(r"piko server( --\S+|$)"), '"server ready"'),
    (re.compile(r"piko(-agent agent| agent) (http|tcp|start) "), '"connected"'),
    (re.compile(r"piko forward "), '"listening"'),
    (re.compile(r"piko test cluster"), "nodes serve"),
    (re.compile(r"piko-demo-service "), ":"),
    (re.compile(r"python3 -m http\.server"), "Serving HTTP"),
]
READY_SECONDS = 20
# Commands that are no text, whatever their block is called.
COMMANDS = re.compile(r"(\$ |piko |curl |kubectl |helm |script/|systemctl |swift |docker |apt )")
ENVIRONMENT_FILE = Path("/mnt/own/environment")


class Failure(Exception):
    """A command that did not do what it should: where, what, and why."""


def commands_of(text):
    """The block's commands: lines, joined where they go on, without comments of their own."""
    commands, held = [], ""
    for line in text.split("\n"):
        held = held + "\n" + line if held else line
        if held.endswith("\\"):
            continue
        if held.strip() and not held.lstrip().startswith("#"):
            commands.append(held.strip())
        held = ""
    return commands


def without_comment(command):
    return re.sub(r"\s+#\s.*$", "", command).strip()


def name_of(command):
    """Program and subcommand, or the program alone: what of a command says what it does."""
    plain = re.sub(r"^(sudo |[A-Z_]+=\S+ )+", "", without_comment(command))
    words = re.sub(r" (-n|--namespace) \S+", "", plain).split()[:3]
    length = next((index for index, word in enumerate(words) if index and not re.fullmatch(r"[a-z][a-z-]*", word)), len(words))
    # "docker compose up" is one thing, "systemctl reload piko-agent" two.
    return " ".join(words[:min(length, 3 if words[:2] == ["docker", "compose"] else 2)])


def text_of(script):
    """A script's text, with that of the files below Tests that it names, and of the Python files beside them that those import."""
    text, paths, at = "", [Path(script)], 0
    while at < len(paths):
        said = paths[at].read_text(errors="replace")
        text += said
        named = [Path(name) for name in re.findall(r"\bTests/[\w./-]+", said)] if at == 0 else []
        imported = re.findall(r"(?m)^\s*(?:import|from) (\w+)", said) if paths[at].suffix == ".py" else []
        for path in named + [paths[at].with_name(f"{name}.py") for name in imported]:
            if path.is_file() and path not in paths:
                paths.append(path)
        at += 1
    return text


def ready_text(command):
    """What the program writes when it is ready, when the command is one that stays; else None."""
    plain = without_comment(command)
    if plain.endswith("&") or "--help" in plain:
        return None
    plain = re.sub(r"^(sudo |[A-Z_]+=\S+ )+", "", plain)
    for pattern, text in STAYS:
        if pattern.match(plain):
            return text
    return None


class Terminal:
    """A command in a shell of its own, and what it wrote."""

    def __init__(self, place, command, environment, number):
        self.place, self.command = place, command
        self.output_path = Path(f"/mnt/own/output-{number}")
        script = Path(f"/mnt/own/script-{number}")
        script.write_text(command + "\n")
        with self.output_path.open("wb") as output:
            self.process = subprocess.Popen(["bash", "-euo", "pipefail", str(script)], stdin=subprocess.DEVNULL, stdout=output,
                                            stderr=subprocess.STDOUT, env=environment, start_new_session=True)

    def output(self):
        return self.output_path.read_text(errors="replace")

    def fail(self, why):
        output = self.output().rstrip().split("\n")
        shown = "\n".join(["    …"] * (len(output) > 40) + [f"    {line[:400]}" for line in output[-40:]])
        raise Failure(f"{self.place}: {why}\n{indented(self.command)}\n  wrote:\n{shown}")

    def end(self):
        """Ends its processes as ^C or a service manager would, and waits until the last one is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
            for _ in range(750):
                self.process.poll()
                os.killpg(self.process.pid, 0)
                time.sleep(0.02)
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def indented(text):
    return "\n".join(f"    {line}" for line in text.split("\n"))


class Run:
    def __init__(self, path):
        self.path = path
        self.count = {"blocks": 0, "commands": 0, "files": 0, "outputs": 0}
        self.skipped = []       # (line, command, why)
        self.elsewhere = []     # (line, script)
        self.staying = []       # (terminal, whether it may end)
        self.numbers = iter(range(1, 1 << 30))
        self.last_output = None
        ENVIRONMENT_FILE.touch()

    def environment(self):
        environment = dict(os.environ, DOCUMENT_ENV=str(ENVIRONMENT_FILE))
        for line in ENVIRONMENT_FILE.read_text().splitlines():
            name, _, value = line.partition("=")
            environment[name] = value
        return environment

    # ---- Blocks ----

    def run(self, blocks):
        for block in blocks:
            self.count["blocks"] += 1
            self.block(block)
            self.look_after()
        self.end_all()

    def block(self, block):
        place = f"{self.path}:{block.line}"
        if block.marked("afresh") is not None:
            self.end_all()
        if (why := block.marked("not run")) is not None:
            self.skipped += [(block.line, command, why) for command in self.shell_commands(block)]
            return
        if (script := block.marked("run by")) is not None:
            self.run_elsewhere(place, block, script, self.shell_commands(block))
            return
        if block.language == "sh":
            self.shell(place, block)
        elif block.language == "console":
            self.console(place, block)
        else:
            self.content(place, block)

    def run_elsewhere(self, place, block, script, commands):
        """Commands that another script runs: it must at least name them."""
        if not Path(script).is_file():
            raise Failure(f"{place}: run by {script}, which is not there")
        said = text_of(script)
        for command in commands:
            name = name_of(command)
            if script not in command.split()[:2] and name not in said:
                raise Failure(f"{place}: {script} does not say '{name}'")
        self.elsewhere.append((block.line, script, len(commands)))

    def shell_commands(self, block):
        if block.language == "console":
            return [line[2:] for line in block.text.split("\n") if line.startswith("$ ")]
        return commands_of(block.text)

    def shell(self, place, block):
        commands = commands_of(block.text)
        kept = self.without_what_is_not_run(block, commands)
        if any(ready_text(command) for command in kept) and block.marked("until") is None and block.marked("status") is None:
            for command in kept:
                self.command(place, block, command, ready_text(command))
            return
        text = block.text if kept == commands else "\n".join(kept)
        if kept:
            self.command(place, block, text, (block.marked("until") or "").strip('"') or None)
            self.count["commands"] += len(kept) - 1

    def without_what_is_not_run(self, block, commands):
        """What is left for this test to run."""
        kept = list(commands)
        for mark in block.marks:
            match = re.match(r"(.*) (?:is|are) (not run: |run by )(.*)", mark)
            if not match:
                continue
            words = [word.strip() for word in match[1].split(",")]
            gone = [command for command in kept if any(re.match(rf"(sudo )?{re.escape(word)}( |$)", command) for word in words)]
            if not gone:
                raise Failure(f"{self.path}:{block.line}: nothing here begins with {match[1]}")
            if match[2] == "run by ":
                self.run_elsewhere(f"{self.path}:{block.line}", block, match[3], gone)
            else:
                self.skipped += [(block.line, command, match[3]) for command in gone]
            kept = [command for command in kept if command not in gone]
        return kept

    def console(self, place, block):
        parts = re.split(r"(?m)^\$ ", block.text)
        if parts[0].strip():
            raise Failure(f"{place}: a console block begins with '$ ' and a command")
        for part in parts[1:]:
            command, _, expected = part.partition("\n")
            while command.endswith("\\"):
                more, _, expected = expected.partition("\n")
                command += "\n" + more
            self.command(place, block, command, ready_text(command))
            if expected.strip():
                self.compare(place, block, expected, self.last_output, command)

    def command(self, place, block, text, ready):
        """Runs it to its end, or until it is ready."""
        self.count["commands"] += 1
        terminal = Terminal(place, text, self.environment(), next(self.numbers))
        if ready is not None:
            self.wait_until_ready(terminal, (block.marked("until") or "").strip('"') or ready)
            self.staying.append((terminal, block.marked("may end") is not None))
        else:
            seconds = int(block.marked("timeout") or 30)
            try:
                status = terminal.process.wait(seconds)
            except subprocess.TimeoutExpired:
                terminal.fail(f"did not end within {seconds} s")
            if status != int(block.marked("status") or 0):
                terminal.fail(f"status {status}")
        self.last_output = terminal.output()

    def wait_until_ready(self, terminal, text):
        end = time.monotonic() + READY_SECONDS
        while text not in terminal.output():
            if terminal.process.poll() is not None:
                terminal.fail(f"ended with status {terminal.process.returncode} before it wrote {text}")
            if time.monotonic() > end:
                terminal.fail(f"did not write {text} within {READY_SECONDS} s")
            time.sleep(0.02)

    # ---- Files and outputs ----

    def content(self, place, block):
        expected = block.marked("output")
        if expected is not None:
            if self.last_output is None:
                raise Failure(f"{place}: there is no output to compare it with")
            self.compare(place, block, block.text, self.last_output, "the block above")
            return
        if block.language in ("text", "http"):
            for number, line in enumerate(block.text.split("\n")):
                if block.language == "text" and COMMANDS.match(line):
                    raise Failure(f"{self.path}:{block.line + number + 1}: a command in a block of text")
        name = block.marked("file")
        if name:
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text + "\n")
        if block.language in judge.JUDGED:
            self.count["files"] += 1
            problem = judge.problem(block, self.environment())
            if problem:
                raise Failure(f"{place}: {problem}\n{indented(block.text)}")

    def compare(self, place, block, expected, output, command):
        self.count["outputs"] += 1
        names_only = block.marked("names") is not None
        problem = compare.missing_names(expected, output) if names_only else compare.difference(expected, output)
        if problem:
            raise Failure(f"{place}: {shlex.quote(command.splitlines()[0])} wrote something else\n{problem}")

    # ---- Programs that stay ----

    def look_after(self):
        for terminal, may_end in self.staying:
            if terminal.process.poll() is not None and not may_end:
                terminal.fail(f"ended by itself, with status {terminal.process.returncode}")

    def end_all(self):
        for terminal, _ in reversed(self.staying):
            terminal.end()
        self.staying = []


def main():
    path = sys.argv[1]
    began = time.monotonic()
    failure = None
    run = Run(path)
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
        run.run(markdown.read(path, text).blocks)
    except (Failure, markdown.DocumentError) as error:
        failure = str(error)
    print(json.dumps({"failure": failure, "count": run.count, "skipped": run.skipped, "elsewhere": run.elsewhere,
                      "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main()
