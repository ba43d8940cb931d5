// What is counted, and in which slot of a slab. The table is append-only: slabs outlive the process that wrote them, so
// a number, once given, keeps its meaning, and a slot of a metric that is gone is not used again.

import Memory

/// A number that a process keeps. The raw value is its slot in the slab.
public enum Counter: Int, CaseIterable, Sendable {
    // Requests, as the worker that serves them sees them.

    /// Gauge: requests between their head and the end of their answer.
    case requestsInFlight = 0
    /// Requests sent to a tunnel of this node.
    case upstreamRequests = 1
    /// Requests tried again on another tunnel.
    case requestRetries = 2
    /// Requests whose head was refused (4xx before routing, 431, 501).
    case requestHeadErrors = 3
    /// Requests to endpoints that nobody serves.
    case requestsWithoutUpstream = 4
    /// Requests that ran into `proxy.timeout`.
    case requestTimeouts = 5
    /// Requests whose tunnel or service broke.
    case requestUpstreamErrors = 6
    /// Connections that were upgraded and became byte streams.
    case upgrades = 7

    // Tunnels.

    /// Gauge, of the supervisor: tunnels in the node's routing table.
    case connectedUpstreams = 8
    /// Gauge, of the supervisor: endpoints in the node's routing table.
    case registeredEndpoints = 9
    /// Gauge: streams open in tunnels.
    case streamsOpen = 10
    /// Tunnels that ended because their peer broke the protocol.
    case tunnelProtocolErrors = 11

    // Connections. The supervisor accepts, workers receive.

    case acceptedProxy = 12
    case acceptedUpstream = 13
    case acceptedAdmin = 14
    /// Connections that came from the supervisor.
    case connectionsReceived = 15
    /// Gauges.
    case openProxy = 16
    case openUpstream = 17
    case openAdmin = 18
    /// Clients handed to a sibling worker.
    case connectionsMovedOut = 19
    /// Clients taken over from a sibling worker.
    case connectionsMovedIn = 20
    /// Clients relayed through a sibling worker.
    case connectionsRelayed = 21
    /// Connections, streams, tunnels or requests turned away because a limit was reached.
    case refusedByLimit = 22
    /// Accepting was paused because descriptors or memory were short.
    case acceptPauses = 23

    // The node.

    /// Gauge, of the supervisor: workers that are READY.
    case workersReady = 24
    /// Workers started again after one ended by itself.
    case workerRestarts = 25
    /// Log lines that could not be written at once.
    case logLinesDropped = 26
    /// Messages between our own processes that were refused.
    case controlErrors = 27

    // The event loops.

    case loopTurns = 28
    case loopEvents = 29
    case loopSystemCalls = 30
    case loopStaleCompletions = 31
    case loopBufferShortages = 32
    /// Gauges.
    case loopHandlesOpen = 33
    case loopHandlesLingering = 34
    case loopOutputBytes = 35
    case loopOutputChunks = 36

    // Bytes.

    /// Bytes of raw TCP and upgraded connections, from and to clients.
    case streamBytesReceived = 37
    case streamBytesSent = 38

    // Pumps, of the event loops.

    case pumpBytesCopied = 39
    case pumpBytesSpliced = 40
    /// A pump had to copy because no pipe could be had.
    case pipeShortages = 41
    /// Gauges.
    case pumpsOpen = 42
    case pipesOpen = 43

    // Data connections of the direct transport.

    /// Gauge: data connections open, waiting or in use.
    case dataConnectionsOpen = 44
    /// Streams that went over a data connection.
    case dataStreams = 45
    /// Streams that went over a session, or waited, because no data connection was idle though the agent opens them.
    case dataShortages = 46
    /// Data connections given to a sibling worker that had none.
    case dataConnectionsMoved = 47
    /// Data connections refused: a credential that is not good, or a limit.
    case dataConnectionsRefused = 48
    /// Sessions handed to a newer generation of workers.
    case sessionsMoved = 49
    /// Requests that waited for an agent to come back.
    case reconnectWaits = 50

    /// Worker processes that could not be started: no descriptors, no processes, no memory.
    case workerStartFailures = 51

