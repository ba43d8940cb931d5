// What the node says of its cluster on the admin port: documents and metrics, made here because only the supervisor knows, and
// served by a worker.

import Base
import Control
import Gossip
import Memory
import Reactor
import Telemetry

/// An answer to a worker that asks for a report.
struct Report {
    var status: UInt16
    var body: [UInt8] = []

    /// A body that is longer is not sent.
    static let bodyBytesMax = 16 << 20
    /// A report on a node with more entries is not even made: the node's whole work would wait for it.
    static let entriesMax = 100_000
    /// Messages that wait for a worker beyond which it gets no report.
    static let waitingMax = 1_024

    init(status: UInt16) { self.status = status }

    init(status: UInt16 = 200, _ value: JSONValue) {
        self.status = status
        var text = ByteBuffer()
        value.write(into: &text)
        body = [UInt8](copying: text.span)
    }

    static let tooLong = failure(507, "the report is too long")

    static func failure(_ status: UInt16, _ text: String) -> Report {
        Report(status: status, .object([JSONMember("error", .string(text))]))
    }
}

extension Cluster {
    /// The report at the path; status 404 without a body when there is none.
    func report(_ path: String) -> Report {
        let parts = path.split(separator: "/", maxSplits: 2, omittingEmptySubsequences: false).map { String($0) }
        switch parts.count {
        case 1 where path == "metrics": return metrics
        case 2 where path == "cluster/nodes": return Report(.array(sortedNodes.map(summary)))
        case 2 where path == "gossip/nodes": return Report(.array(sortedNodes.map { .object(gossipMembers($0)) }))
        case 3 where parts[0] == "cluster" && parts[1] == "nodes":
            guard let view = view(parts[2]) else { return Report(status: 404) }
            return view.endpoints > Report.entriesMax ? .tooLong : Report(.object(detail(view)))
        case 3 where parts[0] == "gossip" && parts[1] == "nodes":
            guard let view = view(parts[2]) else { return Report(status: 404) }
            guard view.endpoints + view.removedEntries <= Report.entriesMax else { return .tooLong }
            return Report(.object(gossipMembers(view) + [JSONMember("Entries", entries(of: view))]))
        default: return Report(status: 404)
        }
    }

    private var sortedNodes: [GossipNodeView] {
        machine.nodes(now: loop.now).sorted { $0.node.id < $1.node.id }
    }

    private func view(_ name: String) -> GossipNodeView? {
        machine.node(name == "local" ? id : name, now: loop.now)
    }

    // MARK: cluster

    private func head(_ view: GossipNodeView) -> [JSONMember] {
        [
            JSONMember("id", .string(view.node.id)), JSONMember("status", .string(view.node.status.rawValue)),
            JSONMember("proxy_addr", .string(view.node.proxyAddress)), JSONMember("admin_addr", .string(view.node.adminAddress)),
        ]
    }

    private func summary(_ view: GossipNodeView) -> JSONValue {
        .object(
            head(view) + [
                JSONMember("endpoints", .integer(Int64(view.endpoints))), JSONMember("upstreams", .integer(Int64(view.listeners))),
            ])
    }

    private func detail(_ view: GossipNodeView) -> [JSONMember] {
        let endpoints = machine.endpoints(of: view.node.id).sorted { $0.endpoint < $1.endpoint }
        return head(view) + [
            JSONMember("endpoints", .object(endpoints.map { JSONMember($0.endpoint, .integer(Int64($0.count))) }))
        ]
    }

    // MARK: gossip

    private func gossipMembers(_ view: GossipNodeView) -> [JSONMember] {
        [
            JSONMember("id", .string(view.node.id)), JSONMember("addr", .string(view.node.address.text)),
            JSONMember("version", .integer(Int64(clamping: view.entryVersion))),
            JSONMember("left", .bool(view.node.status == .left)),
            JSONMember("unreachable", .bool(view.node.status == .unreachable)),
            JSONMember("expiry", .string(expiry(view))),
        ]
    }

    /// When the node is forgotten, as a time of day; the year 1 when that is not to be.
    private func expiry(_ view: GossipNodeView) -> String {
        guard let left = view.expiresIn else { return "0001-01-01T00:00:00Z" }
        return Timestamp.text(unixNanoseconds: SystemClock.unixNanoseconds &+ left.clampedNanoseconds)
    }

    private func entries(of view: GossipNodeView) -> JSONValue {
        .array(
            machine.entries(of: view.node.id).map { entry in
                .object([
                    JSONMember("key", .string(entry.key)), JSONMember("value", .string(entry.value)),
                    JSONMember("version", .integer(Int64(clamping: entry.version))),
                    JSONMember("internal", .bool(entry.key == GossipAttribute.status.key)),
                    JSONMember("deleted", .bool(entry.isRemoved)),
                ])
            })
    }

    // MARK: metrics

