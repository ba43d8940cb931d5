"""Requests through a tunnel, without a pause, until SIGTERM: on kept connections, on new ones, and one stream of events that never ends.
Prints how many there were; status 1 if one failed or the stream was cut. `script/check-packages` runs it during upgrades."""

import http.client
import json
import signal
import sys
import threading
import time

HOST, PORT, ENDPOINT = sys.argv[1], int(sys.argv[2]), sys.argv[3]
HEADERS = {"x-piko-endpoint": ENDPOINT}
KEPT, NEW = 4, 2

stopping = threading.Event()
lock = threading.Lock()
counts = {"kept": 0, "new": 0, "events": 0}
failures = []


def failed(what, reason):
    with lock:
        failures.append(f"{time.strftime('%H:%M:%S')} {what}: {reason}")


def ask(connection, what):
    connection.request("GET", "/load", headers=HEADERS)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200 or not body:
        failed(what, f"status {response.status}: {body[:100]!r}")
    with lock:
        counts[what] += 1
    return response.getheader("Connection", "").lower() == "close"


def kept():
    connection = http.client.HTTPConnection(HOST, PORT, timeout=20)
    while not stopping.is_set():
        try:
            if ask(connection, "kept"):
                connection.close()
        except Exception as error:
            failed("kept", repr(error))
            connection.close()
        time.sleep(0.005)
    connection.close()


def new():
    while not stopping.is_set():
        connection = http.client.HTTPConnection(HOST, PORT, timeout=20)
        try:
            ask(connection, "new")
        except Exception as error:
            failed("new", repr(error))
        connection.close()
        time.sleep(0.01)


def events():
    connection = http.client.HTTPConnection(HOST, PORT, timeout=20)
    try:
        connection.request("GET", "/events", headers=HEADERS)
        response = connection.getresponse()
        while not stopping.is_set():
            line = response.readline()
            if not line:
                if not stopping.is_set():
                    failed("events", "the stream ended")
                return
            if line.strip():
                counts["events"] += 1
    except Exception as error:
        failed("events", repr(error))


signal.signal(signal.SIGTERM, lambda *_: stopping.set())
threads = [threading.Thread(target=kept) for _ in range(KEPT)] + [threading.Thread(target=new) for _ in range(NEW)]
threads.append(threading.Thread(target=events, daemon=True))
for thread in threads:
    thread.start()
print("started", flush=True)
while not stopping.wait(1):
    pass
for thread in threads:
    thread.join(30)
print(json.dumps({**counts, "failures": len(failures)}))
for line in failures[:20]:
    print(line)
sys.exit(1 if failures or not all(counts.values()) else 0)