    // Requests between nodes. 64 … 79 are for them.

    /// Requests sent to another node.
    case remoteRequests = 64
    /// Requests that another node sent here.
    case nodeRequests = 65
    /// Those of them that were declined: there is no tunnel here.
    case nodeRequestsDeclined = 66
    /// Requests that said to come from a node and could not prove it.
    case nodeProofsRefused = 67
    /// Gauge: connections to other nodes' proxy ports.
    case nodeConnectionsOpen = 68
    /// Connections to other nodes that could not be made.
    case nodeDialFailures = 69

    // Tokens.

    /// Requests, on any port, without a token that permits them.
    case tokensRefused = 70
    /// Tunnels that were closed because the time of their token was over.
    case tunnelsExpired = 71

    // Connections turned away at a port, by why. 80 … 95 are for them.

    /// The address is not one that may come.
    case refusedByAccess = 80
    /// As many as may be are open.
    case refusedByConnections = 81
    /// The address has as many as it may.
    case refusedByAddress = 82
    /// Too many came in a second.
    case refusedByRate = 83
    /// A load balancer's header was wrong, or did not come in time.
    case refusedByProxyHeader = 84
    /// Tunnels turned away because the node has as many as it may.
    case refusedTunnels = 85
    /// Requests cut because their body came too slowly.
    case requestsTooSlow = 86

    // What was refused by a quota, by the limit. 96 … 103 are for them.

    case refusedQuotaTunnels = 96
    case refusedQuotaEndpoints = 97
    case refusedQuotaStreams = 98
    case refusedQuotaRequests = 99

    // TLS. 112 … 119 are for it.

    /// Handshakes that were done, as a server and as a client.
    case handshakes = 112
    /// Those of them that went on with an earlier session.
    case handshakesResumed = 113
    /// Handshakes that failed.
    case handshakesFailed = 114

    /// Whether the number is a state, which ends with its process.
    public var isGauge: Bool { description.kind == .gauge }
}

/// Which port, for the counters that come once for each.
public enum PortLabel: Int, CaseIterable, Sendable {
    case proxy, upstream, admin

    /// The counter of accepted connections.
    public var accepted: Counter {
        switch self {
        case .proxy: .acceptedProxy
        case .upstream: .acceptedUpstream
        case .admin: .acceptedAdmin
        }
    }

    /// The gauge of open connections.
    public var open: Counter {
        switch self {
        case .proxy: .openProxy
        case .upstream: .openUpstream
        case .admin: .openAdmin
        }
    }
}

/// The request methods that have a label of their own; a client can send any other, and all those are `other`. In the
/// order of the parser's `Method`, so that `init(rawValue:)` translates.
public enum MethodLabel: UInt8, CaseIterable, Sendable {
    case get, head, post, put, delete, connect, options, trace, patch, other

    /// The label's text.
    public var text: StaticString {
        switch self {
        case .get: "GET"
        case .head: "HEAD"
        case .post: "POST"
        case .put: "PUT"
        case .delete: "DELETE"
        case .connect: "CONNECT"
        case .options: "OPTIONS"
        case .trace: "TRACE"
        case .patch: "PATCH"
        case .other: "other"
        }
    }
}

/// How a counter appears in the metrics text.
struct CounterDescription {
    enum Kind { case counter, gauge }
    var name: StaticString
    var kind: Kind
    var help: StaticString
    /// The text between the braces, for a counter that is one of a family.
    var labels: StaticString = ""
}

