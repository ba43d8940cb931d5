"""Starts a node with TLS on every port that can have it, lets testssl.sh and sslyze scan each, and judges what they say.

    tls_ports.py [--only testssl|sslyze] [--keep FOLDER]

A finding above LOW, a check that could not be run, and a scan that did not come to its end fail, unless EXPLAINED has it with its
reason. An explanation that explains nothing any more fails too (in a whole run), so that the list stays true. Ports are not only
those that we think of: whatever the node listens on is asked whether it speaks TLS.
"""

import argparse
import collections
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "Tests" / "SystemTests"))
from peer.http1 import wait_until  # noqa: E402
from programs import BIN, Node, Program  # noqa: E402

PORTS = ("proxy", "upstream", "admin")
SSLYZE = ROOT / ".build" / "sslyze" / "bin" / "sslyze"
SEVERITIES = {"OK": 0, "INFO": 0, "DEBUG": 0, "LOW": 1, "MEDIUM": 2, "WARN": 2, "HIGH": 3, "CRITICAL": 4, "FATAL": 4}
Finding = collections.namedtuple("Finding", "tool port name severity text")

# (tool, name of the check, what it says, why this is no fault). Names and texts are patterns of the whole. SOMETIMES: those of them that
# need not be found.
SOMETIMES = {"sessionresumption_ticket"}
EXPLAINED = [
    ("testssl", "engine_problem", ".*", "is about the openssl command of the scanner, which has no GOST; nobody here speaks it"),
    ("testssl", "cert_revocation", "Neither CRL nor OCSP URI provided", "the scan's own certificates have none; a public authority's do"),
    ("testssl", "security_headers", "--",
     "at the proxy port they are the service's to send, and a tunnel adds none; no browser has a session at the upstream and admin ports"),
    ("testssl", "sessionresumption_ticket", "check failed because of connect problem",
     "its first client ends with the handshake and so may miss the ticket behind it, and the second then has none to show; sslyze tries the same"),
]

# What a whole scan has looked at, at least.
TESTSSL_CHECKS = {
    "SSLv2", "SSLv3", "TLS1", "TLS1_1", "TLS1_2", "TLS1_3", "cipherlist_NULL", "cipherlist_aNULL", "cipherlist_EXPORT", "cipher_order", "heartbleed",
    "CCS", "ticketbleed", "ROBOT", "secure_renego", "secure_client_renego", "CRIME_TLS", "BREACH", "POODLE_SSL", "fallback_SCSV", "SWEET32", "FREAK",
    "DROWN", "LOGJAM", "BEAST", "LUCKY13", "RC4", "scanTime"}
SSLYZE_CHECKS = {
    "certificate_info", "elliptic_curves", "heartbleed", "http_headers", "openssl_ccs_injection", "robot", "session_renegotiation",
    "session_resumption", "ssl_2_0_cipher_suites", "ssl_3_0_cipher_suites", "tls_1_0_cipher_suites", "tls_1_1_cipher_suites",
    "tls_1_2_cipher_suites", "tls_1_3_cipher_suites", "tls_1_3_early_data", "tls_compression", "tls_fallback_scsv", "tls_extended_master_secret"}


# ---- What is scanned ----

