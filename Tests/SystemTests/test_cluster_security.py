"""Who is believed in a cluster, and what becomes of what others send to the gossip port: keys and their rotation, other clusters,
forged, replayed, truncated and oversized gossip. Row 42 of the security tests; defects 4 and 22 of the original."""

import os
import random
import socket
import struct
import threading
import time

import pytest

from clusters import REASONS, Tap, counter, dropped, get, knowledge, seen, status, wait_all_active, wait_seen
from peer.http1 import wait_until
from programs import SLOW, resident_bytes
from test_cluster_membership import free_port
from test_reload import command

KEY, OTHER, THIRD = "the first key of all", "another key: a new one", "one more key: the third"


def keys(*values):
    return [word for value in values for word in ("--cluster.gossip.secret-keys", value)]


def refused(clusters, first, arguments):
    """A node that the others do not take in."""
    node = clusters.node(join=[first], arguments=[*arguments, "--cluster.join-timeout", "2s"], wait=False)
    node.expected_errors.append("no node of cluster.join")
    assert node.wait(20) == 1
    assert seen(first) == {first.id: "active"}


def test_only_who_has_the_key_gets_in(clusters):
    first = clusters.node(arguments=keys(KEY))
    before = dropped(first, "signature")
    refused(clusters, first, keys(OTHER))
    assert dropped(first, "signature") > before
    before = dropped(first, *REASONS)
    refused(clusters, first, [])
    assert dropped(first, *REASONS) > before
    second = clusters.node(join=[first], arguments=keys(KEY))
    wait_all_active([first, second])


def test_without_a_key_nobody_with_one_is_believed(clusters):
    first = clusters.node()
    refused(clusters, first, keys(KEY))


@pytest.mark.parametrize("key", [[], keys(KEY)], ids=["open", "keys"])
def test_clusters_of_other_names_keep_apart(clusters, key):
    first = clusters.node(arguments=[*key, "--cluster.id", "blue"])
    refused(clusters, first, [*key, "--cluster.id", "green"])
    assert dropped(first, "cluster") > 0
    second = clusters.node(join=[first], arguments=[*key, "--cluster.id", "blue"])
    wait_all_active([first, second])


def test_keys_are_changed_one_node_after_the_other(clusters, tmp_path):
    """From one key to another with a reload of each node at a time; from a file, too. At no time is a node lost."""
    nodes = []

    def write(node, *values):
        with open(f"{node.folder.name}/key", "w") as file:
            file.write(values[-1] + "\n")
        inline = "".join(f"'{value}', " for value in values[:-1])
        with open(f"{node.folder.name}/server.yaml", "w") as file:
            file.write(f"cluster: {{gossip: {{secret_keys: [{inline}], secret_key_files: ['{node.folder.name}/key']}}}}\n")

    def change(node, *values):
        write(node, *values)
        code, text = command(node, "reload")
        assert code == 0 and "cluster.gossip.secret_keys" in text, text
        assert not any(value in text for value in values)

    for index in range(3):
        path = tmp_path / f"key-{index}"
        path.write_text(KEY)
        node = clusters.node(join=nodes[:1], config=f"cluster: {{gossip: {{secret_key_files: ['{path}']}}}}\n")
        nodes.append(node)
    wait_all_active(nodes)
    marks = [node.mark() for node in nodes]
    for values in ((KEY, OTHER), (OTHER, KEY), (OTHER,)):
        for node in nodes:
            change(node, *values)
            wait_all_active(nodes)
    for node, mark in zip(nodes, marks):
        assert not node.logged("a node is unreachable|a node left|is forgotten", after=mark)
        assert KEY not in node.log and OTHER not in node.log
    # Who has only the old key is out.
    refuses = clusters.node(join=nodes[:1], arguments=[*keys(KEY), "--cluster.join-timeout", "2s"], wait=False)
    refuses.expected_errors.append("no node of cluster.join")
    assert refuses.wait(20) == 1
    joined = clusters.node(join=nodes[:1], arguments=keys(OTHER))
    wait_all_active([*nodes, joined])


def test_keys_are_seen_nowhere(clusters):
    node = clusters.node(config=f"cluster: {{gossip: {{secret_keys: ['{KEY}']}}}}\n", arguments=["--log.level", "debug"])
    assert KEY not in node.log
    for target in ("/metrics", "/status/cluster/nodes", "/status/gossip/nodes/local"):
        assert KEY.encode() not in get(node, target).body
    code, text = command(node, "check", "--config.path", f"{node.folder.name}/server.yaml")
    assert code == 0 and KEY not in text and "(hidden)" in text
    for pid in node.processes():
        for name in ("cmdline", "environ"):
            assert KEY.encode() not in open(f"/proc/{pid}/{name}", "rb").read()