    private var metrics: Report {
        let nodes = sortedNodes
        var metrics = MetricsWriter()
        metrics.family("piko_cluster_nodes", .gauge, "Nodes of the cluster, by status.")
        for status in [GossipNodeStatus.active, .draining, .unreachable, .left] {
            metrics.value(UInt64(nodes.count { $0.node.status == status }), [("status", status.rawValue)])
        }
        let exchanges = exchanges
        metrics.counter("piko_gossip_connections_inbound_total", "Gossip connections that came.", exchanges.accepted)
        metrics.counter("piko_gossip_connections_outbound_total", "Gossip connections that were opened.", exchanges.opened)
        metrics.counter("piko_gossip_stream_bytes_inbound_total", "Bytes of gossip received over TCP.", exchanges.bytesIn)
        metrics.counter("piko_gossip_stream_bytes_outbound_total", "Bytes of gossip sent over TCP.", exchanges.bytesOut)
        let counts = machine.counters
        for (name, help, counter) in Self.plainCounters { metrics.counter(name, help, counts[counter]) }
        metrics.family("piko_gossip_dropped_total", .counter, "What came from others and was dropped, by reason.")
        for (reason, counter) in Self.droppedCounters { metrics.value(counts[counter], [("reason", reason)]) }
        metrics.value(packetsTooLong + exchanges.tooLong, [("reason", "too_long")])
        metrics.value(exchanges.late, [("reason", "late")])
        metrics.value(exchanges.givenUp, [("reason", "crowded")])
        metrics.family("piko_gossip_refused_total", .counter, "What was refused for a limit, by kind.")
        for (kind, counter) in Self.refusedCounters { metrics.value(counts[counter], [("kind", kind)]) }
        metrics.counter("piko_gossip_packets_unsent_total", "Packets that the kernel had no room for.", packetsNotSent)
        metrics.counter(
            "piko_upstreams_rebalanced_total", "Agents that were asked to connect anew because others have fewer.",
            rebalance?.asked ?? 0)
        metrics.histogram(
            "piko_gossip_propagation_seconds", "Time until another node knew what changed at this one.", SpreadTimes.bounds, machine.spread.counts)
        writeEntries(nodes, into: &metrics)
        var report = Report(status: 200)
        report.body = [UInt8](copying: metrics.text.span)
        return report
    }

    /// One line each for the first nodes by name; the rest together.
    private func writeEntries(_ nodes: [GossipNodeView], into metrics: inout MetricsWriter) {
        metrics.family("piko_gossip_entries", .gauge, "Entries of nodes that this one knows.")
        func write(_ name: String, live: Int, removed: Int, of count: Int) {
            for (deleted, isInternal, value) in [("false", "false", live), ("false", "true", count), ("true", "false", removed)] {
                metrics.value(UInt64(value), [("node_id", name), ("deleted", deleted), ("internal", isInternal)])
            }
        }
        let attributes = GossipAttribute.allCases.count - 1
        for view in nodes.prefix(Self.entryNodesMax) {
            write(view.node.id, live: view.endpoints + attributes, removed: view.removedEntries, of: 1)
        }
        let rest = nodes.dropFirst(Self.entryNodesMax)
        guard !rest.isEmpty else { return }
        write(
            "other", live: rest.reduce(0) { $0 + $1.endpoints + attributes }, removed: rest.reduce(0) { $0 + $1.removedEntries },
            of: rest.count)
    }

    private static let entryNodesMax = 256

    private static let plainCounters: [(StaticString, StaticString, GossipCounter)] = [
        ("piko_gossip_packets_inbound_total", "Packets received.", .packetsIn),
        ("piko_gossip_packets_outbound_total", "Packets sent.", .packetsOut),
        ("piko_gossip_packet_bytes_inbound_total", "Bytes of packets received.", .packetBytesIn),
        ("piko_gossip_packet_bytes_outbound_total", "Bytes of packets sent.", .packetBytesOut),
        ("piko_gossip_digest_entries_inbound_total", "Digest entries received.", .digestEntriesIn),
        ("piko_gossip_digest_entries_outbound_total", "Digest entries sent.", .digestEntriesOut),
        ("piko_gossip_delta_entries_inbound_total", "Delta entries received.", .deltaEntriesIn),
        ("piko_gossip_delta_entries_outbound_total", "Delta entries sent.", .deltaEntriesOut),
        ("piko_gossip_streams_failed_total", "Exchanges over TCP that came to nothing.", .streamsFailed),
        ("piko_gossip_suspicions_total", "Times that a node was suspected to be gone.", .suspicions),
        ("piko_gossip_suspicions_refuted_total", "Suspicions that came to nothing.", .suspicionsRefuted),
        ("piko_gossip_unreachable_total", "Times that a node was found to be unreachable.", .unreachable),
        ("piko_gossip_recovered_total", "Times that an unreachable node came back.", .recovered),
        ("piko_gossip_expired_total", "Nodes that were forgotten.", .expired),
        ("piko_gossip_refutations_total", "Times that this node said that it lives after all.", .refutations),
        ("piko_gossip_ghosts_refused_total", "Mentions of ended lives that were not let in.", .ghostsRefused),
    ]

    private static let droppedCounters: [(String, GossipCounter)] = [
        ("envelope", .droppedEnvelope), ("cluster", .droppedCluster), ("signature", .droppedSignature),
        ("replay", .droppedReplay), ("recipient", .droppedRecipient), ("malformed", .droppedMalformed),
        ("oversized", .droppedOversized),
    ]

    private static let refusedCounters: [(String, GossipCounter)] = [
        ("nodes", .refusedNodes), ("entries", .refusedEntries), ("probes", .refusedProbes), ("streams", .refusedStreams),
    ]
}
