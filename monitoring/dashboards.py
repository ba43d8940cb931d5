#!/usr/bin/env python3
"""Makes the dashboards of monitoring/dashboards: what is in them is written here, in tables, and not in a thousand lines of JSON each.

    monitoring/dashboards.py          writes them
    monitoring/dashboards.py --check  says which are not what this would write; status 1 then

script/check-monitoring checks that all that they name exists on a live server.
"""

import json
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "dashboards"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
HERE = 'instance=~"$instance"'


# ---- PromQL ----

def select(metric, *matchers):
    return f"{metric}{{{', '.join((HERE,) + matchers)}}}"


def of(metric, *matchers, by="instance", function="sum"):
    """A gauge, summed."""
    return f"{function} by ({by}) ({select(metric, *matchers)})"


def rate(metric, *matchers, by="instance"):
    """A counter, per second, summed."""
    grouping = f" by ({by}) " if by else ""
    return f"sum{grouping}(rate({select(metric, *matchers)}[$__rate_interval]))"


def quantiles(metric, *matchers):
    """p50, p95 and p99 of a histogram, over all that is shown."""
    return [(f"histogram_quantile({quantile}, {rate(metric + '_bucket', *matchers, by='le')})", f"p{quantile[2:].ljust(2, '0')}")
            for quantile in ("0.5", "0.95", "0.99")]


def mean(metric, *matchers):
    return f"{rate(metric + '_sum', *matchers)} / {rate(metric + '_count', *matchers)}"


def per_instance(*metrics):
    """Counters side by side, with what each is called."""
    return [(rate(metric), "{{instance}} " + name) for metric, name in metrics]


# ---- Panels ----

