"""What a PromQL expression names: metrics with their label matchers, and the labels that it groups by. No parser (promtool judges the
syntax): a scanner that knows which words are metrics.
"""

import collections
import re

Use = collections.namedtuple("Use", "metric matchers")           # matchers: [(label, operator, value)]

TOKEN = re.compile(r"""
    (?P<space>\s+)
  | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
  | (?P<range>\[[^\]]*\])
  | (?P<number>\d[\w.]*)
  | (?P<word>[a-zA-Z_:][a-zA-Z0-9_:]*)
  | (?P<mark>=~|!~|!=|==|<=|>=|[-+*/%^<>=(){},@])
""", re.X)

GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan", "start", "end"}


class Unreadable(Exception):
    pass


def tokens(text):
    position, found = 0, []
    while position < len(text):
        match = TOKEN.match(text, position)
        if not match:
            raise Unreadable(f"can't read {text[position:position + 20]!r}")
        position = match.end()
        if match.lastgroup != "space":
            found.append((match.lastgroup, match.group()))
    return found + [("end", "")]


def names(text):
    """([Use], {labels that are grouped by})."""
    rest, index, uses, labels = tokens(text), 0, [], set()

    def until(closing):
        nonlocal index
        inside = []
        while rest[index][1] != closing:
            if rest[index][0] == "end":
                raise Unreadable(f"{closing} is missing")
            inside.append(rest[index][1])
            index += 1
        index += 1
        return inside

    while rest[index][0] != "end":
        kind, word = rest[index]
        index += 1
        following = rest[index][1]
        if word == "{":
            raise Unreadable("a selector without a metric")
        if kind != "word":
            continue
        if word in GROUPING and following == "(":
            index += 1
            labels.update(part for part in until(")") if part != ",")
        elif following == "(" or word.lower() in GROUPING | WORDS or (following in GROUPING and rest[index + 1][1] == "("):
            # A function, an operator's word, or an aggregation whose grouping comes first. A metric before on (…) has an operator between.
            continue
        else:
            matchers = []
            if following == "{":
                index += 1
                parts = [part for part in until("}") if part != ","]
                if len(parts) % 3:
                    raise Unreadable(f"matchers of {word}: {' '.join(parts)}")
                matchers = [(parts[at], parts[at + 1], parts[at + 2][1:-1]) for at in range(0, len(parts), 3)]
            uses.append(Use(word, matchers))
    return uses, labels


def scrape(text):
    """{metric: [labels]} of a scrape: every series that it has, by its own name (those of histograms with their suffix)."""
    found = collections.defaultdict(list)
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        name, inside = re.fullmatch(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? \S+", line).groups()
        found[name].append({label: re.sub(r"\\(.)", r"\1", value) for label, value in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', inside or "")})
    return found


def families(text):
    """{family: (type, help)} in the order of the scrape."""
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    return {name: (types.get(name, "untyped"), help) for name, help in re.findall(r"^# HELP (\S+) (.*)$", text, re.M)}
