"""Reads a Markdown document as script/test-docs needs it: its fenced blocks with their marks, its headings, its links.

A mark is an HTML comment right above a block, which readers of the document do not see: <!-- test: MARK; MARK … -->. A comment of
several lines is a block of its own, which is run and not shown: the marks on its first line, commands on the others. The marks:

    run                      (of a hidden block) run it; what it writes to "$DOCUMENT_ENV" as NAME=VALUE is set for all blocks below
    afresh                   end everything that earlier blocks left running, first
    until "TEXT"             a program that stays is ready when it has written this, in place of what STAYS says (run_document.py)
    may end                  its programs may end, or be ended, while the document goes on
    status N                 it ends with this status, not with 0
    timeout N                it may take N seconds (30)
    output                   (of text) this is what the block above wrote; numbers may be others, … stands for anything, and a line
                             of … alone for any lines
    names                    (of output) the names in its JSON are compared, and nothing else
    file NAME                (of a file's content) blocks below find it under this name
    server, agent, forward   (of yaml) a configuration file: the program reads it
    values                   (of yaml) values for the Helm chart: it is rendered with them
    kubernetes               (of yaml) objects of Kubernetes, of which form and kind are looked at
    part of FILE             (of a file's content) these lines, in this order, are in FILE
    COMMAND is not run: WHY  lines that begin with COMMAND (or several: A, B are not run) can't be run by a test; they are listed
    not run: WHY             the same for the whole block
    run by SCRIPT            SCRIPT runs it; or does the same where its program can't be had (docker, kubectl), and says so. Program and
                             subcommand of each command stand in it, or in a file below Tests that it names, or it is the command
    COMMAND is run by SCRIPT the same for lines that begin with COMMAND (or several: A, B are run by SCRIPT)
"""

import re
from dataclasses import dataclass, field

FENCE = re.compile(r"^( *)(```+|~~~+)\s*([A-Za-z]*)\s*$")
COMMENT = re.compile(r"^ *<!-- test:(.*)$")
MARKS = re.compile(r"(run|afresh|may end|output|names|server|agent|forward|values|kubernetes|status \d+|timeout \d+|"
                   r"until \"[^\"]+\"|file \S+|part of \S+|not run: .+|[a-z][\w, /-]* (is|are) (not run: .+|run by \S+)|run by \S+)")
# What a block can be, by the language of its fence.
LANGUAGES = {"sh", "console", "text", "yaml", "json", "haproxy", "http", "ini"}


class DocumentError(Exception):
    """Something in a document that is not as it must be; begins with FILE:LINE."""


@dataclass
class Block:
    line: int
    language: str
    text: str
    marks: list = field(default_factory=list)

    def marked(self, word):
        """What follows the word in the mark that begins with it; None when there is no such mark."""
        for mark in self.marks:
            if mark == word or mark.startswith((word + " ", word + ":")):
                return mark[len(word):].lstrip(": ")
        return None


@dataclass
class Document:
    blocks: list
    # Anchors of the headings, as GitHub makes them.
    anchors: set
    # (line, target, whether it is a picture)
    links: list
    # (line, path) of files that are named in code, such as `docs/limits.md`
    names: list


def marks_of(path, line, text):
    marks = [mark.strip() for mark in text.split(";") if mark.strip()]
    for mark in marks:
        if not MARKS.fullmatch(mark):
            raise DocumentError(f"{path}:{line}: there is no mark '{mark}' (Tests/Docs/markdown.py has them)")
    return marks


def anchor_of(heading, taken):
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    text = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
    anchor, count = text, 0
    while anchor in taken:
        count += 1
        anchor = f"{text}-{count}"
    return anchor


def read(path, text, strict=True):
    """The document's blocks, anchors and links. DocumentError where its form is wrong; where it is not strict, blocks may have any form."""
    document = Document([], set(), [], [])
    lines = text.split("\n")
    prose = [""] * len(lines)
    marks, marks_line = [], 0
    in_list = after_blank = False
    index = 0
    while index < len(lines):
        line, number = lines[index], index + 1
        index += 1
        comment = COMMENT.match(line)
        if comment:
            if marks:
                raise DocumentError(f"{path}:{number}: a mark with no block below it")
            rest = comment[1]
            if "-->" in rest:
                marks, marks_line = marks_of(path, number, rest.split("-->")[0]), number
                continue
            # A hidden block, which ends with the comment.
            hidden = []
            while index < len(lines) and "-->" not in lines[index]:
                hidden.append(lines[index])
                index += 1
            index += 1
            found = marks_of(path, number, rest)
            if "run" not in found:
                raise DocumentError(f"{path}:{number}: a hidden block must be marked 'run'")
            document.blocks.append(Block(number, "sh", "\n".join(hidden), found))
            continue
        fence = FENCE.match(line)
        if fence:
            indent, ticks, language = fence.groups()
            content = []
            while index < len(lines) and lines[index].strip() != ticks:
                content.append(lines[index].removeprefix(indent))
                index += 1
            if index == len(lines):
                raise DocumentError(f"{path}:{number}: the block has no end")
            index += 1
            if strict and language not in LANGUAGES:
                raise DocumentError(f"{path}:{number}: a block of '{language}'; there are {', '.join(sorted(LANGUAGES))}")
            document.blocks.append(Block(number, language, "\n".join(content), marks))
            marks = []
            continue
        if marks and line.strip():
            raise DocumentError(f"{path}:{marks_line}: a mark with no block below it")
        if strict and line.startswith("    ") and after_blank and not (in_list and not line.startswith(" " * 6)) and line.strip():
            raise DocumentError(f"{path}:{number}: a block by indentation; use a fence")
        after_blank = not line.strip()
        if line.strip() and not line.startswith(" "):
            in_list = bool(re.match(r"([*+-]|\d+\.) ", line))
        heading = re.match(r"#{1,6} (.*)$", line)
        if heading:
            document.anchors.add(anchor_of(heading[1], document.anchors))
        for target in re.findall(r'<a (?:id|name)="([^"]+)"', line):
            document.anchors.add(target)
        prose[number - 1] = re.sub(r"`[^`]*`", "", line)
        for name in re.findall(r"`([A-Za-z0-9_./-]+\.md)(?:#[\w-]+)?`", line):
            document.names.append((number, name))
    if marks:
        raise DocumentError(f"{path}:{marks_line}: a mark with no block below it")
    # A link may go over the end of a line.
    text = "\n".join(prose)
    for link in re.finditer(r"(!?)\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)|^\[[^\]\n]+\]: (\S+)", text, re.M):
        document.links.append((text.count("\n", 0, link.start()) + 1, link[2] or link[3], link[1] == "!"))
    return document
