"""Read by the suite's Python 2.7 when it starts (the script puts this folder into PYTHONPATH): names under .localhost are
loopback, as RFC 6761 section 6.3 wants, which not every resolver knows. The client then sends the endpoint as its Host."""

import socket

_gethostbyname, _getaddrinfo = socket.gethostbyname, socket.getaddrinfo


def _local(name):
    return "127.0.0.1" if str(name).endswith(".localhost") else name


socket.gethostbyname = lambda name: _gethostbyname(_local(name))
socket.getaddrinfo = lambda host, *rest: _getaddrinfo(_local(host), *rest)
