"""What we let through though haproxy or nginx refuses it, each with the section that lets it. RFC 9110 is HTTP's meaning, RFC 9112
its form in version 1.1, RFC 3986 what a URI is.

A rule holds for the cases whose text its pattern finds, for the proxies that it names, and explains that more requests of the case
reach the service through us than through them. It explains no difference in a body, and nothing that can't be read.
"""

import re

# A method in small letters. The grammar ends bodies with letters, so that a smuggled request may begin with some.
LOWER = r"(?:^|[\r\n\0-\x20>]|[0-9;])[A-Za-z/ ]*[a-z][A-Za-z-]* (?:/|http:|\*)"

# (who refuses it, what the case holds, why it passes)
RULES = [
    ({"nginx"}, r":[ ]*\t", "RFC 9110 section 5.6.3: optional white space, as after a field's colon, is a space or a tab."),
    ({"nginx"}, LOWER, "RFC 9110 section 9.1: a method is any token, and its case counts; what it means is the service's to say."),
    ({"haproxy"}, r"(?:/|http:)[^ \r\n]*[\x80-\xff]", """RFC 9112 section 3.2 says SHOULD of refusing an invalid target, and its section 2.2 has a message read
     as octets. Clients do send raw UTF-8, nginx and Piko pass it, and we neither route by a target's path nor change it."""),
    ({"nginx"}, r"%00", "RFC 3986 section 2.1: it is a valid encoding. A gateway does not decode what it may not change (RFC 9110 section 7.7)."),
    ({"nginx"}, r"/(?:\.|%2e){2}(?:[/ ?\\]|$)", """RFC 9110 section 7.7: a proxy MUST NOT modify the path. Dot segments are for whoever resolves them
     (RFC 3986 section 5.2.4); nginx does, and refuses those that lead above the root."""),
    ({"nginx"}, r"OPTIONS \*", "RFC 9112 section 3.2.4: the asterisk form, for a server as a whole."),
    ({"nginx"}, r"TRACE ", "RFC 9110 section 9.3.8. What the service gets holds none of our credentials; TRACE with content is refused here too."),
    ({"nginx"}, r"Host:[ \t]*e\.\.", "RFC 3986 section 3.2.2: a registered name may have empty labels. No agent has such a name, unless it is meant."),
    ({"nginx"}, r"Host:[ \t]*\r\n", """RFC 9110 section 7.2: an empty Host is valid. It names no endpoint, so the request itself is refused with 400; its framing is
     sound, and so the connection goes on (RFC 9112 section 9.3) with the requests behind it."""),
    ({"haproxy"}, r"(?:GET|HEAD|DELETE) [^\r\n]* HTTP/1\.0\r\n.*Content-Length", """RFC 9112 section 6: content is where Content-Length says so, of every method, and RFC 9110
     section 9.3.1 gives that of GET no meaning. haproxy refuses it of HTTP/1.0 (413), since it is unusual."""),
    ({"haproxy", "nginx"}, r"\r\n[A-Za-z-]+:[^\r\n]{16384}", """RFC 9110 section 5.4: how long a field may be is each server's to say. Ours is proxy.http.max_header_bytes,
     1 MiB as the original has it; theirs are 16 and 8 KiB."""),
]


def explains(proxy, text):
    """Whether it is right that more reaches the service through us."""
    return any(proxy in who and re.search(pattern, text, re.S) for who, pattern, _ in RULES)