extension Counter {
    var description: CounterDescription {
        switch self {
        case .requestsInFlight:
            .init(name: "piko_proxy_requests_in_flight", kind: .gauge, help: "Requests being served.")
        case .upstreamRequests:
            .init(
                name: "piko_upstreams_upstream_requests_total", kind: .counter,
                help: "Requests sent to an upstream connected to this node.")
        case .requestRetries:
            .init(
                name: "piko_proxy_request_retries_total", kind: .counter, help: "Requests tried again on another upstream.")
        case .requestHeadErrors:
            .init(
                name: "piko_proxy_request_head_errors_total", kind: .counter,
                help: "Requests refused because their head is malformed or too large.")
        case .requestsWithoutUpstream:
            .init(
                name: "piko_proxy_requests_without_upstream_total", kind: .counter,
                help: "Requests to endpoints that no upstream serves.")
        case .requestTimeouts:
            .init(
                name: "piko_proxy_request_timeouts_total", kind: .counter,
                help: "Requests whose upstream did not answer in time.")
        case .requestUpstreamErrors:
            .init(
                name: "piko_proxy_request_upstream_errors_total", kind: .counter, help: "Requests whose upstream broke.")
        case .upgrades:
            .init(
                name: "piko_proxy_upgrades_total", kind: .counter, help: "Connections upgraded to another protocol.")
        case .connectedUpstreams:
            .init(
                name: "piko_upstreams_connected_upstreams", kind: .gauge, help: "Upstreams connected to this node.")
        case .registeredEndpoints:
            .init(
                name: "piko_upstreams_registered_endpoints", kind: .gauge,
                help: "Endpoints with an upstream connected to this node.")
        case .streamsOpen:
            .init(name: "piko_upstreams_streams", kind: .gauge, help: "Streams open in upstream connections.")
        case .tunnelProtocolErrors:
            .init(
                name: "piko_upstreams_protocol_errors_total", kind: .counter,
                help: "Upstream connections ended because the peer broke the protocol.")
        case .acceptedProxy, .acceptedUpstream, .acceptedAdmin:
            .init(
                name: "piko_connections_accepted_total", kind: .counter, help: "Connections accepted, by port.",
                labels: portLabel)
        case .openProxy, .openUpstream, .openAdmin:
            .init(name: "piko_connections_open", kind: .gauge, help: "Connections open, by port.", labels: portLabel)
        case .connectionsReceived:
            .init(
                name: "piko_connections_received_total", kind: .counter,
                help: "Connections that workers received from the supervisor.")
        case .connectionsMovedOut:
            .init(
                name: "piko_connections_moved_total", kind: .counter,
                help: "Connections handed to the worker that holds their upstream.")
        case .connectionsMovedIn:
            .init(
                name: "piko_connections_moved_in_total", kind: .counter,
                help: "Connections taken over from another worker.")
        case .connectionsRelayed:
            .init(
                name: "piko_connections_relayed_total", kind: .counter,
                help: "Connections relayed through another worker.")
        case .refusedByLimit:
            .init(
                name: "piko_refused_by_limit_total", kind: .counter,
                help: "Connections, streams, upstreams and requests turned away at a limit.")
        case .acceptPauses, .workersReady, .workerRestarts, .workerStartFailures, .logLinesDropped, .controlErrors,
            .loopTurns, .loopEvents, .loopSystemCalls, .loopStaleCompletions, .loopBufferShortages, .loopHandlesOpen,
            .loopHandlesLingering, .loopOutputBytes, .loopOutputChunks, .streamBytesReceived, .streamBytesSent:
            processDescription
        case .pumpBytesCopied, .pumpBytesSpliced, .pipeShortages, .pumpsOpen, .pipesOpen, .dataConnectionsOpen, .dataStreams,
            .dataShortages, .dataConnectionsMoved, .dataConnectionsRefused, .sessionsMoved, .reconnectWaits:
            carriageDescription
        case .refusedByAccess, .refusedByConnections, .refusedByAddress, .refusedByRate, .refusedByProxyHeader, .refusedTunnels,
            .requestsTooSlow:
            entranceDescription
        case .remoteRequests, .nodeRequests, .nodeRequestsDeclined, .nodeProofsRefused, .nodeConnectionsOpen, .nodeDialFailures:
            nodesDescription
        case .tokensRefused:
            .init(
                name: "piko_auth_requests_refused_total", kind: .counter, help: "Requests without a token that permits them, on any port.")
        case .tunnelsExpired:
            .init(
                name: "piko_upstreams_expired_total", kind: .counter,
                help: "Upstreams that were disconnected because the time of their token was over.")
        case .handshakes, .handshakesResumed, .handshakesFailed: secureDescription
        case .refusedQuotaTunnels, .refusedQuotaEndpoints, .refusedQuotaStreams, .refusedQuotaRequests: quotaDescription
        }
    }