# ---- What strangers send ----

@pytest.fixture(params=["open", "keys"])
def pair(clusters, request):
    nodes = clusters.start(2, arguments=keys(KEY) if request.param == "keys" else [])
    nodes[0].has_keys = request.param == "keys"
    return nodes


def unchanged(nodes, before):
    for node, known in zip(nodes, before):
        assert knowledge(node) == known
        assert set(seen(node).values()) == {"active"}
        assert not node.logged("a node is (unreachable|draining)|a node left")


def test_noise_and_cut_packets(pair):
    """Random bytes of every length, and every beginning of real packets, each also with one byte changed."""
    before = [knowledge(node) for node in pair]
    dice = random.Random(42)
    count = dropped(pair[0], *REASONS)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for length in [0, 1, 2, 10, 29, 30, 31, 46, 100, 1400, 1500, 9000, 60000]:
            stranger.sendto(dice.randbytes(length), pair[0].gossip)
        sent = 13
        if os.geteuid() == 0:
            tap = Tap()
            for _, packet in tap.packets(pair[0].gossip[1], 5):
                for cut in range(0, len(packet), 3):
                    stranger.sendto(packet[:cut], pair[0].gossip)
                    sent += 1
                for place in range(0, len(packet), 5):
                    changed = bytearray(packet)
                    changed[place] ^= 1 << dice.randrange(8)
                    if pair[0].has_keys:
                        stranger.sendto(bytes(changed), pair[0].gossip)
                        sent += 1
            tap.close()
    wait_until(lambda: dropped(pair[0], *REASONS) >= count + sent * 0.9, 10 * SLOW,
               lambda: f"{dropped(pair[0], *REASONS) - count} of {sent} counted")
    unchanged(pair, before)


@pytest.mark.skipif(os.geteuid() != 0, reason="recording packets needs root")
def test_replayed_packets(pair, clusters):
    """What was recorded is not taken again: by its receiver, by others, or by the same node in its next life."""
    before = [knowledge(node) for node in pair]
    tap = Tap()
    recorded = tap.packets(pair[0].gossip[1], 10)
    tap.close()
    counts = [dropped(node, "replay", "recipient") for node in pair]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for _ in range(3):
            for _, packet in recorded:
                stranger.sendto(packet, pair[0].gossip)
                stranger.sendto(packet, pair[1].gossip)
    for node, count in zip(pair, counts):
        wait_until(lambda: dropped(node, "replay", "recipient") >= count + 20, 10 * SLOW,
                   lambda: f"{[(reason, dropped(node, reason)) for reason in REASONS]}")
    unchanged(pair, before)
    # The next life of the same node, at the same place.
    if pair[0].has_keys:
        pair[0].kill()
        again = clusters.node(id="n1", gossip=f"127.0.0.1:{pair[0].gossip[1]}", join=[pair[1]], arguments=keys(KEY))
        wait_all_active([again, pair[1]])
        # They are for a life that is over; all that comes of them is word of the new one.
        known = knowledge(again)
        count = counter(again, "piko_gossip_packets_inbound_total")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for _ in range(10):
                for _, packet in recorded:
                    stranger.sendto(packet, again.gossip)
        wait_until(lambda: counter(again, "piko_gossip_packets_inbound_total") >= count + 100, 10 * SLOW)
        assert knowledge(again) == known
        assert seen(again) == {"n1": "active", "n2": "active"}


