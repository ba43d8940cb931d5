"""A node whose workers have no room for more connections: nothing dies, the admin port answers, and it goes on afterwards."""

import socket

from peer import http1
from peer.http1 import request, wait_until


def test_full_workers(new_node, tunnel, host):
    node = new_node(descriptors_max=128, workers=2)
    tunnel(node)
    workers = node.workers()
    clients = []
    for _ in range(400):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(node.proxy)
        clients.append(client)
    node.wait_log("all workers are full")
    for _ in range(10):
        assert request(node.admin, target="/health", host="x").status == 200
    assert node.workers() == workers
    for client in clients:
        client.close()
    client = http1.Connection(node.proxy)
    assert client.request(host=host).status == 200
    client.close()
    wait_until(lambda: request(node.admin, target="/ready", host="x").status == 200, what="ready")
    assert node.workers() == workers
