"""Types lines into bash, zsh and fish at a terminal, presses TAB, and compares what the shell then runs and lists with what it should.

The program on the line is a script that passes questions of the completion on to the real program, and prints the words that it is run
with otherwise. So a row is a line to type and the words that have to arrive. `script/check-completions` runs this."""

import argparse
import os
import pathlib
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time

# What is typed behind the program's name, TAB behind it, and the words that the program then gets.
ROWS = [
    ("server sta", ["server", "status"]),
    ("server status clu", ["server", "status", "cluster"]),
    ("comp", ["completion"]),
    ("completion fi", ["completion", "fish"]),
    ("man piko-t", ["man", "piko-test"]),
    ("server --proxy.reconn", ["server", "--proxy.reconnect-wait"]),
    ("server --log.level wa", ["server", "--log.level", "warn"]),
    ("server --log.level=wa", ["server", "--log.level=warn"]),
    ("server --io-backend=io", ["server", "--io-backend=io_uring"]),
    ("server check --config.path ser", ["server", "check", "--config.path", "server.yaml"]),
    ("server check --config.path=ser", ["server", "check", "--config.path=server.yaml"]),
    ("agent start --connect.url http://a:1 --config.path ser", ["agent", "start", "--connect.url", "http://a:1", "--config.path", "server.yaml"]),
    ("agent --config.path server.yaml sta", ["agent", "--config.path", "server.yaml", "start"]),
    ("server status cluster nodes --status unr", ["server", "status", "cluster", "nodes", "--status", "unreachable"]),
    ("agent http e 1 --access-log.dis", ["agent", "http", "e", "1", "--access-log.disable"]),
]
# Of `piko-agent` alone.
AGENT_ROWS = [("fo", ["forward"]), ("agent sta", ["agent", "start"]), ("completion ba", ["completion", "bash"])]
# What is listed, with descriptions, where there is more than one.
LISTED = [("server ", "Check a configuration and show what would run"), ("server status cluster n", "List the nodes")]

TIME_MAX = 30


class Failure(Exception):
    pass


class Terminal:
    """A shell at a terminal of its own."""

    def __init__(self, command, environment, folder):
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe(command[0], command, environment)
        if hasattr(termios, "tcsetwinsize"):
            termios.tcsetwinsize(self.descriptor, (50, 160))
        self.seen = ""

    def type(self, text):
        os.write(self.descriptor, text.encode())

    def wait(self, text):
        """Reads up to the text; what came before it."""
        deadline = time.monotonic() + TIME_MAX
        while text not in self.seen:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.descriptor], [], [], left)[0]:
                raise Failure(f"no {text!r} within {TIME_MAX} s; seen: {self.seen[-600:]!r}")
            try:
                piece = os.read(self.descriptor, 65536)
            except OSError:
                piece = b""
            if not piece:
                raise Failure(f"the shell ended; seen: {self.seen[-600:]!r}")
            self.seen += piece.decode(errors="replace")
        before, self.seen = self.seen.split(text, 1)
        return before

    def close(self):
        os.close(self.descriptor)
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(self.pid, 0)


