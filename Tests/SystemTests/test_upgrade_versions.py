"""An upgrade from the build of an earlier commit to this one: what is handed over and what processes say to each other is versioned."""

import os
import subprocess
from pathlib import Path

import pytest

import programs
from peer import http1
from programs import BIN, ROOT, metric
from test_reload import Load, command, demo, wait_for_generations  # noqa: F401 (demo is a fixture)

# A build that can be upgraded, and whose formats this one must still take over. A new one is added with each version.
EARLIER = ["cf08be248d82348feb0c21fb438ba009a02fe3d3"]


@pytest.fixture(scope="session", params=EARLIER)
def earlier(request):
    """The folder of the programs of an earlier commit, built once."""
    folder = ROOT / ".build" / "earlier" / request.param
    found = folder / ".build" / "debug"
    if not (found / "piko-worker").exists():
        folder.mkdir(parents=True, exist_ok=True)
        archive = subprocess.run(["git", "-C", ROOT, "archive", request.param], capture_output=True)
        if archive.returncode != 0:
            pytest.skip(f"the history does not reach back to {request.param}")
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        subprocess.run(["swift", "build", "--package-path", folder], check=True, stdout=subprocess.DEVNULL)
    return found


@pytest.mark.soak
@pytest.mark.timeout(1_200)
def test_upgrade_from_an_earlier_commit(new_node, real_agent, service, demo, endpoint, host, earlier, monkeypatch):
    monkeypatch.setattr(programs, "BIN", earlier)
    node = new_node(arguments=["--proxy.access-log.disable"], gossip=None)
    assert Path(os.readlink(f"/proc/{node.pid}/exe")).parent == earlier.resolve()
    monkeypatch.setattr(programs, "BIN", BIN)
    real_agent(node.upstream, "http", endpoint, demo[0], "--access-log.disable")
    real_agent(node.upstream, "tcp", f"{endpoint}-tcp", demo[1], "--access-log.disable")
    load = Load(node, endpoint, f"{endpoint}-tcp", kept=8, fresh=2, idle=8, websockets=20, streams=2, stream_bytes=8 << 20)
    kept = http1.Connection(node.proxy)
    assert kept.request(host=host).status == 200
    status, said = command(node, "upgrade", "--binary", BIN / "piko")
    assert status == 0, said
    assert Path(os.readlink(f"/proc/{node.pid}/exe")).parent == BIN.resolve()
    assert kept.request(host=host).status == 200
    # And back: the earlier one takes what this one hands over, as long as the format is its own.
    status, said = command(node, "upgrade", "--binary", earlier / "piko")
    assert status == 0, said
    status, said = command(node, "upgrade", "--binary", BIN / "piko")
    assert status == 0, said
    assert kept.request(host=host).status == 200
    report = load.stop()
    assert report["failures"] == 0, report["first"]
    wait_for_generations(node, 1)
    assert metric(node, "piko_worker_restarts_total") == 0
