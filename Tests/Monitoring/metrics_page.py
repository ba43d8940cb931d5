"""The tables of docs/metrics.md, made from what a live server and agent say of their metrics."""

import re
from pathlib import Path

from promql import families, scrape

PAGE = Path(__file__).resolve().parents[2] / "docs/metrics.md"
# Labels whose values are few and all there at any time. `status` is one for nodes, but not for requests.
CLOSED = {"port", "reason", "limit", "how", "kind", "deleted", "internal"}
# Labels that not every node has.
SOMETIMES = {"piko_endpoint_": ["tenant"]}


def labels_of(name, kind, series):
    """`port` (`admin`, `proxy`), …"""
    lines = [one for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",)) for one in series.get(name + suffix, [])]
    order = list(dict.fromkeys(label for line in lines for label in line if label != "le"))
    order += [label for start, more in SOMETIMES.items() if name.startswith(start) for label in more if label not in order]
    texts = []
    for label in order:
        values = list(dict.fromkeys(line[label] for line in lines if label in line))
        is_closed = label in CLOSED or (label == "status" and name == "piko_cluster_nodes")
        texts.append(f"`{label}`" + (f" ({', '.join(f'`{value}`' for value in values)})" if is_closed else ""))
    return ", ".join(texts)


def table(texts):
    """Of scrapes of the same kind of program: their metrics, in the order of the first."""
    everything = "\n".join(texts)
    series = scrape(everything)
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for name, (kind, help) in sorted(families(everything).items()):
        rows.append(f"| `{name}` | {kind} | {labels_of(name, kind, series)} | {help.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def page(text, scrapes):
    """The page with its tables as they should be."""
    for program in ("server", "agent"):
        rows = table([body for what, body in scrapes.items() if what.split()[0] == program])
        text, count = re.subn(rf"(<!-- metrics of the {program}[^\n]*-->\n).*?(<!-- end -->)", lambda match: f"{match[1]}\n{rows}\n\n{match[2]}", text, flags=re.S)
        if count != 1:
            raise SystemExit(f"{PAGE.name} has no place for the metrics of the {program}")
    return text
