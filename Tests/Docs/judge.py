"""Judges the content of files that documents show: the program that would read such a file reads it."""

import json
import re
import subprocess
import tempfile
from pathlib import Path

JUDGED = {"yaml", "json", "haproxy"}


def problem(block, environment):
    """What is wrong with the block; None when nothing is."""
    part = block.marked("part of")
    if part:
        return is_part(block.text, part)
    if block.language == "json":
        try:
            json.loads(block.text)
            return None
        except ValueError as error:
            return f"not JSON: {error}"
    if block.language == "haproxy":
        return by_command(block.text, ["haproxy", "-c", "-f"], environment)
    kinds = [kind for kind in ("server", "agent", "forward", "values", "kubernetes") if block.marked(kind) is not None]
    if len(kinds) != 1:
        return "a block of yaml is marked as what it is: server, agent, forward, values or kubernetes"
    return {"server": server, "agent": agent, "forward": forward, "values": values, "kubernetes": kubernetes}[kinds[0]](block.text, environment)


def is_part(text, name):
    path = Path(name)
    if not path.is_file():
        return f"there is no {name}"
    lines = [line.strip() for line in path.read_text().split("\n")]
    position = 0
    for line in text.split("\n"):
        if line.strip() in ("", "…"):
            continue
        if line.strip() not in lines[position:]:
            return f"{name} has no such line here: {line.strip()}"
        position += lines[position:].index(line.strip()) + 1
    return None


def by_command(text, command, environment, expected=0):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text + "\n")
        file.flush()
        done = subprocess.run([*command, file.name], env=environment, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
        return None if done.returncode == expected else f"{' '.join(command[:3])}: {(done.stdout + done.stderr).strip()[-2000:]}"


def server(text, environment):
    return by_command(text, ["piko", "server", "check", "--config.expand-env", "--config.path"], environment)


def agent(text, environment):
    """The agent's diagnosis reads the file first; what it finds further on (there may be no server) is not of interest here."""
    if not re.search(r"(?m)^listeners:", text):
        text += "\nlisteners: [{endpoint_id: web, addr: 3000}]"
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text + "\n")
        file.flush()
        done = subprocess.run(["piko", "agent", "diagnose", "--no-register", "--connect.timeout", "1s", "--output", "json", "--config.expand-env",
                               "--config.path", file.name], env=environment, capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    try:
        check = next(one for one in json.loads(done.stdout)["checks"] if one["check"] == "configuration")
    except (ValueError, KeyError, StopIteration):
        return f"piko agent diagnose: {said.strip()[-2000:]}"
    return None if check["result"] == "ok" else f"piko agent diagnose: {check['found']}"


def forward(text, environment):
    """It runs with it, for as long as it takes to listen."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text + "\n")
        file.flush()
        with subprocess.Popen(["piko", "forward", "start", "--config.expand-env", "--config.path", file.name], env=environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL) as process:
            said = []
            for line in process.stdout:
                said.append(line)
                if '"started"' in line:
                    process.terminate()
            process.wait()
    return None if any('"started"' in line for line in said) else f"piko forward start: {''.join(said)[-2000:]}"


def chart(action, text, environment):
    return by_command(text, [environment["DOCS_PYTHON"], str(Path(__file__).parent / "chart.py"), action], environment)


def values(text, environment):
    return chart("values", text, environment)


def kubernetes(text, environment):
    return chart("objects", text, environment)