    private var secureDescription: CounterDescription {
        switch self {
        case .handshakes:
            .init(name: "piko_tls_handshakes_total", kind: .counter, help: "TLS handshakes that were done.")
        case .handshakesResumed:
            .init(name: "piko_tls_handshakes_resumed_total", kind: .counter, help: "TLS handshakes that went on with an earlier session.")
        case .handshakesFailed:
            .init(name: "piko_tls_handshakes_failed_total", kind: .counter, help: "TLS handshakes that failed.")
        default: preconditionFailure("a counter without a description")
        }
    }

    private var quotaDescription: CounterDescription {
        func refused(_ labels: StaticString) -> CounterDescription {
            CounterDescription(
                name: "piko_refused_by_quota_total", kind: .counter,
                help: "Requests and upstreams refused because who sent them uses as much as he may, by the limit.", labels: labels)
        }
        return switch self {
        case .refusedQuotaTunnels: refused("limit=\"tunnels\"")
        case .refusedQuotaEndpoints: refused("limit=\"endpoints\"")
        case .refusedQuotaStreams: refused("limit=\"streams\"")
        case .refusedQuotaRequests: refused("limit=\"requests\"")
        default: preconditionFailure("a counter without a description")
        }
    }

    private var entranceDescription: CounterDescription {
        func refused(_ labels: StaticString) -> CounterDescription {
            CounterDescription(
                name: "piko_connections_refused_total", kind: .counter, help: "Connections closed unread, by the reason.", labels: labels)
        }
        return switch self {
        case .refusedByAccess: refused("reason=\"access\"")
        case .refusedByConnections: refused("reason=\"connections\"")
        case .refusedByAddress: refused("reason=\"address\"")
        case .refusedByRate: refused("reason=\"rate\"")
        case .refusedByProxyHeader: refused("reason=\"proxy_protocol\"")
        case .refusedTunnels:
            .init(
                name: "piko_upstreams_refused_total", kind: .counter,
                help: "Upstreams turned away because the node has as many as it may.")
        case .requestsTooSlow:
            .init(
                name: "piko_proxy_requests_too_slow_total", kind: .counter,
                help: "Requests cut because their body came more slowly than it may.")
        default: preconditionFailure("a counter without a description")
        }
    }

    private var nodesDescription: CounterDescription {
        switch self {
        case .remoteRequests:
            .init(name: "piko_proxy_remote_requests_total", kind: .counter, help: "Requests sent to other nodes.")
        case .nodeRequests:
            .init(name: "piko_proxy_node_requests_total", kind: .counter, help: "Requests that another node sent here.")
        case .nodeRequestsDeclined:
            .init(
                name: "piko_proxy_node_requests_declined_total", kind: .counter,
                help: "Requests of other nodes that no upstream of this node serves.")
        case .nodeProofsRefused:
            .init(
                name: "piko_proxy_node_proofs_refused_total", kind: .counter,
                help: "Requests that claimed to come from another node without proof.")
        case .nodeConnectionsOpen:
            .init(name: "piko_proxy_node_connections", kind: .gauge, help: "Connections to other nodes, in use or kept.")
        case .nodeDialFailures:
            .init(
                name: "piko_proxy_node_dial_failures_total", kind: .counter,
                help: "Connections to other nodes that could not be made.")
        default: preconditionFailure("a counter without a description")
        }
    }