def openssl(folder, *arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def make_certificates(folder):
    """An authority, and of it a certificate with each kind of key."""
    kinds = {"rsa": ["-newkey", "rsa:2048"], "ecdsa": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]}
    openssl(folder, "req", "-x509", *kinds["ecdsa"], "-nodes", "-keyout", "authority.key", "-out", "authority.pem", "-days", "90",
            "-subj", "/CN=Authority of the scan", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    for kind, new_key in kinds.items():
        openssl(folder, "req", *new_key, "-nodes", "-keyout", f"{kind}.key", "-out", f"{kind}.csr", "-subj", "/CN=localhost",
                "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "keyUsage=critical,digitalSignature",
                "-addext", "extendedKeyUsage=serverAuth")
        openssl(folder, "x509", "-req", "-in", f"{kind}.csr", "-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial",
                "-days", "90", "-copy_extensions", "copy", "-out", f"{kind}.pem")


def start(folder):
    """A node, and an agent with a service, so that there are answers to look at. They end with us."""
    flags = []
    for port in PORTS:
        flags += [f"--{port}.tls.cert", folder / "rsa.pem", f"--{port}.tls.key", folder / "rsa.key",
                  f"--{port}.tls.certs", f"{folder / 'ecdsa.pem'}:{folder / 'ecdsa.key'}"]
    node = Node(arguments=[*flags, "--proxy.access-log.disable"])
    demo = Program([BIN / "piko-demo-service", "--listen", "127.0.0.1:0"], name="demo service")
    address = wait_until(lambda: re.findall(r"127\.0\.0\.1:\d+", demo.output), what="the demo service's port")[0]
    agent = Program([BIN / "piko", "agent", "http", "localhost", address, "--connect.url", f"https://localhost:{node.upstream[1]}",
                     "--connect.tls.root-cas", folder / "authority.pem", "--access-log.disable"], name="agent")
    agent.wait_log("connected")
    return node


def speaks_tls(address, folder):
    context = ssl.create_default_context(cafile=folder / "authority.pem")
    try:
        with socket.create_connection(address, 5) as plain, context.wrap_socket(plain, server_hostname="localhost"):
            return True
    except (ssl.SSLError, ConnectionError, TimeoutError):
        return False


def listening(node):
    """Every TCP address at which one of the node's processes listens."""
    lines = subprocess.run(["ss", "-ltnpH"], check=True, capture_output=True, text=True).stdout.splitlines()
    pids = set(map(str, node.processes()))
    return {line.split()[3] for line in lines if pids & set(re.findall(r"pid=(\d+)", line))}


def ports_with_tls(node, folder):
    """{name: port}."""
    known = {getattr(node, name)[1]: name for name in PORTS}
    found = {}
    for text in sorted(listening(node)):
        host, _, port = text.rpartition(":")
        if speaks_tls((host.strip("[]"), int(port)), folder):
            found[known.get(int(port), f"port {port}")] = int(port)
    assert set(PORTS) <= found.keys(), f"a port speaks no TLS: {found}"
    return found


# ---- testssl.sh ----

def testssl(name, port, folder):
    path = folder / f"testssl-{name}.json"
    command = ["testssl", "--quiet", "--color", "0", "--warnings", "off", "--nodns", "none", "--ip", "127.0.0.1", "--assume-http",
               "--add-ca", folder / "authority.pem", "--jsonfile", path, f"https://localhost:{port}/"]
    with open(folder / f"testssl-{name}.txt", "w") as text:
        subprocess.run(list(map(str, command)), cwd=folder, stdin=subprocess.DEVNULL, stdout=text, stderr=subprocess.STDOUT, timeout=1800)
    entries = json.loads(path.read_text())
    findings = [Finding("testssl", name, entry["id"].partition(" <")[0], entry["severity"], entry["finding"]) for entry in entries]
    seen = {finding.name for finding in findings}
    return findings + [Finding("testssl", name, check, "FATAL", "was not checked") for check in sorted(TESTSSL_CHECKS - seen)]


# ---- sslyze ----

def certificate_findings(result):
    kinds = []
    for deployment in result["certificate_deployments"]:
        kind = deployment["received_certificate_chain"][0]["public_key"]["algorithm"]
        # The trust stores of browsers know nothing of the scan's authority; ours is the one that was given.
        for path in deployment["path_validation_results"]:
            if path["trust_store"]["name"] == "Supplied CA file":
                kinds.append(kind)
                yield ("chain", "OK" if path["was_validation_successful"] else "HIGH", f"{kind}: {path['validation_error']}")
        yield ("order of the chain", "OK" if deployment["received_chain_has_valid_order"] else "MEDIUM", kind)
        yield ("sha1", "HIGH" if deployment["verified_chain_has_sha1_signature"] else "OK", kind)
    yield ("kinds", "OK" if sorted(kinds) == ["ECPublicKey", "RSAPublicKey"] else "FATAL", " ".join(kinds))


def suite_findings(check, result):
    accepted = [suite["cipher_suite"]["name"] for suite in result["accepted_cipher_suites"]]
    is_new = check in ("tls_1_2_cipher_suites", "tls_1_3_cipher_suites")
    if is_new != bool(accepted):
        yield ("accepted", "HIGH", " ".join(accepted) or "none")
    for name in accepted:
        good = re.search("_GCM_|_CHACHA20_", name) and (check == "tls_1_3_cipher_suites" or name.startswith("TLS_ECDHE_"))
        yield ("suite", "OK" if good else "MEDIUM", name)


def simple_findings(check, result):
    """Of the checks whose answer is one word: its place, and what it must be."""
    wanted = {
        "heartbleed": ("is_vulnerable_to_heartbleed", False), "openssl_ccs_injection": ("is_vulnerable_to_ccs_injection", False),
        "robot": ("robot_result", "NOT_VULNERABLE_RSA_NOT_SUPPORTED"), "tls_compression": ("supports_compression", False),
        "tls_fallback_scsv": ("supports_fallback_scsv", True), "tls_1_3_early_data": ("supports_early_data", False),
        "tls_extended_master_secret": ("supports_ems_extension", True)}
    if check in wanted:
        key, good = wanted[check]
        yield (key, "OK" if result[key] == good else "HIGH", str(result[key]))


def sslyze_findings(check, result):
    if check.endswith("_cipher_suites"):
        yield from suite_findings(check, result)
    elif check == "certificate_info":
        yield from certificate_findings(result)
    elif check == "session_renegotiation":
        yield ("secure", "OK" if result["supports_secure_renegotiation"] else "HIGH", str(result["supports_secure_renegotiation"]))
        yield ("by clients", "HIGH" if result["is_vulnerable_to_client_renegotiation_dos"] else "OK", "")
    elif check == "session_resumption":
        yield ("tickets", "OK" if result["tls_ticket_resumption_result"] == "FULLY_SUPPORTED" else "MEDIUM", result["tls_ticket_resumption_result"])
    elif check == "elliptic_curves":
        for curve in result["supported_curves"]:
            yield ("curve", "OK" if curve["name"] in ("X25519", "secp256r1", "secp384r1") else "MEDIUM", curve["name"])
    else:
        yield from simple_findings(check, result)


def sslyze(name, port, folder):
    path = folder / f"sslyze-{name}.json"
    command = [SSLYZE, "--mozilla_config", "intermediate", "--certinfo_ca_file", folder / "authority.pem", "--json_out", path, f"localhost:{port}"]
    command += [f"--{option}" for option in (
        "certinfo", "elliptic_curves", "heartbleed", "http_headers", "openssl_ccs", "robot", "reneg", "resum", "sslv2", "sslv3", "tlsv1", "tlsv1_1",
        "tlsv1_2", "tlsv1_3", "early_data", "compression", "fallback", "ems")]
    done = subprocess.run(list(map(str, command)), cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900)
    (folder / f"sslyze-{name}.txt").write_text(done.stdout + done.stderr)
    scans = json.loads(path.read_text())["server_scan_results"][0]["scan_result"] or {}
    findings = []
    for check in sorted(SSLYZE_CHECKS):
        scan = scans.get(check) or {"status": "was not made"}
        if scan["status"] != "COMPLETED":
            findings.append(Finding("sslyze", name, check, "FATAL", f"{scan['status']} {scan.get('error_reason', '')}"))
            continue
        found = [Finding("sslyze", name, f"{check}: {what}", severity, text) for what, severity, text in sslyze_findings(check, scan["result"])]
        findings += found or [Finding("sslyze", name, check, "INFO", "looked at")]
    # Its own judgement by Mozilla's "intermediate" profile stands behind the scan.
    verdict = done.stdout.partition("COMPLIANCE AGAINST")[2]
    complaints = re.findall(r"^\s+\* (.+?): (.+)$", verdict, re.M)
    findings += [Finding("sslyze", name, f"mozilla: {what}", "MEDIUM", text) for what, text in complaints]
    if "OK - Compliant" not in verdict and not complaints:
        findings.append(Finding("sslyze", name, "mozilla", "FATAL", f"no verdict: {verdict[-300:]!r}"))
    return findings


# ---- Judging ----

def explanation(finding):
    """The index in EXPLAINED, or None."""
    for index, (tool, name, text, _) in enumerate(EXPLAINED):
        if tool == finding.tool and re.fullmatch(name, finding.name) and re.fullmatch(text, finding.text, re.S):
            return index
    return None


def judge(findings, is_whole):
    """Prints what matters. True: nothing is unexplained."""
    used, bad = collections.defaultdict(set), []
    for finding in findings:
        if SEVERITIES[finding.severity] <= SEVERITIES["LOW"]:
            continue
        index = explanation(finding)
        if index is None:
            bad.append(finding)
        else:
            used[index].add((finding.port, finding.name))
    for (tool, port), of_port in sorted(collections.Counter((finding.tool, finding.port) for finding in findings).items()):
        print(f"{tool} {port}: {of_port} findings looked at")
    for finding in findings:
        if finding.severity == "LOW":
            print(f"low: {finding.tool} {finding.port}: {finding.name}: {finding.text}")
    for index, places in sorted(used.items()):
        print(f"explained: {EXPLAINED[index][0]}: {', '.join(sorted({f'{port} {name}' for port, name in places}))}\n    {EXPLAINED[index][3]}")
    for finding in bad:
        print(f"FINDING: {finding.tool} {finding.port}: {finding.severity}: {finding.name}: {finding.text}")
    stale = [EXPLAINED[index] for index in range(len(EXPLAINED)) if index not in used and EXPLAINED[index][1] not in SOMETIMES] if is_whole else []
    for entry in stale:
        print(f"STALE: nothing was found that this explains: {entry[:3]}")
    return not bad and not stale


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["testssl", "sslyze"])
    parser.add_argument("--keep", metavar="FOLDER", help="where certificates and what the scanners said are left")
    options = parser.parse_args()
    folder = Path(options.keep or tempfile.mkdtemp(prefix="piko-scan-")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    findings, failures = [], []
    try:
        make_certificates(folder)
        node = start(folder)
        ports = ports_with_tls(node, folder)
        print(f"scanning {ports}, of all that listen: {', '.join(sorted(listening(node)))}", flush=True)

        def scan(tool, name, port):
            try:
                findings.extend(tool(name, port, folder))
            except Exception as error:    # whatever it is, the scan did not happen
                failures.append(f"{tool.__name__} {name}: {type(error).__name__}: {error}")
        for tool in (sslyze, testssl):
            if options.only in (None, tool.__name__):
                threads = [threading.Thread(target=scan, args=(tool, name, port)) for name, port in ports.items()]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
        assert node.process.poll() is None and not node.logged("worker ended"), node.tail()
    finally:
        for program in reversed(list(Program.living)):
            program.stop()
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    for failure in failures:
        print(f"FAILED: {failure}")
    passed = judge(findings, options.only is None) and not failures and bool(findings)
    print("passed" if passed else "failed")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
