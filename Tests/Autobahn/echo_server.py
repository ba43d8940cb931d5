"""Autobahn's own echo server (Python 2.7), on a port from the kernel, which it prints. What `wstest -m echoserver` does, but
for one thing: the port in a request's Host may be another than its own, as it is behind any proxy."""

import sys

from autobahntestsuite.echo import EchoServerFactory
from twisted.internet import reactor

factory = EchoServerFactory("ws://127.0.0.1:80")
factory.externalPort = None
listening = reactor.listenTCP(0, factory, interface="127.0.0.1")
sys.stdout.write("listening %d\n" % listening.getHost().port)
sys.stdout.flush()
reactor.run()
