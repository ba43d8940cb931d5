// A request whose endpoint other nodes serve: goes to one of them, and when that one can't be reached, or says that it has no tunnel,
// to the next. At most one hop: what another node sent here is served from this node's tunnels or declined.

import Base
import Control
import Reactor
import Transport
import Wire

/// What a request knows of its way over other nodes.
struct NodeRoute {
    /// Nodes that could not be reached or had no tunnel.
    var tried: [String] = []
    /// Whether one that has a tunnel, as this node thought, said that it has none, or was not there: its agents are on their way
    /// to others, most likely.
    var wasDeclined = false
    /// Whether no other node is left to be tried.
    var isExhausted = false
    /// Where a connection is waited for.
    var waiting: PeerNode?
    /// Who serves it.
    var current: PeerNode?
    /// Whether the connection to it had served other requests before.
    var isReused = false
    /// Whether a kept connection broke under it.
    var wantsFresh = false

    /// The most nodes that one request tries.
    static let triedMax = 5
}

extension ProxyConnection {
    /// Sends the request to one of the nodes that have the endpoint.
    func serveAtNode(_ endpoint: Endpoint) {
        guard nodes.tried.count < NodeRoute.triedMax, let node = worker.nodes.choose(endpoint.remote, avoiding: nodes.tried) else {
            nodes.isExhausted = true
            route()
            return
        }
        nodes.waiting = node
        worker.nodes.connect(self, to: node, isRepeatable: head.method.isIdempotent, isFresh: nodes.wantsFresh)
        if nodes.waiting != nil { limitRouting() }
    }

    /// There is a connection to the node.
    func nodeConnected(_ upstream: HTTPUpstream, _ node: PeerNode) {
        guard isRouting, nodes.waiting === node else {
            upstream.giveUp()
            return
        }
        nodes.waiting = nil
        nodes.current = node
        nodes.isReused = upstream.isReused
        let fields = withHeadBytes { bytes in
            worker.hopProof.fields(head, bytes, endpoint: endpoint?.bytes ?? [], tenant: endpoint?.tenant ?? [], now: Self.unixSeconds)
        }
        worker.telemetry.remoteRequest(node)
        way = .node(node.id)
        proceed(with: upstream, as: .node(fields))
    }

    /// There is none.
    func nodeFailed(_ node: PeerNode) {
        guard nodes.waiting === node else { return }
        nodes.waiting = nil
        guard isRouting else { return }
        nodes.tried.append(node.id)
        nodes.wasDeclined = true
        worker.telemetry.retried()
        route()
    }

    /// Another node has no tunnel for the request.
    func nodeDeclined(_ node: PeerNode) {
        nodes.current = nil
        nodes.tried.append(node.id)
        nodes.wasDeclined = true
        worker.telemetry.retried()
        routeAnew()
    }

    /// The connection to the node broke before anything was answered.
    func nodeBroke(_ node: PeerNode) {
        nodes.current = nil
        // It may have been given up while it was idle: that says nothing of the node.
        if nodes.isReused, !nodes.wantsFresh {
            nodes.wantsFresh = true
        } else {
            nodes.tried.append(node.id)
            nodes.wasDeclined = true
        }
        routeAnew()
    }

    /// The request is over, or waits for no node any more.
    func forgetNodes() {
        if let node = nodes.waiting { worker.nodes.forget(self, at: node) }
        nodes = NodeRoute()
    }

    static var unixSeconds: UInt64 { SystemClock.unixNanoseconds / 1_000_000_000 }

    /// The client's address, for logs and for services that are told by other means than HTTP. Of a request from another node that is
    /// what the node wrote last into X-Forwarded-For. Where that is a trusted proxy's, it is who that one says.
    var clientAddress: PeerAddress {
        let entrances = worker.entrances!
        guard isFromNode || entrances.isTrusted(peer.ip) else { return peer }
        guard let ip = peer.ip else { return .none }
        let client = withHeadBytes { bytes in
            var isNode = isFromNode
            return head.client(bytes, peer: ip) { address in
                // The node itself is the first.
                defer { isNode = false }
                return isNode || entrances.isTrusted(address)
            }
        }
        guard let client else { return isFromNode ? .none : peer }
        return PeerAddress(ip: client, port: 0)
    }
}
