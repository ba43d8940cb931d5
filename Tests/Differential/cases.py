"""The requests of the differential grid: those that are listed, by what has gone wrong in proxies before, and those that a
grammar makes from a seed. A case is bytes that a client sends in one go, before a last request that ends the connection.

Every part of a message that readers have disagreed on has its alternatives here: separators, line ends, names, lengths, codings,
chunk sizes, extensions, trailers, targets, versions, hosts. The grammar takes a sound request and puts a few of them in.
"""

import random

HOST = "e.example.com"


def head(line="POST /{id}-1 HTTP/1.1", *fields, host=HOST):
    lines = [line] + ([f"Host: {host}"] if host is not None else []) + list(fields)
    return "\r\n".join(lines) + "\r\n\r\n"


def listed():
    """(name, text): the text is latin-1 and has {id} where the case's name goes into targets."""
    cases = []

    def add(name, *texts):
        for index, text in enumerate(texts):
            cases.append((f"{name}-{index}", text))
    smuggled = "GET /{id}-2 HTTP/1.1\r\nHost: " + HOST + "\r\n\r\n"
    add("sound", head("GET /{id}-1 HTTP/1.1"), head("POST /{id}-1 HTTP/1.1", "Content-Length: 5") + "hello",
        head("POST /{id}-1 HTTP/1.1", "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n", smuggled + head("GET /{id}-3 HTTP/1.1"),
        "\r\n" + head("GET /{id}-1 HTTP/1.1"), head("POST /{id}-1 HTTP/1.1", "Transfer-Encoding: Chunked") + "5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n")
    add("cl-te", head("POST /{id}-1 HTTP/1.1", "Content-Length: 6", "Transfer-Encoding: chunked") + "0\r\n\r\nG" + smuggled,
        head("POST /{id}-1 HTTP/1.1", "Transfer-Encoding: chunked", "Content-Length: 6") + "0\r\n\r\nG" + smuggled,
        head("POST /{id}-1 HTTP/1.1", "Transfer-Encoding: chunked", "Content-Length: 0") + "0\r\n\r\n")
    add("te", *(head("POST /{id}-1 HTTP/1.1", field) + "0\r\n\r\n" + smuggled for field in (
        "Transfer-Encoding: xchunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: \x0bchunked", "Transfer-Encoding: \xa0chunked\xa0", "Transfer-Encoding: ,chunked", "Transfer-Encoding: chunked,",
        "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked;q=1", "Transfer-Encoding: \"chunked\"", "Transfer-Encoding:",
        "Transfer-Encoding : chunked", "Transfer-Encoding: identity", "Transfer-Encoding: chunked\0", "X: 1\r\n\tTransfer-Encoding: chunked",
        "Transfer_Encoding: chunked", "Transfer-Encoding\t: chunked", "Transfer-Encoding: chunKed", "Transfer-Encoding:chunked", "Transfer-Encoding:\tchunked",
        "\x0bTransfer-Encoding: chunked", "Transfer-Encoding: chunked, chunked", "TE: chunked", "Transfer-Encoding: cow")))
    add("cl", *(head("POST /{id}-1 HTTP/1.1", f"Content-Length: {value}") + "hello" + smuggled for value in (
        "+5", "-5", "5 5", "", "0x5", "18446744073709551621", "99999999999999999999999", "5,5", "5, 6", "5;", "5.0", "\x0b5", "5e0", "05", "0005", " 5", "5 ", "\t5",
        "5\r\nContent-Length: 6", "5\r\nContent-Length: 5", "5\r\nContent_Length: 6", "4294967301", "5\0", "\"5\"", "5\x0b", "_5", "5_0")))
    add("chunk", *(head("POST /{id}-1 HTTP/1.1", "Transfer-Encoding: chunked") + body + smuggled for body in (
        "0x5\r\nhello\r\n0\r\n\r\n", "+5\r\nhello\r\n0\r\n\r\n", "-5\r\nhello\r\n0\r\n\r\n", "\r\nhello\r\n0\r\n\r\n", "5_\r\nhello\r\n0\r\n\r\n",
        "00000000000000005\r\nhello\r\n0\r\n\r\n", "10000000000000005\r\nhello\r\n0\r\n\r\n", "5\nhello\r\n0\r\n\r\n", "5\r\nhello\n0\r\n\r\n", "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\n\n", "5\r\nhello0\r\n\r\n", "5\r\nhelloXX0\r\n\r\n", "5 \r\nhello\r\n0\r\n\r\n", " 5\r\nhello\r\n0\r\n\r\n", "5\t\r\nhello\r\n0\r\n\r\n",
        "5;\r\nhello\r\n0\r\n\r\n", "5;a\r\nhello\r\n0\r\n\r\n", "5;a=\"b\r\n\"\r\nhello\r\n0\r\n\r\n", "5;\x01\r\nhello\r\n0\r\n\r\n", "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a=b\rX\r\nhello\r\n0\r\n\r\n", "5\r\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n00\r\n\r\n", "5\r\nhello\r\n0\r\nX : y\r\n\r\n", "5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
        "5\r\nhello\r\n0\r\nno colon\r\n\r\n", "5\r\nhello\r\n0\r\n\tfold: x\r\n\r\n", "5\r\nhello\r\n0\r\nX: y\n\r\n", "5\r\nhello\r\n0;a=b\r\n\r\n", "g\r\n0\r\n\r\n", "5\0\r\nhello\r\n0\r\n\r\n",
        "5;" + "a" * 5000 + "\r\nhello\r\n0\r\n\r\n", "FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n", "7FFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n\r\n0\r\n\r\n")))
    add("old", head("POST /{id}-1 HTTP/1.0", "Transfer-Encoding: chunked") + "0\r\n\r\n" + smuggled, head("POST /{id}-1 HTTP/1.0") + "hello",
        head("GET /{id}-1 HTTP/1.0"), head("GET /{id}-1 HTTP/1.0", "Connection: keep-alive") + smuggled, "GET /{id}-1\r\n", "GET /{id}-1\r\n\r\n",
        head("GET /{id}-1 HTTP/0.9"), head("GET /{id}-1 HTTP/1.2"), head("GET /{id}-1 HTTP/2.0"), head("GET /{id}-1 HTTP/1.1 "), head("GET /{id}-1 HTTP/1.10"),
        head("GET /{id}-1 http/1.1"), head("GET /{id}-1 HTTP/01.1"), head("GET /{id}-1 HTTP/1,1"), head("GET /{id}-1 HTTPS/1.1"), head("GET /{id}-1 HTTP/ 1.1"))
    add("line", head("GET  /{id}-1 HTTP/1.1"), head("GET\t/{id}-1 HTTP/1.1"), head(" GET /{id}-1 HTTP/1.1"), head("GET /{id}-1  HTTP/1.1"), head("GET /{id} 1 HTTP/1.1"),
        head("GET /{id}-1\0 HTTP/1.1"), head("GET /{id}-1#f HTTP/1.1"), head("GET {id}-1 HTTP/1.1"), head("GET ?{id}-1 HTTP/1.1"), head("GET * HTTP/1.1"), head("get /{id}-1 HTTP/1.1"),
        head("G@T /{id}-1 HTTP/1.1"), head("G(T /{id}-1 HTTP/1.1"), head("/{id}-1 HTTP/1.1"), head("GET /{id}-1\xe9 HTTP/1.1"), head("GET /{id}-1\x7f HTTP/1.1"), head("GET /{id}-1\x0b HTTP/1.1"),
        head("GET /{id}-1\" HTTP/1.1"), head("GET /{id}-1<> HTTP/1.1"), head("GET /{id}-1\\ HTTP/1.1"), head("GET /{id}-1%00 HTTP/1.1"), head("GET /{id}-1%zz HTTP/1.1"), head("GET /{id}-1% HTTP/1.1"),
        head("GET /../{id}-1 HTTP/1.1"), head("GET //{id}-1 HTTP/1.1"), head("GET /%2e%2e/{id}-1 HTTP/1.1"), head("CONNECT e.example.com:80 HTTP/1.1"), head("OPTIONS * HTTP/1.1"),
        head("TRACE /{id}-1 HTTP/1.1"), head("PRI * HTTP/2.0"), head("GET /" + "a" * 20_000 + "{id} HTTP/1.1"), "\r\n\r\n" + head("GET /{id}-1 HTTP/1.1"), "\n" + head("GET /{id}-1 HTTP/1.1"),
        "\0" + head("GET /{id}-1 HTTP/1.1"), "\xef\xbb\xbf" + head("GET /{id}-1 HTTP/1.1"), head("GET /{id}-1 HTTP/1.1").replace("\r\n", "\n"), head("GET /{id}-1 HTTP/1.1").replace("\r\n", "\n", 1),
        head("GET /{id}-1 HTTP/1.1").replace("\r\n", "\r"), head("GET /{id}-1 HTTP/1.1").replace("\r\n", "\r\r\n", 1), head("GET http://e.example.com/{id}-1 HTTP/1.1"),
        head("GET http://other.example.com/{id}-1 HTTP/1.1"), head("GET http://e.example.com@evil/{id}-1 HTTP/1.1"), head("GET ftp://e.example.com/{id}-1 HTTP/1.1"), head("GET http:///{id}-1 HTTP/1.1"))
    add("host", head("GET /{id}-1 HTTP/1.1", host=None), head("GET /{id}-1 HTTP/1.1", f"Host: {HOST}"), head("GET /{id}-1 HTTP/1.1", "Host: other.example.com"),
        *(head("GET /{id}-1 HTTP/1.1", host=value) for value in (
            "", "e.example.com:80", "e.example.com:", "e.example.com:x", "e.example.com:99999", "e.example.com.", "E.EXAMPLE.COM", "e.example.com@evil", "e.example.com/evil", "e.example.com evil",
            "e.example.com,evil", "e.example.com\\evil", "e..example.com", "[::1]", "[::1", "::1", "e.example.com\tx", "e.example.com\0", "e.exam\xe9ple.com", "e.example.com#f", "e.example.com?q",
            "e.example.com;x", "%65.example.com", "e.example.com:80:80", "http://e.example.com", "\x01")),
        "GET /{id}-1 HTTP/1.1\r\n Host: e.example.com\r\n\r\n", "GET /{id}-1 HTTP/1.1\r\nHost : e.example.com\r\n\r\n")
    add("field", *(head("GET /{id}-1 HTTP/1.1", field) for field in (
        "X\0: 1", "X: \0", "X: a\rb", "X: a\nb", "X: a\r\n folded", "X: a\r\n\tfolded", " X: 1", "X : 1", "X\t: 1", ": 1", "no colon", "X@Y: 1", "X(: 1", "X\xe9: 1", "X: \xe9", "X: \x01", "X: \x7f",
        "X;Y: 1", "X,Y: 1", "\"X\": 1", "X: 1\r", "X_Y: 1", "X.Y: 1", "X/Y: 1", "X{{Y: 1", "X: \x0b", "X: \x0c", "\tX: 1", "X:\r\n\r\n1", "X", "X:", "X:1", "X: 1 ", "X:  1", "\x01X: 1",
        "Connection: close, X", "Connection: host", "Connection: content-length", "Connection: transfer-encoding", "Connection: \xe9", "Connection: ,,", "Connection: a b", "Keep-Alive: timeout=5",
        "Expect: 100-continue", "Expect: 200-ok", "Expect: 100-continue, x", "Expect:", "Upgrade: x", "Upgrade: x\r\nConnection: upgrade", "Upgrade: h2c\r\nConnection: upgrade, http2-settings\r\nHTTP2-Settings: AAMAAABk",
        "Range: bytes=0-1", "Max-Forwards: 0", "Proxy-Connection: close", "Trailer: Content-Length", "TE: trailers", "TE: gzip;q=1")),
        head("GET /{id}-1 HTTP/1.1", *(f"X-{index}: 1" for index in range(300))), head("GET /{id}-1 HTTP/1.1", "X: " + "a" * 70_000))
    add("body", head("GET /{id}-1 HTTP/1.1", "Content-Length: 5") + "hello" + smuggled, head("GET /{id}-1 HTTP/1.1", "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n" + smuggled,
        head("HEAD /{id}-1 HTTP/1.1", "Content-Length: 5") + "hello" + smuggled, head("POST /{id}-1 HTTP/1.1") + "hello" + smuggled, head("DELETE /{id}-1 HTTP/1.1", "Content-Length: 5") + "hello" + smuggled,
        head("OPTIONS /{id}-1 HTTP/1.1", "Content-Length: 5") + "hello" + smuggled, head("TRACE /{id}-1 HTTP/1.1", "Content-Length: 5") + "hello" + smuggled,
        head("POST /{id}-1 HTTP/1.1", "Content-Length: 5", "Expect: 100-continue") + "hello" + smuggled, head("POST /{id}-1 HTTP/1.1", "Content-Length: 5", "Connection: close") + "hello" + smuggled,
        head("POST /{id}-1 HTTP/1.1", "Content-Length: 0") + smuggled, head("POST /{id}-1 HTTP/1.1", "Connection: Content-Length", "Content-Length: 5") + "hello" + smuggled)
    return cases


# ---- The grammar ----

LINE_ENDS = ["\r\n"] * 30 + ["\n", "\r", "\r\r\n", "\n\r", "\r\n ", "\0\r\n", "\x0b\r\n"]
SPACES = [" "] * 20 + ["  ", "\t", "\x0b", "\xa0", "", "\0"]
METHODS = ["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "FOO", "M-SEARCH"] * 3 + ["get", "TRACE", "CONNECT", "G T", "G\tT", "POST\0", "(GET", "PRI", ""]
VERSIONS = ["HTTP/1.1"] * 20 + ["HTTP/1.0"] * 4 + ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/1.", "HTTP/1.1.1", "http/1.1", "HTTP /1.1", "HTTP/1.1\t", "", "HTTP/11", "HTTP/+1.1"]
TARGETS = ["/{id}"] * 20 + ["/{id}?a=b", "/{id}%20", "/{id}//a/../b", "http://e.example.com/{id}", "HTTP://E.EXAMPLE.COM/{id}", "http://e.example.com:80/{id}", "http://x.example.com/{id}", "*", "/{id}#f",
                           "/{id}\xff", "/{id}\x01", "/{id}|", "/{id}[]", "/{id}^`", "{id}", "", "/{id}\t", "//{id}", "/{id};a=b", "e.example.com:80", "/{id}%0d%0aX:%20y", "/%2e%2e/{id}", "/{id}\\..\\a"]
HOSTS = [HOST] * 20 + ["e.example.com:8000", "E.Example.Com", "", " ", "e.example.com, x", "e.example.com\r\nHost: e.example.com", "x.example.com", "e.example.com:080", "e.example.com:+80", "[::1]:80", "e.example.com:8000000"]
NAMES = ["X-A", "Accept", "Cookie", "User-Agent", "X-Forwarded-For", "Content-Type"] * 4 + ["X A", "X\t", "X_A", "", " X-A", "X-\xe9", "X\0", "Content-Length ", "Transfer-Encoding ", "Host ", "content_length", "X:Y", "Te", "Trailer", "Via", "Upgrade", "Connection",
                                                                                   "Proxy-Connection", "Keep-Alive", "X\r\nY", "(X)", "X\x7f", "\x0bX"]
VALUES = ["1", "a b", "text/plain", "a, b, c", "\"q\"", "x=y; z"] * 4 + ["", " ", "\xe9", "\x01", "a\0b", "a\x7f", "a\rb", "a\nb", "a\r\n b", "close", "keep-alive", "upgrade", "chunked", "host", "x" * 9000, "\t", "a\x0b"]
LENGTHS = ["{n}"] * 20 + ["{m}", "+{n}", "-{n}", "0{n}", "{n} ", "{n},{n}", "{n}, {m}", "0x{n}", "{n}.0", "{n};", "\x0b{n}", "{n}\xa0", "1{n}", "", "{n}a", "18446744073709551616", "{n} {n}", "'{n}'"]
CODINGS = ["chunked"] * 20 + ["Chunked", "CHUNKED", "chunked ", "\tchunked", "chunked,", ",chunked", "chunked, chunked", "identity", "gzip, chunked", "chunked, gzip", "xchunked", "chunked\0", "\x0bchunked", "chunked;a=b", "\"chunked\"", "chunk ed", "", "chunked\xa0", "identity, chunked", "chunked\r\n x"]
SIZES = ["{x}"] * 24 + ["0{x}", "0x{x}", "+{x}", "-{x}", "{x} ", " {x}", "{x}\t", "{x};", "{x};a", "{x};a=b", "{x}; a=b", "{x} ;a=b", "{x};a=\"b\"", "{x};\x01", "{x};a=\"", "{X}", "0000000000000000{x}", "{x}_", "{x}\0", "{x}\x0b", "{x};a=b;c=\"d;\"", "{x};=", "{x},a", "{y}", "", "g"]
TRAILERS = [""] * 12 + ["X: y\r\n", "X : y\r\n", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Host: x\r\n", " X: y\r\n", "X\r\n", "X: \0\r\n", "X: y\n", ": y\r\n", "X: y\r\nZ: 1\r\n", "\xe9: 1\r\n", "Connection: close\r\n"]


def chunked(pick, body):
    pieces, out = [body[:3], body[3:]], ""
    for piece in pieces:
        if piece:
            n = len(piece)
            out += pick(SIZES).format(x=f"{n:x}", X=f"{n:X}", y=f"{n + 1:x}") + pick(LINE_ENDS) + piece + pick(LINE_ENDS)
    return out + pick(["0"] * 20 + ["00", "0;a", "", "0 ", "-0"]) + pick(LINE_ENDS) + pick(TRAILERS) + pick(LINE_ENDS)


def message(chance, number):
    """One request, sound but for a few places."""
    odd = chance.randint(0, 3)

    def pick(choices):
        # Mostly the first, which is the sound one; the others where oddities are left.
        nonlocal odd
        if odd and chance.random() < 0.12:
            odd -= 1
            return chance.choice(choices)
        return choices[0]
    body = "".join(chance.choice("abc\r\n0GET /") for _ in range(chance.randint(0, 9)))
    method = chance.choice(["GET", "POST", "PUT"]) if chance.random() < 0.8 else pick(METHODS)
    lines = [method + pick(SPACES) + pick(TARGETS).replace("{id}", "{id}-" + str(number)) + pick(SPACES) + pick(VERSIONS)]
    fields = [f"Host:{pick(SPACES)}{pick(HOSTS)}"]
    for _ in range(chance.randint(0, 3)):
        fields.append(f"{pick(NAMES)}{pick([':'] * 20 + [' :', '', '::', ': :'])}{pick(SPACES)}{pick(VALUES)}")
    kind = chance.choice(["none", "length", "chunked", "chunked", "both"])
    if kind == "both" and chance.random() < 0.7:
        kind = "length"
    if kind in ("length", "both"):
        name = pick(["Content-Length"] * 20 + ["content-length", "Content-Length ", "Content_Length", "CONTENT-LENGTH", "\tContent-Length", "Content-Length\0", "X\nContent-Length"])
        fields.append(f"{name}:{pick(SPACES)}{pick(LENGTHS).format(n=len(body), m=len(body) + 1)}")
        if odd and chance.random() < 0.1:
            fields.append(f"Content-Length: {chance.choice([len(body), 0, len(body) + 7])}")
    if kind in ("chunked", "both"):
        name = pick(["Transfer-Encoding"] * 20 + ["transfer-encoding", "Transfer-Encoding ", "Transfer_Encoding", " Transfer-Encoding", "Transfer-Encoding\x0b", "X\rTransfer-Encoding", "Transfer\u002dEncoding"])
        fields.append(f"{name}:{pick(SPACES)}{pick(CODINGS)}")
    chance.shuffle(fields)
    text = "".join(line + pick(LINE_ENDS) for line in lines + fields) + pick(LINE_ENDS)
    text = text.replace("{", "{{").replace("}", "}}").replace("{{id}}", "{id}")
    if kind == "chunked":
        return text + chunked(pick, body)
    return text + (body if kind != "none" else "")


def generated(seed, index):
    """(name, text) of one case; the seed and the index make it again."""
    chance = random.Random(f"{seed}:{index}")
    return f"g{index}", "".join(message(chance, number + 1) for number in range(chance.choice([1, 1, 2])))


def wire(name, text):
    """The bytes of a case."""
    return text.format(id=name).encode("latin-1")