    private var processDescription: CounterDescription {
        switch self {
        case .acceptPauses:
            .init(
                name: "piko_accept_pauses_total", kind: .counter,
                help: "Times that accepting was paused for lack of descriptors or memory.")
        case .workersReady:
            .init(name: "piko_workers_ready", kind: .gauge, help: "Worker processes that serve.")
        case .workerRestarts:
            .init(name: "piko_worker_restarts_total", kind: .counter, help: "Worker processes replaced after their end.")
        case .workerStartFailures:
            .init(
                name: "piko_worker_start_failures_total", kind: .counter,
                help: "Worker processes that could not be started for want of descriptors, processes or memory.")
        case .logLinesDropped:
            .init(
                name: "piko_log_lines_dropped_total", kind: .counter, help: "Log lines that could not be written at once.")
        case .controlErrors:
            .init(
                name: "piko_control_errors_total", kind: .counter,
                help: "Messages between the node's processes that were refused.")
        case .loopTurns: .init(name: "piko_loop_turns_total", kind: .counter, help: "Turns of the event loops.")
        case .loopEvents: .init(name: "piko_loop_events_total", kind: .counter, help: "Events of the event loops.")
        case .loopSystemCalls:
            .init(name: "piko_loop_system_calls_total", kind: .counter, help: "System calls of the event loops.")
        case .loopStaleCompletions:
            .init(
                name: "piko_loop_stale_completions_total", kind: .counter,
                help: "Completions for handles that were closed already.")
        case .loopBufferShortages:
            .init(
                name: "piko_loop_receive_buffer_shortages_total", kind: .counter,
                help: "Receives delayed because all receive buffers were in use.")
        case .loopHandlesOpen:
            .init(name: "piko_loop_handles_open", kind: .gauge, help: "Sockets and other handles in the event loops.")
        case .loopHandlesLingering:
            .init(
                name: "piko_loop_handles_lingering", kind: .gauge, help: "Closed sockets that still send their last bytes.")
        case .loopOutputBytes:
            .init(name: "piko_loop_output_bytes", kind: .gauge, help: "Bytes queued for sending.")
        case .loopOutputChunks:
            .init(name: "piko_loop_output_chunks", kind: .gauge, help: "Chunks of memory for queued bytes.")
        case .streamBytesReceived:
            .init(
                name: "piko_stream_bytes_received_total", kind: .counter,
                help: "Bytes of raw connections received from clients.")
        case .streamBytesSent:
            .init(
                name: "piko_stream_bytes_sent_total", kind: .counter, help: "Bytes of raw connections sent to clients.")
        default: preconditionFailure("a counter without a description")
        }
    }

    private var carriageDescription: CounterDescription {
        switch self {
        case .pumpBytesCopied:
            .init(
                name: "piko_pump_bytes_total", kind: .counter, help: "Bytes carried between two sockets, by how.",
                labels: "how=\"copied\"")
        case .pumpBytesSpliced:
            .init(
                name: "piko_pump_bytes_total", kind: .counter, help: "Bytes carried between two sockets, by how.",
                labels: "how=\"spliced\"")
        case .pipeShortages:
            .init(
                name: "piko_pump_pipe_shortages_total", kind: .counter,
                help: "Times that bytes were copied because no pipe could be had.")
        case .pumpsOpen: .init(name: "piko_pumps", kind: .gauge, help: "Flows carried between two sockets, by direction.")
        case .pipesOpen: .init(name: "piko_pump_pipes", kind: .gauge, help: "Pipes open, in use or kept.")
        case .dataConnectionsOpen:
            .init(name: "piko_direct_connections", kind: .gauge, help: "Data connections of agents, waiting or in use.")
        case .dataStreams:
            .init(name: "piko_direct_streams_total", kind: .counter, help: "Streams that went over data connections.")
        case .dataShortages:
            .init(
                name: "piko_direct_shortages_total", kind: .counter,
                help: "Streams that found no data connection waiting, of agents that open them.")
        case .dataConnectionsMoved:
            .init(
                name: "piko_direct_moved_total", kind: .counter,
                help: "Data connections given to another worker that had none.")
        case .dataConnectionsRefused:
            .init(name: "piko_direct_refused_total", kind: .counter, help: "Data connections refused.")
        case .sessionsMoved:
            .init(
                name: "piko_sessions_moved_total", kind: .counter,
                help: "Sessions of agents handed to the workers of a newer generation.")
        case .reconnectWaits:
            .init(
                name: "piko_proxy_reconnect_waits_total", kind: .counter,
                help: "Requests that waited for an agent to come back.")
        default: preconditionFailure("a counter without a description")
        }
    }

    private var portLabel: StaticString {
        switch self {
        case .acceptedProxy, .openProxy: "port=\"proxy\""
        case .acceptedUpstream, .openUpstream: "port=\"upstream\""
        default: "port=\"admin\""
        }
    }
}
