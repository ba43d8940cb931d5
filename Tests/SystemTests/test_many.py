"""Many at once: idle tunnels with an endpoint each, and concurrent requests over many tunnels; then everything is given back.
10,000 tunnels and 2,000 requests in soak, fewer in the everyday run."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from peer import http1
from peer.http1 import Connection, request, wait_until
from programs import SLOW, resident_bytes, scaled

TOOL = Path(__file__).parent / "tools" / "idle_tunnels.py"


class IdleTunnels:
    """The tool in a process of its own."""

    def __init__(self, node, prefix, count, timeout):
        self.process = subprocess.Popen([sys.executable, TOOL, node.upstream[0], str(node.upstream[1]), prefix, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        opened = []
        thread = threading.Thread(target=lambda: opened.append(self.process.stdout.readline()), daemon=True)
        thread.start()
        thread.join(timeout)
        if opened != [f"open {count}\n"]:
            self.process.kill()
            raise AssertionError(f"tunnels did not open: {opened}")

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(60) == 0


@pytest.mark.timeout(900)
def test_idle_tunnels_and_a_request_to_each(new_node, endpoint):
    count = scaled(10_000, 1000)
    node = new_node(workers=4, arguments=["--proxy.access-log.disable"])
    before = node.descriptor_counts()
    resident = sum(map(resident_bytes, node.processes()))
    tunnels = IdleTunnels(node, endpoint + "-", count, 300 * SLOW)
    try:
        table = json.loads(request(node.admin, target="/status/upstream/endpoints", host="x", timeout=60).body)
        assert len(table) == count and set(table.values()) == {1}
        each = (sum(map(resident_bytes, node.processes())) - resident) / count
        print(f"{count} idle tunnels: {each / 1024:.1f} KiB of resident memory each")
        assert each < 64 << 10
        with Connection(node.proxy, timeout=60) as client:
            for index in range(count):
                name = f"{endpoint}-{index}"
                answer = client.request(host=f"{name}.x.y")
                assert answer.status == 200 and answer.body == name.encode(), (name, answer)
                if "close" in answer.options():
                    client.close()
                    client = Connection(node.proxy, timeout=60)
    finally:
        tunnels.close()
    wait_until(lambda: json.loads(request(node.admin, target="/status/upstream/endpoints", host="x", timeout=60).body) == {}, 60 * SLOW, "no endpoint left")
    node.assert_descriptors_return_to(before, 60)


@pytest.mark.timeout(600)
def test_concurrent_requests_over_many_tunnels(new_node, endpoint):
    """All the requests are sent before any answer is read."""
    count, tunnels_count = scaled(2000, 500), scaled(100, 50)
    node = new_node(workers=4)
    before = node.descriptor_counts()
    tunnels = IdleTunnels(node, endpoint + "-", tunnels_count, 60 * SLOW)
    try:
        for _ in range(2):
            clients = [Connection(node.proxy, timeout=120) for _ in range(count)]
            for index, client in enumerate(clients):
                client.send(f"GET / HTTP/1.1\r\nHost: {endpoint}-{index % tunnels_count}.x.y\r\n\r\n")
            for index, client in enumerate(clients):
                answer = client.read_response()
                assert answer.status == 200 and answer.body == f"{endpoint}-{index % tunnels_count}".encode()
            for client in clients:
                client.close()
    finally:
        tunnels.close()
    node.assert_descriptors_return_to(before, 60)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_hours_of_events_in_minutes(node, tunnel, host):
    """An event stream that is silent for longer than every timeout of the original lives on."""
    import asyncio

    async def handler(stream):
        await http1.read_message(stream)
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for index in range(6):
            await asyncio.sleep(20)
            await stream.write(http1.chunk(b"data: %d\n\n" % index))
        await stream.write(b"0\r\n\r\n")
        await stream.finish()
    tunnel(node, handler)
    assert request(node.proxy, host=host, timeout=300).body.count(b"data") == 6