class Panel:
    """A panel: `queries` are (PromQL, legend); `limits` are (value, colour) from which the colour is another."""

    def __init__(self, title, description, queries, unit="short", kind="timeseries", width=12, height=8, limits=(), stack=False, lowest=0):
        self.title, self.description, self.queries, self.unit, self.kind = title, description, queries, unit, kind
        self.width, self.height, self.limits, self.stack, self.lowest = width, height, limits, stack, lowest

    def json(self, number, x, y):
        steps = [{"color": "green", "value": None}] + [{"color": colour, "value": value} for value, colour in self.limits]
        defaults = {"color": {"mode": "palette-classic" if self.kind == "timeseries" else "thresholds"}, "mappings": [], "unit": self.unit,
                    "thresholds": {"mode": "absolute", "steps": steps}}
        if self.lowest is not None:
            defaults["min"] = self.lowest
        if self.kind == "timeseries":
            defaults["custom"] = {
                "drawStyle": "line", "lineInterpolation": "linear", "lineWidth": 1, "fillOpacity": 20 if self.stack else 5, "showPoints": "never",
                "spanNulls": False, "axisPlacement": "auto", "stacking": {"group": "A", "mode": "normal" if self.stack else "none"},
                "thresholdsStyle": {"mode": "line" if self.limits else "off"}}
            options = {"legend": {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom", "showLegend": True},
                       "tooltip": {"mode": "multi", "sort": "desc"}}
        elif self.kind == "bargauge":
            options = {"displayMode": "basic", "orientation": "horizontal", "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                       "showUnfilled": True, "valueMode": "color", "minVizWidth": 0, "minVizHeight": 10}
        else:
            options = {"colorMode": "value", "graphMode": "area", "justifyMode": "auto", "orientation": "auto", "textMode": "auto",
                       "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
        targets = [{"datasource": DATASOURCE, "editorMode": "code", "expr": expression, "legendFormat": legend, "instant": self.kind == "bargauge",
                    "range": self.kind != "bargauge", "refId": chr(ord("A") + index)} for index, (expression, legend) in enumerate(self.queries)]
        return {"id": number, "type": self.kind, "title": self.title, "description": self.description, "datasource": DATASOURCE,
                "fieldConfig": {"defaults": defaults, "overrides": []}, "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
                "options": options, "targets": targets}


def stat(title, description, expression, unit="short", limits=(), width=4, legend="", **options):
    return Panel(title, description, [(expression, legend)], unit, "stat", width, 4, limits, **options)


def variable(name, label, query, more):
    return {"name": name, "label": label, "type": "query", "datasource": DATASOURCE, "definition": query, "includeAll": True, "multi": True, "allValue": ".*",
            "query": {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"}, "refresh": 2, "sort": 1, "hide": 0,
            "skipUrlSync": False, "regex": "", "options": [], "current": {"selected": True, "text": ["All"], "value": ["$__all"]}, **more}


def dashboard(name, title, description, source, rows, endpoints=None):
    """`source`: a metric of the programs that are shown; `endpoints`: one that has the endpoints to choose from."""
    panels, y = [], 0

    def add(panel, x, y):
        panels.append(panel.json(len(panels) + 1, x, y))
    for row, members in rows:
        panels.append({"id": len(panels) + 1, "type": "row", "title": row, "collapsed": False, "panels": [], "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}})
        x, y, below = 0, y + 1, y + 1
        for panel in members:
            if x + panel.width > 24:
                x, y = 0, below
            add(panel, x, y)
            x, below = x + panel.width, max(below, y + panel.height)
        y = below
    variables = [{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1, "hide": 0, "includeAll": False,
                  "multi": False, "regex": "", "options": [], "skipUrlSync": False, "current": {}},
                 variable("instance", "Instance", f"label_values({source}, instance)", {})]
    if endpoints:
        variables.append(variable("endpoint", "Endpoint", f'label_values({endpoints}{{instance=~"$instance"}}, endpoint)', {}))
    return {"uid": f"piko-{name}", "title": title, "description": description, "tags": ["piko"], "schemaVersion": 39, "version": 1, "id": None,
            "editable": True, "graphTooltip": 1, "fiscalYearStartMonth": 0, "weekStart": "", "timezone": "browser", "refresh": "30s", "liveNow": False,
            "time": {"from": "now-1h", "to": "now"}, "timepicker": {}, "annotations": {"list": []}, "templating": {"list": variables},
            "links": [{"title": "Piko", "type": "dashboards", "tags": ["piko"], "asDropdown": False, "includeVars": False, "keepTime": True,
                       "targetBlank": False, "icon": "external link", "tooltip": "", "url": ""}],
            "panels": panels}


# ---- What they show ----

LATENCY = ((1, "yellow"), (5, "red"))
ANY = ((0.001, "red"),)
ENDPOINT = 'endpoint=~"$endpoint"'
ACTIVE, UNREACHABLE, DRAINING = 'status="active"', 'status="unreachable"', 'status="draining"'
FAILED, FAILED_CLASS = 'status=~"5.."', 'class="5xx"'
OF_CLIENTS = 'port="proxy"'

CLUSTER = dashboard("cluster", "Piko: cluster", "The nodes together: who is there, what they serve, and how requests go between them.", "piko_build_info", [
    ("Nodes", [
        stat("Active nodes", "Nodes that are active, as the node sees it that sees the fewest.", f"min({select('piko_cluster_nodes', ACTIVE)})"),
        stat("Unreachable nodes", "Nodes that at least one node can't reach. After a minute they are forgotten.",
             f"max({select('piko_cluster_nodes', UNREACHABLE)})", limits=((1, "red"),)),
        stat("Draining nodes", "Nodes that get no new requests and let their agents go elsewhere.",
             f"max({select('piko_cluster_nodes', DRAINING)})", limits=((1, "yellow"),)),
        stat("Nodes disagree", "The most active nodes that one of them sees, less the fewest: more than 0 for longer than some seconds is a cluster that is split.",
             f"max({select('piko_cluster_nodes', ACTIVE)}) - min({select('piko_cluster_nodes', ACTIVE)})", limits=((1, "red"),)),
        stat("Agents' tunnels", "Tunnels of all nodes.", f"sum({select('piko_upstreams_connected_upstreams')})"),
        stat("Versions", "How many versions of the program run. More than 1 outside of an upgrade is a node that was forgotten.",
             f"count(count by (version) ({select('piko_build_info')}))", limits=((2, "yellow"),)),
        Panel("Active nodes as each sees them", "All lines should be one.", [(of("piko_cluster_nodes", ACTIVE), "{{instance}}")]),
        Panel("Nodes that are not active as each sees them", "Draining and left ones are planned, unreachable ones are not.",
              [(of("piko_cluster_nodes", 'status=~"draining|unreachable|left"', by="instance, status"), "{{instance}} {{status}}")], limits=((1, "red"),)),
    ]),
    ("What they serve", [
        Panel("Requests by node", "Requests that clients and other nodes sent to each node.", [(rate("piko_proxy_requests_total"), "{{instance}}")], "reqps"),
        Panel("Failed requests by node", "Requests answered with a status of 500 or more.",
              [(rate("piko_proxy_requests_total", FAILED), "{{instance}}")], "reqps"),
        Panel("Tunnels by node", "Agents stay where they connected: `upstream.rebalance.threshold` shares them out.",
              [(of("piko_upstreams_connected_upstreams"), "{{instance}}")]),
        Panel("Endpoints by node", "Endpoints with an agent at the node.", [(of("piko_upstreams_registered_endpoints"), "{{instance}}")]),
        Panel("Agents asked to connect elsewhere", "By nodes that have more than their share.", [(rate("piko_upstreams_rebalanced_total"), "{{instance}}")], "ops"),
        Panel("Processor time by node", "Of all processes of the node; 1 is one processor.", [(rate("process_cpu_seconds_total"), "{{instance}}")]),
    ]),
    ("Between nodes", [
        Panel("Requests sent to other nodes", "Requests whose agent is at another node.", [(rate("piko_upstreams_remote_requests_total"), "{{instance}}")], "reqps"),
        Panel("Requests from other nodes", "And those of them that were declined, because the agent is gone: they are tried elsewhere.",
              per_instance(("piko_proxy_node_requests_total", "came"), ("piko_proxy_node_requests_declined_total", "declined")), "reqps"),
        Panel("Connections to other nodes", "In use or kept.", [(of("piko_proxy_node_connections"), "{{instance}}")]),
        Panel("Trouble between nodes", "Connections that could not be made, and requests that claimed to come from a node without proof: other keys, or clocks that are "
              "more than 30 s apart.",
              per_instance(("piko_proxy_node_dial_failures_total", "not connected"), ("piko_proxy_node_proofs_refused_total", "not proven")), "ops", limits=ANY),
    ]),
])

PROXY = dashboard("proxy", "Piko: proxy", "Requests, endpoints, tunnels and bytes.", "piko_build_info", [
    ("Requests", [
        stat("Requests", "Per second.", rate('piko_proxy_requests_total', by=""), "reqps"),
        stat("In flight", "Requests between their head and the end of their answer.", f"sum({select('piko_proxy_requests_in_flight')})"),
        stat("Failed", "Share of the requests with a status of 500 or more.",
             f"({rate('piko_proxy_requests_total', FAILED, by='')} or vector(0)) / {rate('piko_proxy_requests_total', by='')}",
             "percentunit", ((0.01, "yellow"), (0.05, "red"))),
        stat("p99", "Latency to the end of the answer.", quantiles("piko_proxy_request_latency_seconds", 'status!="101"')[2][0], "s", LATENCY),
        stat("Client connections", "Open at the proxy port.", f"sum({select('piko_connections_open', OF_CLIENTS)})"),
        stat("Tunnels", "Of agents.", f"sum({select('piko_upstreams_connected_upstreams')})"),
        Panel("Requests by status", "All methods.", [(rate("piko_proxy_requests_total", by="status"), "{{status}}")], "reqps", stack=True),
        Panel("Requests by instance", "All statuses and methods.", [(rate("piko_proxy_requests_total"), "{{instance}}")], "reqps"),
        Panel("Requests by method", "Methods that are not standard count as `other`.", [(rate("piko_proxy_requests_total", by="method"), "{{method}}")], "reqps"),
        Panel("Requests in flight", "By instance.", [(of("piko_proxy_requests_in_flight"), "{{instance}}")]),
        Panel("Latency", "From the request's head to the end of its answer: a long download is slow. Upgraded connections are left out.",
              quantiles("piko_proxy_request_latency_seconds", 'status!="101"'), "s", limits=LATENCY),
        Panel("Time to first byte", "From the request's first byte to the first of its answer: what the service and the way to it take.",
              quantiles("piko_proxy_time_to_first_byte_seconds"), "s", limits=LATENCY),
        Panel("Size of requests", "Bodies.", quantiles("piko_proxy_request_size_bytes"), "bytes"),
        Panel("Size of responses", "Bodies.", quantiles("piko_proxy_response_size_bytes"), "bytes"),
    ]),
    ("Failures", [
        Panel("Failed requests by cause", "No upstream: nobody serves the endpoint. Upstream: the tunnel or the service broke. Timeout: no answer within `proxy.timeout`. "
              "Head: malformed or too large. Slow: a body below `min_body_rate`.",
              [(rate(metric, by=""), name) for metric, name in (
                  ("piko_proxy_requests_without_upstream_total", "no upstream"), ("piko_proxy_request_upstream_errors_total", "upstream"),
                  ("piko_proxy_request_timeouts_total", "timeout"), ("piko_proxy_request_head_errors_total", "head"),
                  ("piko_proxy_requests_too_slow_total", "slow"))], "reqps"),
        Panel("Requests tried again, and waits", "Tried on another upstream, or waited for an agent to come back (`proxy.reconnect_wait`).",
              [(rate("piko_proxy_request_retries_total"), "{{instance}} tried again"), (rate("piko_proxy_reconnect_waits_total"), "{{instance}} waited")], "reqps"),
        Panel("Connections refused", "By the reason: the address may not come, or a limit of the port (docs/limits.md).",
              [(rate("piko_connections_refused_total", by="reason"), "{{reason}}")], "ops", limits=ANY),
        Panel("Refused by limits and quotas", "Limits are of the node, quotas of a token or tenant.",
              [(rate("piko_refused_by_limit_total"), "{{instance}} limit"), (rate("piko_upstreams_refused_total"), "{{instance}} tunnels of the node"),
               (rate("piko_refused_by_quota_total", by="limit"), "quota of {{limit}}")], "ops", limits=ANY),
        Panel("Tokens refused, tunnels expired", "Requests on any port without a token that permits them; tunnels whose token was over.",
              [(rate("piko_auth_requests_refused_total"), "{{instance}} refused"), (rate("piko_upstreams_expired_total"), "{{instance}} expired")], "ops"),
        Panel("TLS handshakes", "Resumed ones are among those that were done.",
              [(rate("piko_tls_handshakes_total"), "{{instance}} done"), (rate("piko_tls_handshakes_resumed_total"), "{{instance}} resumed"),
               (rate("piko_tls_handshakes_failed_total"), "{{instance}} failed")], "ops"),
    ]),
    ("Endpoints", [
        Panel("Busiest endpoints", "By requests per second. The servers count only so many endpoints apart; the rest is `other`.",
              [(f"topk(15, {rate('piko_endpoint_requests_total', ENDPOINT, by='endpoint')})", "{{endpoint}}")], "reqps", "bargauge"),
        Panel("Endpoints that fail most", "By answers with a status of 500 or more, per second.",
              [(f"topk(15, {rate('piko_endpoint_requests_total', ENDPOINT, FAILED_CLASS, by='endpoint')})", "{{endpoint}}")], "reqps", "bargauge"),
        Panel("Requests of the chosen endpoints", "By the class of the status.",
              [(rate("piko_endpoint_requests_total", ENDPOINT, by="endpoint, class"), "{{endpoint}} {{class}}")], "reqps"),
        Panel("Mean time of a request", "Of the chosen endpoints.",
              [(f"{rate('piko_endpoint_request_seconds_total', ENDPOINT, by='endpoint')} / {rate('piko_endpoint_requests_total', ENDPOINT, by='endpoint')}",
                "{{endpoint}}")], "s"),
        Panel("Bytes from clients", "Bodies of requests, and all of TCP and upgraded connections.",
              [(f"topk(15, {rate('piko_endpoint_received_bytes_total', ENDPOINT, by='endpoint')})", "{{endpoint}}")], "Bps"),
        Panel("Bytes to clients", "Bodies of responses, and all of TCP and upgraded connections.",
              [(f"topk(15, {rate('piko_endpoint_sent_bytes_total', ENDPOINT, by='endpoint')})", "{{endpoint}}")], "Bps"),
        Panel("TCP and upgraded connections", "New ones, by endpoint.",
              [(rate("piko_endpoint_connections_total", ENDPOINT, by="endpoint"), "{{endpoint}}")], "ops"),
        Panel("Connections upgraded", "To WebSocket, or another protocol.", [(rate("piko_proxy_upgrades_total"), "{{instance}}")], "ops"),
    ]),
    ("Tunnels and the way of the bytes", [
        Panel("Tunnels and endpoints", "Connected to each node.",
              [(of("piko_upstreams_connected_upstreams"), "{{instance}} tunnels"), (of("piko_upstreams_registered_endpoints"), "{{instance}} endpoints")]),
        Panel("Streams", "Open in tunnels.", [(of("piko_upstreams_streams"), "{{instance}}")]),
        Panel("Requests by way", "To an agent of this node, or to another node.",
              [(rate("piko_upstreams_upstream_requests_total"), "{{instance}} here"), (rate("piko_upstreams_remote_requests_total"), "{{instance}} other node")],
              "reqps"),
        Panel("Data connections", "Of the direct transport: waiting or in use.", [(of("piko_direct_connections"), "{{instance}}")]),
        Panel("Streams by transport", "Short: no data connection was waiting, so that the stream went through the session or waited.",
              per_instance(("piko_direct_streams_total", "direct"), ("piko_direct_shortages_total", "short"), ("piko_direct_moved_total", "from a sibling"),
                           ("piko_direct_refused_total", "refused")), "ops"),
        Panel("Tunnels that broke the protocol", "The peer's fault: they were ended.", [(rate("piko_upstreams_protocol_errors_total"), "{{instance}}")],
              "ops", limits=ANY),
        Panel("Bytes spliced and copied", "What loops carry from socket to socket. Spliced bytes never leave the kernel. Copied ones cost processor time: small flows, or no pipes.",
              [(rate("piko_pump_bytes_total", by="how"), "{{how}}")], "Bps", stack=True),
        Panel("Raw bytes", "All of TCP and upgraded connections, spliced or copied.",
              per_instance(("piko_stream_bytes_received_total", "from clients"), ("piko_stream_bytes_sent_total", "to clients")), "Bps"),
    ]),
], endpoints="piko_endpoint_requests_total")

GOSSIP = dashboard("gossip", "Piko: gossip", "How nodes know of each other.", "piko_cluster_nodes", [
    ("Knowledge", [
        Panel("Entries", "Live entries of all nodes, as each knows them. All lines should be one.",
              [(of("piko_gossip_entries", 'deleted="false"'), "{{instance}}")]),
        Panel("Entries by node", "As the first of the chosen instances knows them.",
              [(of("piko_gossip_entries", 'deleted="false"', by="node_id", function="max"), "{{node_id}}")]),
        Panel("Removed entries", "Kept for a while so that others hear of the removal.", [(of("piko_gossip_entries", 'deleted="true"'), "{{instance}}")]),
        Panel("Nodes by status", "As each sees them.", [(of("piko_cluster_nodes", by="instance, status"), "{{instance}} {{status}}")]),
    ]),
    ("Failures", [
        Panel("Suspicions", "A node did not answer; refuted: it did after all. Suspicions without unreachable nodes are lost packets, or a machine that is too busy.",
              per_instance(("piko_gossip_suspicions_total", "suspected"), ("piko_gossip_suspicions_refuted_total", "refuted"),
                           ("piko_gossip_refutations_total", "said that it lives")), "ops"),
        Panel("Unreachable, back, forgotten", "What became of nodes.",
              per_instance(("piko_gossip_unreachable_total", "unreachable"), ("piko_gossip_recovered_total", "back"),
                           ("piko_gossip_expired_total", "forgotten")), "ops"),
        Panel("Dropped by reason", "signature, cluster: nodes that don't belong together, or an attacker. replay: recorded packets. late, crowded: this node is too slow.",
              [(rate("piko_gossip_dropped_total", by="instance, reason"), "{{instance}} {{reason}}")], "ops", limits=ANY),
        Panel("Refused by limits", "More nodes, entries, probes or streams than there may be.",
              [(rate("piko_gossip_refused_total", by="instance, kind"), "{{instance}} {{kind}}")], "ops", limits=ANY),
        Panel("Lost on the way", "Packets that the kernel had no room for, exchanges over TCP that failed, and mentions of ended lives that were not let in.",
              per_instance(("piko_gossip_packets_unsent_total", "not sent"), ("piko_gossip_streams_failed_total", "exchanges failed"),
                           ("piko_gossip_ghosts_refused_total", "ghosts")), "ops", width=24),
    ]),
    ("Traffic", [
        Panel("Packets", "UDP.", per_instance(("piko_gossip_packets_inbound_total", "in"), ("piko_gossip_packets_outbound_total", "out")), "pps"),
        Panel("Bytes of packets", "UDP.", per_instance(("piko_gossip_packet_bytes_inbound_total", "in"), ("piko_gossip_packet_bytes_outbound_total", "out")), "Bps"),
        Panel("Connections", "TCP: for what does not fit into packets, and with a few nodes now and then.",
              per_instance(("piko_gossip_connections_inbound_total", "in"), ("piko_gossip_connections_outbound_total", "out")), "ops"),
        Panel("Bytes of connections", "TCP.", per_instance(("piko_gossip_stream_bytes_inbound_total", "in"), ("piko_gossip_stream_bytes_outbound_total", "out")), "Bps"),
        Panel("Digest entries", "What nodes say that they know.",
              per_instance(("piko_gossip_digest_entries_inbound_total", "in"), ("piko_gossip_digest_entries_outbound_total", "out")), "ops"),
        Panel("Delta entries", "What they tell each other because of it.",
              per_instance(("piko_gossip_delta_entries_inbound_total", "in"), ("piko_gossip_delta_entries_outbound_total", "out")), "ops"),
    ]),
])

WORKER = "{{instance}} {{generation}}/{{worker}}"
NODE = dashboard("node", "Piko: node", "The processes of a node: workers, event loops, descriptors, memory.", "piko_build_info", [
    ("Node", [
        stat("Up for", "Since the node started; an upgrade is no start.", f"time() - min({select('piko_start_time_seconds')})", "s"),
        stat("Workers ready", "Of all nodes that are shown.", f"sum({select('piko_workers_ready')})"),
        stat("Generation", "The highest. Each reload of the workers and each upgrade makes the next one.", f"max({select('piko_generation')})"),
        stat("Workers restarted", "In the last hour, after they ended by themselves.", f"sum(increase({select('piko_worker_restarts_total')}[1h]))",
             limits=((1, "red"),)),
        stat("Longest turns", "p99 of the event loops' turns.", quantiles("piko_loop_turn_seconds")[2][0], "s", ((0.01, "yellow"), (0.05, "red"))),
        stat("Descriptors", "The supervisor's, of those that it may have.", f"max({select('process_open_fds')} / {select('process_max_fds')})", "percentunit",
             ((0.6, "yellow"), (0.8, "red"))),
    ]),
    ("Processes", [
        Panel("Processor time", "Of all processes of the node; 1 is one processor.", [(rate("process_cpu_seconds_total"), "{{instance}}")]),
        Panel("Memory", "Of all processes of the node; what they share counts for each.",
              [(of("process_resident_memory_bytes"), "{{instance}} resident"), (of("process_virtual_memory_bytes"), "{{instance}} address space")], "bytes"),
        Panel("Processor time by worker", "A worker is one thread: 1 is all that it can have.",
              [(rate("piko_worker_cpu_seconds_total", by="instance, generation, worker"), WORKER)], limits=((0.9, "red"),)),
        Panel("Memory by worker", "Resident.", [(of("piko_worker_resident_memory_bytes", by="instance, generation, worker"), WORKER)], "bytes"),
        Panel("Connections by worker", "Of all ports.", [(of("piko_worker_connections", by="instance, generation, worker"), WORKER)]),
        Panel("Requests in flight by worker", "Old generations should come to 0.",
              [(of("piko_worker_requests_in_flight", by="instance, generation, worker"), WORKER)]),
        Panel("Workers that serve, and generations", "More than one generation: a reload or an upgrade goes on, or an old worker still has work.",
              [(of("piko_workers_ready"), "{{instance}} ready"), (of("piko_generation", function="max"), "{{instance}} generation"),
               (f"count by (instance) (count by (instance, generation) ({select('piko_worker_resident_memory_bytes')}))", "{{instance}} generations alive")]),
        Panel("Workers that ended", "Replaced after their end, or not to be started for want of descriptors, processes or memory.",
              per_instance(("piko_worker_restarts_total", "restarted"), ("piko_worker_start_failures_total", "not started")), "ops", limits=ANY),
    ]),
    ("Connections", [
        Panel("Open connections", "By port.", [(of("piko_connections_open", by="instance, port"), "{{instance}} {{port}}")]),
        Panel("New connections", "By port.", [(rate("piko_connections_accepted_total", by="instance, port"), "{{instance}} {{port}}")], "ops"),
        Panel("Between workers", "Clients go to the worker that has the agent, by themselves or relayed.",
              per_instance(("piko_connections_received_total", "received"), ("piko_connections_moved_total", "moved"), ("piko_connections_moved_in_total", "taken over"),
                           ("piko_connections_relayed_total", "relayed"), ("piko_sessions_moved_total", "sessions moved")), "ops"),
        Panel("Accepting paused", "For lack of descriptors or memory: connections wait in the kernel.", [(rate("piko_accept_pauses_total"), "{{instance}}")],
              "ops", limits=ANY),
        Panel("Descriptors", "The supervisor's, and how many any of the processes may have.",
              [(of("process_open_fds", function="max"), "{{instance}} open"), (of("process_max_fds", function="max"), "{{instance}} limit")]),
        Panel("Messages refused, log lines dropped", "Between the node's processes; and when whoever reads the log is too slow.",
              per_instance(("piko_control_errors_total", "messages refused"), ("piko_log_lines_dropped_total", "log lines dropped")), "ops", limits=ANY),
    ]),
    ("Event loops", [
        Panel("Turns", "How long a turn kept everything else waiting (docs/profiling.md).", quantiles("piko_loop_turn_seconds"), "s", limits=((0.05, "red"),)),
        Panel("Busy", "Share of the time that the loops spend in turns; all workers together.",
              [(f"{rate('piko_loop_turn_seconds_sum')} / {of('piko_workers_ready')}", "{{instance}}")], "percentunit", limits=((0.8, "red"),)),
        Panel("Turns, events, system calls", "Events per turn rise with the load, system calls per event fall.",
              per_instance(("piko_loop_turns_total", "turns"), ("piko_loop_events_total", "events"), ("piko_loop_system_calls_total", "system calls")), "ops"),
        Panel("Mean of a turn", "By instance.", [(mean("piko_loop_turn_seconds"), "{{instance}}")], "s"),
        Panel("Handles", "Sockets and others; lingering: closed, but with bytes to send.",
              [(of("piko_loop_handles_open"), "{{instance}} open"), (of("piko_loop_handles_lingering"), "{{instance}} lingering")]),
        Panel("Bytes queued for sending", "Readers that are slow make it grow.", [(of("piko_loop_output_bytes"), "{{instance}}")], "bytes"),
        Panel("Chunks of memory for them", "In use or kept.", [(of("piko_loop_output_chunks"), "{{instance}}")]),
        Panel("Shortages", "Receive buffers: all were in use. Pipes: bytes were copied because none could be had (/proc/sys/fs/pipe-user-pages-soft). "
              "Stale: completions for handles that were closed.",
              per_instance(("piko_loop_receive_buffer_shortages_total", "receive buffers"), ("piko_pump_pipe_shortages_total", "pipes"),
                           ("piko_loop_stale_completions_total", "stale")), "ops"),
        Panel("Flows and pipes", "Flows that the kernel or a copy loop carries, by direction.",
              [(of("piko_pumps"), "{{instance}} flows"), (of("piko_pump_pipes"), "{{instance}} pipes")], width=24),
    ]),
])

AGENT = dashboard("agent", "Piko: agent", "What agents serve, as they see it (docs/agent.md, Metrics).", "piko_agent_requests_in_flight", [
    ("Requests", [
        stat("Requests", "Per second.", rate('piko_agent_requests_total', ENDPOINT, by=""), "reqps", width=6),
        stat("In flight", "Of all that are shown.", f"sum({select('piko_agent_requests_in_flight', ENDPOINT)})", width=6),
        stat("Failed", "Share of the requests with a status of 500 or more.",
             f"({rate('piko_agent_requests_total', ENDPOINT, FAILED, by='')} or vector(0))"
             f" / {rate('piko_agent_requests_total', ENDPOINT, by='')}", "percentunit", ((0.01, "yellow"), (0.05, "red")), 6),
        stat("p99", "Latency.", quantiles("piko_agent_request_latency_seconds", ENDPOINT)[2][0], "s", LATENCY, 6),
        Panel("Requests by endpoint", "All statuses.", [(rate("piko_agent_requests_total", ENDPOINT, by="endpoint"), "{{endpoint}}")], "reqps"),
        Panel("Requests by status", "All endpoints that are chosen.", [(rate("piko_agent_requests_total", ENDPOINT, by="status"), "{{status}}")], "reqps", stack=True),
        Panel("Requests by method", "Methods that are not standard count as `other`.", [(rate("piko_agent_requests_total", ENDPOINT, by="method"), "{{method}}")],
              "reqps"),
        Panel("Failed requests by endpoint", "502: the service can't be reached; 504: it did not answer in time; others are the service's own.",
              [(rate("piko_agent_requests_total", ENDPOINT, FAILED, by="instance, endpoint, status"), "{{instance}} {{endpoint}} {{status}}")],
              "reqps", limits=ANY),
        Panel("Latency", "To the end of the answer.", quantiles("piko_agent_request_latency_seconds", ENDPOINT), "s", limits=LATENCY),
        Panel("p99 by endpoint", "To the end of the answer.",
              [(f"histogram_quantile(0.99, {rate('piko_agent_request_latency_seconds_bucket', ENDPOINT, by='endpoint, le')})", "{{endpoint}}")], "s", limits=LATENCY),
        Panel("Requests in flight", "By agent and endpoint.",
              [(of("piko_agent_requests_in_flight", ENDPOINT, by="instance, endpoint"), "{{instance}} {{endpoint}}")], width=24),
    ]),
    ("Sizes", [
        Panel("Size of requests", "Bodies.", quantiles("piko_agent_request_size_bytes", ENDPOINT), "bytes"),
        Panel("Size of responses", "Bodies.", quantiles("piko_agent_response_size_bytes", ENDPOINT), "bytes"),
    ]),
], endpoints="piko_agent_requests_in_flight")

ALL = {"cluster": CLUSTER, "proxy": PROXY, "gossip": GOSSIP, "node": NODE, "agent": AGENT}


def texts():
    """{file: what is to be in it}."""
    return {FOLDER / f"{name}.json": json.dumps(one, indent=1, ensure_ascii=False) + "\n" for name, one in ALL.items()}


def stale():
    """What is not as this would write it."""
    wanted = texts()
    return [path for path, text in wanted.items() if not path.exists() or path.read_text() != text] + [
        path for path in FOLDER.glob("*") if path not in wanted]


def main():
    if sys.argv[1:] == ["--check"]:
        for path in stale():
            print(f"{path.relative_to(FOLDER.parent.parent)}: not what monitoring/dashboards.py writes: change that, and run it")
        return 1 if stale() else 0
    if sys.argv[1:]:
        print(__doc__)
        return 0 if sys.argv[1] in ("-h", "--help") else 2
    FOLDER.mkdir(exist_ok=True)
    for path, text in texts().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
