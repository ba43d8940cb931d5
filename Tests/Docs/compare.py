"""Compares what a document says that a command writes with what it wrote. Numbers may be others, runs of blanks as long as they like, … in
a line stands for anything, and a line of … alone for any lines."""

import re

NUMBER = r"\d+(?:\.\d+)?"


def pattern_of(line):
    """A regular expression for one line."""
    parts = []
    for piece in re.split(rf"(…|{NUMBER}|\s+)", line.rstrip()):
        if piece == "…":
            parts.append(".*")
        elif re.fullmatch(NUMBER, piece):
            parts.append(NUMBER)
        elif piece.isspace():
            parts.append(r"\s+")
        else:
            parts.append(re.escape(piece))
    return "".join(parts) + r"\s*"


def difference(expected, output):
    """None when the output is as expected; else both, and the first line that differs."""
    wanted = expected.strip("\n").split("\n")
    written = output.strip("\n").split("\n")
    pattern = ""
    for line in wanted:
        pattern += r"(?:[^\n]*\n)*?" if line.strip() == "…" else pattern_of(line).replace(r"\s", r"[ \t]").replace(".*", r"[^\n]*") + "\n"
    if re.fullmatch(pattern, "\n".join(written) + "\n"):
        return None
    shown = "\n".join(f"    {line[:400]}" for line in written[:60])
    first = next((line for line in wanted if line.strip() != "…" and not any(re.fullmatch(pattern_of(line), one) for one in written)), None)
    where = f"  no line is: {first}\n" if first is not None else "  the lines are there, and in another order, or others are between them\n"
    return f"{where}  wrote:\n{shown}"


def missing_names(expected, output):
    """None when every name of the JSON that is expected is in the output, too."""
    name = re.compile(r'"([\w-]+)"\s*:')
    missing = set(name.findall(expected)) - set(name.findall(output))
    return f"  it has no {', '.join(sorted(missing))}\n  wrote:\n    {output[:2000]}" if missing else None