class Shells:
    """How each shell is started, so that it knows the completions and nothing of this machine's settings."""

    def __init__(self, system, root, binaries, home):
        self.prefix = ["nsenter", "--target", system, "--mount", "--pid", "--uts", "--ipc", "--net", "--"] if system else []
        self.home = home
        self.inside = home[len(root):] if root else home
        folder = "/usr/bin" if root else str(binaries)
        for name in ("piko", "piko-agent"):
            script = pathlib.Path(home, "bin", name)
            script.parent.mkdir(exist_ok=True)
            script.write_text(
                f'#!/bin/sh\n[ "$1" = complete-words ] && exec {folder}/{name} "$@"\n'
                "printf 'arrived:'; printf ' <%s>' \"$@\"; echo ' :end'\n")
            script.chmod(0o755)
            if not root:
                for shell, target in (("bash", f"{name}.bash"), ("zsh", f"functions/_{name}"), ("fish", f".config/fish/completions/{name}.fish")):
                    path = pathlib.Path(home, target)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(subprocess.run([f"{binaries}/{name}", "completion", shell], check=True, stdout=subprocess.PIPE).stdout)
        pathlib.Path(home, "work").mkdir()
        pathlib.Path(home, "work/server.yaml").touch()
        if root:
            bash = ". /usr/share/bash-completion/bash_completion\n"
            zsh = "autoload -Uz compinit; compinit -u\n"
        else:
            bash = ". ~/piko.bash; . ~/piko-agent.bash\n"
            zsh = "fpath=(~/functions $fpath); autoload -Uz compinit; compinit -u\n"
        pathlib.Path(home, "bashrc").write_text(bash + "bind 'set enable-bracketed-paste off'; bind 'set page-completions off'\ncd ~/work; PS1='> '\necho started\n")
        pathlib.Path(home, ".zshrc").write_text(zsh + "unset zle_bracketed_paste; cd ~/work; PS1='> '; LISTMAX=0\necho started\n")
        pathlib.Path(home, ".config/fish").mkdir(parents=True, exist_ok=True)
        pathlib.Path(home, ".config/fish/config.fish").write_text("set -g fish_greeting\nset -g fish_autosuggestion_enabled 0\ncd ~/work\nfunction fish_prompt; echo -n '> '; end\nstatus is-interactive; and echo started\n")

    def environment(self):
        return {"HOME": self.inside, "PATH": f"{self.inside}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "TERM": "dumb", "LANG": "C.UTF-8", "ZDOTDIR": self.inside}

    def start(self, shell):
        command = {"bash": ["bash", "--noprofile", "--rcfile", f"{self.inside}/bashrc", "-i"], "zsh": ["zsh", "-i"], "fish": ["fish", "-i"]}[shell]
        terminal = Terminal(self.prefix + command, self.environment(), "/")
        terminal.wait("started")
        terminal.wait("> ")
        return terminal

    def fish_answers(self, line):
        """What fish itself says that could follow."""
        command = self.prefix + ["fish", "-c", f"complete -C '{line}'"]
        return subprocess.run(command, env=self.environment(), check=True, stdout=subprocess.PIPE, text=True, timeout=TIME_MAX).stdout.splitlines()


def check_rows(shells, shell, program, rows):
    failures = []
    terminal = shells.start(shell)
    for line, wanted in rows:
        try:
            terminal.type(f"{program} {line}\t\r")
            terminal.wait("arrived:")
            found = terminal.wait(" :end").split("> <")
            found = [word.strip(" <>") for word in found]
            if found != wanted:
                failures.append(f"{shell}: {program} {line}<TAB>: ran with {found}, not {wanted}")
        except Failure as failure:
            failures.append(f"{shell}: {program} {line}<TAB>: {failure}")
            terminal.close()
            terminal = shells.start(shell)
    terminal.close()
    return failures


def check_lists(shells, shell):
    failures = []
    for line, wanted in LISTED:
        terminal = shells.start(shell)
        try:
            # A first one for what all have in common.
            terminal.type(f"piko {line}\t\t\t")
            terminal.wait(wanted)
        except Failure as failure:
            failures.append(f"{shell}: piko {line}<TAB><TAB>: {failure}")
        terminal.close()
    return failures


def check_fish_answers(shells):
    failures = []
    for line, wanted in [("piko server sta", ["status\tAsk a server's admin port for its state"]), ("piko server --log.level ", ["debug", "info", "warn", "error"])]:
        found = shells.fish_answers(line)
        if found != wanted:
            failures.append(f"fish: complete -C '{line}': {found}, not {wanted}")
    return failures


def main():
    parser = argparse.ArgumentParser()
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--binaries", type=pathlib.Path)
    where.add_argument("--system", metavar="PID")
    arguments = parser.parse_args()
    root = f"/proc/{arguments.system}/root" if arguments.system else ""
    home = tempfile.mkdtemp(prefix="piko-completions-", dir=f"{root}/tmp" if root else None)
    try:
        shells = Shells(arguments.system, root, arguments.binaries and arguments.binaries.resolve(), home)
        failures = []
        for shell in ("bash", "zsh", "fish"):
            failures += check_rows(shells, shell, "piko", ROWS) + check_rows(shells, shell, "piko-agent", AGENT_ROWS)
            # Fish asks the terminal to draw its list, which this one can't.
            failures += check_lists(shells, shell) if shell != "fish" else check_fish_answers(shells)
    finally:
        shutil.rmtree(home)
    for failure in failures:
        print(failure)
    print(f"check-completions: {len(failures)} of {3 * (len(ROWS) + len(AGENT_ROWS)) + 2 * len(LISTED) + 2} checks failed")
    return 1 if failures else 0


sys.exit(main())