@pytest.mark.skipif(os.geteuid() != 0, reason="recording packets needs root")
def test_packets_of_another_cluster_with_the_same_key(clusters):
    one = clusters.start(2, arguments=[*keys(KEY), "--cluster.id", "blue"])
    two = [clusters.node(arguments=[*keys(KEY), "--cluster.id", "green"])]
    tap = Tap()
    recorded = tap.packets(one[0].gossip[1], 5)
    tap.close()
    before = knowledge(two[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for _, packet in recorded:
            stranger.sendto(packet, two[0].gossip)
    wait_until(lambda: dropped(two[0], "cluster", "signature") >= 5, 10 * SLOW)
    assert knowledge(two[0]) == before


def exchange(node, data, finish=True, timeout=20):
    """What comes back for bytes on the gossip port's TCP."""
    with socket.create_connection(node.gossip, timeout=timeout * SLOW) as one:
        one.sendall(data)
        if finish:
            one.shutdown(socket.SHUT_WR)
        back = b""
        try:
            while piece := one.recv(65536):
                back += piece
        except ConnectionResetError:
            pass
        return back


def test_defect_22_oversized_streams(pair):
    """A length beyond all bounds is refused at its sight; a flood of large ones takes no memory."""
    before = [knowledge(node) for node in pair]
    memory = resident_bytes(pair[0].pid)
    for length in (0xFFFFFFFF, 1 << 31, 5 << 20, (4 << 20) + 1):
        assert exchange(pair[0], struct.pack("<I", length) + b"x" * 100, finish=False) == b""
    assert dropped(pair[0], "too_long") == 4
    # As long as allowed, and never whole.
    held = []
    for _ in range(60):
        one = socket.create_connection(pair[0].gossip)
        one.setblocking(False)
        try:
            one.send(struct.pack("<I", 4 << 20) + b"x" * (1 << 20))
        except BlockingIOError:
            pass
        held.append(one)
    wait_until(lambda: dropped(pair[0], "crowded") > 0, 10 * SLOW)
    assert resident_bytes(pair[0].pid) < memory + (100 << 20)
    unchanged(pair, before)
    for one in held:
        one.close()


def test_streams_of_noise(pair):
    before = [knowledge(node) for node in pair]
    dice = random.Random(7)
    for length in (0, 1, 29, 30, 46, 100, 5000, 100_000):
        body = dice.randbytes(length)
        assert exchange(pair[0], struct.pack("<I", length) + body) == b""
        assert exchange(pair[0], struct.pack("<I", length + 1) + body) == b""
        assert exchange(pair[0], struct.pack("<I", length) + body + b"more") == b""
    unchanged(pair, before)


def test_slow_streams_keep_nobody_out(pair, clusters):
    """Sixty connections that say nothing, and a node that joins meanwhile; each of them has ten seconds."""
    slow = [socket.create_connection(pair[0].gossip) for _ in range(60)]
    third = clusters.node(join=[pair[0]], arguments=keys(KEY) if pair[0].has_keys else [])
    wait_all_active([*pair, third], 8)
    begin = time.monotonic()
    slow[-1].settimeout(20 * SLOW)
    assert slow[-1].recv(1) == b""
    assert time.monotonic() - begin < 12 * SLOW
    assert dropped(pair[0], "late") + dropped(pair[0], "crowded") >= 60 - 16
    for one in slow:
        one.close()


def test_a_flood_of_packets(pair):
    """So many forged packets as one thread can send: the nodes keep seeing each other, and answer on their admin ports."""
    over = threading.Event()
    packet = random.Random(1).randbytes(1400)

    def flood():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            while not over.is_set():
                try:
                    stranger.sendto(packet, pair[0].gossip)
                except OSError:
                    pass
    thread = threading.Thread(target=flood)
    thread.start()
    try:
        end = time.monotonic() + 5
        while time.monotonic() < end:
            assert get(pair[0], "/status/cluster/nodes").status == 200
    finally:
        over.set()
        thread.join()
    wait_seen(pair, {"n1": "active", "n2": "active"}, 10)
    assert dropped(pair[0], *REASONS) > 1_000


def test_defect_4_a_forged_join(clusters, tunnel, endpoint, host):
    """Whoever sends packets with a made-up node owns no endpoint: nothing of it is known afterwards."""
    nodes = clusters.start(2, arguments=keys(KEY))
    rogue = clusters.node(join=[nodes[0]], id="rogue", arguments=[*keys(OTHER), "--cluster.abort-if-join-fails=false", "--cluster.join-timeout", "1s"])
    rogue.expected_errors.append("no node of cluster.join")
    tunnel(rogue)
    before = dropped(nodes[0], "signature")
    wait_until(lambda: dropped(nodes[0], "signature") > before, 15 * SLOW)
    assert set(seen(nodes[0])) == {"n1", "n2"}
    from peer.http1 import request
    assert request(nodes[0].proxy, host=host).status == 502
    assert counter(nodes[0], "piko_cluster_nodes", status="active") == 2
    assert free_port() and status(nodes[0], "cluster/nodes/rogue") is None
