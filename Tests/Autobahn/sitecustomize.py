"""Read by the suite's Python 2.7 when it starts (the script puts this folder into PYTHONPATH): names under .localhost are
loopback, as RFC 6761 section 6.3 wants, which not every resolver knows. The client then sends the endpoint as its Host."""

import os
import socket

_gethostbyname, _getaddrinfo = socket.gethostbyname, socket.getaddrinfo


def _local(name):
    return "127.0.0.1" if str(name).endswith(".localhost") else name


socket.gethostbyname = lambda name: _gethostbyname(_local(name))
socket.getaddrinfo = lambda host, *rest: _getaddrinfo(_local(host), *rest)

# The suite's servers listen on all addresses; ours has the same port number on another one.
if "AUTOBAHN_LISTEN" in os.environ:
    from twisted.internet import tcp
    _listen = tcp.Port.__init__

    def _listen_on_one(self, port, factory, backlog=50, interface="", reactor=None):
        _listen(self, port, factory, backlog, interface or os.environ["AUTOBAHN_LISTEN"], reactor)
    tcp.Port.__init__ = _listen_on_one
