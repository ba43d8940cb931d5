"""Checks that what the Markdown files of the tree point to is there: relative links, their anchors, pictures, and documents that are
named in code. Addresses on the network are not asked for."""

import subprocess
from pathlib import Path

import markdown

ROOT = Path(__file__).resolve().parents[2]


def markdown_files():
    """Every Markdown file of the tree, the untracked ones too, but for what git ignores."""
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "*.md"],
                            cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted({name for name in listed.split("\0") if name and (ROOT / name).is_file()})


def check():
    """How many links were looked at, and what is wrong with them."""
    files, wrong = {}, []
    for name in markdown_files():
        try:
            files[name] = markdown.read(name, (ROOT / name).read_text(), strict=False)
        except markdown.DocumentError as error:
            wrong.append(str(error))
            files[name] = None
    count = 0
    for name, document in files.items():
        for line, target, picture in document.links if document else []:
            if target.startswith(("http://", "https://", "mailto:")):
                continue
            count += 1
            place, _, anchor = target.partition("#")
            path = (ROOT / name).parent / place if place else ROOT / name
            if not path.exists():
                wrong.append(f"{name}:{line}: there is no {target}")
                continue
            if anchor:
                relative = str(path.resolve().relative_to(ROOT))
                if relative not in files or files[relative] is None or anchor not in files[relative].anchors:
                    wrong.append(f"{name}:{line}: {relative} has no heading for #{anchor}")
            elif picture and path.stat().st_size == 0:
                wrong.append(f"{name}:{line}: {target} is empty")
        for line, named in document.names if document else []:
            count += 1
            if not (ROOT / named).exists() and not ((ROOT / name).parent / named).exists():
                wrong.append(f"{name}:{line}: there is no {named}")
    return count, len(files), wrong
