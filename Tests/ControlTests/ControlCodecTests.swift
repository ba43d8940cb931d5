// The control codec: every message forth and back, against its recorded bytes, cut at every place, lengthened, and with every
// byte changed.

import Base
import Control
import Foundation
import Memory
import Testing

/// One message of each type with every field set, its sender, and the file with its recorded bytes.
private struct Row: CustomTestStringConvertible, Sendable {
    var name: String
    var sender: ControlParty
    var message: ControlMessage
    var testDescription: String { name }
}

private func peer(_ seed: UInt8) -> PeerAddress {
    let bytes = (0..<18).map { UInt8($0) &* 7 &+ seed }
    return PeerAddress(encoded: bytes.span)!
}

private let rows: [Row] = [
    Row(name: "hello", sender: .supervisor, message: .hello(protocolVersion: 1, binaryVersion: "1.2.3")),
    Row(
        name: "configure", sender: .supervisor,
        message: .configure(
            WorkerSetup(
                index: 3, generation: 2, worker: 17, slab: 4, nodeStart: 0x0102_0304_0506_0708, directKey: Array(1...32),
                nodeID: "node-1", clusterKeys: [[1, 2, 3], Array(0...255)], settings: [
                    Setting(key: "proxy.timeout", value: "30s"), Setting(key: "log.level", value: ""),
                    Setting(key: "text", value: "größer"),
                ]))),
    Row(
        name: "accepted", sender: .supervisor,
        message: .accepted(
            listener: .upstream, acceptedAt: Instant(nanoseconds: 0x1122_3344_5566_7788), peers: [peer(1), peer(2), .none])),
    Row(name: "sibling", sender: .supervisor, message: .sibling(worker: 5, generation: 7, protocolVersion: 3)),
    Row(name: "sibling-gone", sender: .supervisor, message: .siblingGone(worker: 0xfffe_fdfc)),
    Row(
        name: "routes", sender: .supervisor,
        message: .routes(
            endpoint: "my-endpoint", version: 9, lostFor: nil, entries: [RouteEntry(worker: 1, tunnels: 2), RouteEntry(worker: 3, tunnels: 1)],
            remote: [])),
    Row(
        name: "routes-direct", sender: .supervisor,
        message: .routes(
            endpoint: "e", version: 9, lostFor: nil,
            entries: [
                RouteEntry(worker: 1, tunnels: 2, directTunnels: 1, hasData: true), RouteEntry(worker: 3, tunnels: 0, hasData: true),
            ], remote: [])),
    Row(
        name: "routes-remote", sender: .supervisor,
        message: .routes(
            endpoint: "e", version: 9, lostFor: nil, entries: [],
            remote: [RemoteEntry(node: "node-1", listeners: 3), RemoteEntry(node: "node-2", listeners: 1 << 30)])),
    Row(name: "routes-none", sender: .supervisor, message: .routes(endpoint: "unknown", version: 1 << 40, lostFor: nil, entries: [], remote: [])),
    Row(name: "routes-lost", sender: .supervisor, message: .routes(endpoint: "unknown", version: 9, lostFor: 1_500, entries: [], remote: [])),
    Row(name: "route-changed", sender: .supervisor, message: .routeChanged(endpoint: "my-endpoint", version: 10)),
    Row(name: "registered", sender: .supervisor, message: .registered(tunnel: 77)),
    Row(name: "refused", sender: .supervisor, message: .refused(tunnel: 78)),
    Row(name: "refused-endpoints", sender: .supervisor, message: .refused(tunnel: 79, reason: .endpoints)),
    Row(
        name: "status-page", sender: .supervisor,
        message: .statusPage(
            request: 6, kind: .endpoints,
            entries: [StatusEntry(name: "a", value: 1), StatusEntry(name: "bb", value: 300)], last: false)),
    Row(
        name: "status-page-last", sender: .supervisor,
        message: .statusPage(request: 6, kind: .endpoints, entries: [], last: true)),
    Row(name: "ready", sender: .supervisor, message: .ready(true)),
    Row(name: "not-ready", sender: .supervisor, message: .ready(false)),
    Row(name: "drain", sender: .supervisor, message: .drain(milliseconds: 60_000)),
    Row(name: "credentials", sender: .supervisor, message: .credentials(bytes: 0x0102_0304_0506)),
    Row(name: "shutdown", sender: .supervisor, message: .shutdown),
    Row(name: "worker-ready", sender: .worker, message: .workerReady),
    Row(name: "register", sender: .worker, message: .register(tunnel: 1, endpoint: "my-endpoint", kind: .session)),
    Row(name: "register-direct", sender: .worker, message: .register(tunnel: 2, endpoint: "my-endpoint", kind: .directSession)),
    Row(name: "register-data", sender: .worker, message: .register(tunnel: 3, endpoint: "my-endpoint", kind: .dataConnections)),
    Row(
        name: "register-quotas", sender: .worker,
        message: .register(
            tunnel: 4, endpoint: "my-endpoint", kind: .session,
            quotas: TunnelQuotas([
                Quota(subject: QuotaSubject(hash: 0x1122_3344_5566_7788), limits: QuotaLimits(tunnels: 5, requestRate: 100)),
                Quota(subject: QuotaSubject(hash: 1), limits: QuotaLimits(endpoints: 0, streams: QuotaLimits.most)),
            ]))),
    Row(
        name: "register-moved", sender: .worker,
        message: .register(
            tunnel: 5, endpoint: "e", kind: .directSession,
            quotas: TunnelQuotas([Quota(subject: QuotaSubject(hash: .max), limits: QuotaLimits(tunnels: 1))], isMoved: true))),
    Row(name: "release", sender: .worker, message: .release(tunnel: 4)),
    Row(name: "unregister", sender: .worker, message: .unregister(tunnel: 1, endpoint: "my-endpoint")),
    Row(name: "lookup", sender: .worker, message: .lookup(endpoint: "x")),
    Row(name: "status-request", sender: .worker, message: .statusRequest(request: 6, kind: .endpoints)),
    Row(name: "drained", sender: .worker, message: .drained),
    Row(
        name: "move", sender: .sibling,
        message: .move(listener: .proxy, client: peer(9), moves: 1, bytes: .inline(Array("GET / HTTP/1.1\r\n".utf8)))),
    Row(
        name: "move-in-memory", sender: .sibling,
        message: .move(listener: .proxy, client: peer(9), moves: 2, bytes: .inMemory(100_000))),
    Row(name: "retire", sender: .supervisor, message: .retire(milliseconds: 0)),
    Row(name: "sibling-retires", sender: .supervisor, message: .siblingRetires(worker: 7)),
    Row(name: "admit-tunnels", sender: .supervisor, message: .admitTunnels(true)),
    Row(name: "admit-no-tunnels", sender: .supervisor, message: .admitTunnels(false)),
    Row(name: "ping", sender: .supervisor, message: .ping(1 << 50)),
    Row(name: "node", sender: .supervisor, message: .node(id: "node-2", status: .draining, proxy: peer(3))),
    Row(name: "node-gone", sender: .supervisor, message: .nodeGone(id: "node-2")),
    Row(name: "dialed", sender: .supervisor, message: .dialed(request: 1 << 33)),
    Row(name: "dial-failed", sender: .supervisor, message: .dialFailed(request: 5, code: 111)),
    Row(name: "shed", sender: .supervisor, message: .shed(count: 3)),
    Row(
        name: "report-page", sender: .supervisor,
        message: .reportPage(request: 6, status: 200, bytes: Array("[]".utf8), last: false)),
    Row(name: "report-page-last", sender: .supervisor, message: .reportPage(request: 6, status: 404, bytes: [], last: true)),
    Row(
        name: "token-keys", sender: .supervisor,
        message: .tokenKeys(port: TokenPort(.upstream, tenant: "acme"), kind: .secret, bytes: Array("a secret of the port".utf8))),
    Row(name: "token-keys-end", sender: .supervisor, message: .tokenKeys(port: TokenPort(.admin), kind: .end, bytes: [])),
    Row(name: "key-missing", sender: .worker, message: .keyMissing(port: TokenPort(.proxy))),
    Row(name: "dial-admin", sender: .worker, message: .dialAdmin(request: 7, node: "node-2")),
    Row(name: "report-request", sender: .worker, message: .reportRequest(request: 6, path: "cluster/nodes")),
    Row(name: "inquire", sender: .supervisor, message: .inquire(request: 9, path: "tunnels")),
    Row(name: "inquiry-page", sender: .worker, message: .inquiryPage(request: 9, bytes: Array("{\"a\":1}".utf8), last: false)),
    Row(name: "inquiry-page-last", sender: .worker, message: .inquiryPage(request: 9, bytes: [], last: true)),
    Row(name: "dial", sender: .worker, message: .dial(request: 5, node: "node-2")),
    Row(name: "clients", sender: .worker, message: .clients(listener: .proxy, came: [peer(1)], went: [peer(2), peer(3)])),
    Row(name: "pong", sender: .worker, message: .pong(1 << 50)),
    Row(name: "move-streams", sender: .sibling, message: .moveStreams(handover: 3, count: 64)),
    Row(name: "move-session", sender: .sibling, message: .moveSession(handover: 3, endpoint: "my-endpoint", stateBytes: 70_000)),
    Row(name: "session-taken", sender: .sibling, message: .sessionTaken(handover: 3, isTaken: true)),
    Row(name: "session-not-taken", sender: .sibling, message: .sessionTaken(handover: 4, isTaken: false)),
    Row(name: "no-more", sender: .sibling, message: .noMore),
    Row(name: "move-data", sender: .sibling, message: .moveData(endpoint: "my-endpoint", agent: Array(1...16), isUsed: false)),
    Row(name: "move-data-used", sender: .sibling, message: .moveData(endpoint: "my-endpoint", agent: Array(1...16), isUsed: true)),
    Row(name: "agent-left", sender: .sibling, message: .agentLeft(endpoint: "my-endpoint", agent: Array(1...16))),
]

private func encoded(_ message: ControlMessage) -> [UInt8] {
    var buffer = ByteBuffer()
    message.encode(into: &buffer)
    let span = buffer.span
    return (0..<span.count).map { span[$0] }
}

private func failure(_ bytes: [UInt8], from sender: ControlParty) -> ControlError? {
    do {
        _ = try ControlMessage.decode(bytes.span, from: sender)
        return nil
    } catch {
        return error
    }
}

@Suite struct ControlCodecTests {
    @Test(arguments: rows) private func comesBackAsItWas(_ row: Row) throws {
        #expect(try ControlMessage.decode(encoded(row.message).span, from: row.sender) == row.message)
    }

    /// The bytes of every message as first recorded. A change is a new protocol version.
    /// With PIKO_RECORD_GOLDEN set, files that do not exist yet are written.
    @Test(arguments: rows) private func matchesRecordedBytes(_ row: Row) throws {
        let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .appending(path: "Golden/control")
        let file = folder.appending(path: row.name + ".hex")
        let hex = encoded(row.message).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }
        if ProcessInfo.processInfo.environment["PIKO_RECORD_GOLDEN"] != nil, (try? file.checkResourceIsReachable()) != true {
            let lines = stride(from: 0, to: hex.count, by: 16).map { hex[$0..<min($0 + 16, hex.count)].joined(separator: " ") }
            try (lines.joined(separator: "\n") + "\n").write(to: file, atomically: true, encoding: .utf8)
        }
        let text = try String(contentsOf: file, encoding: .utf8)
        #expect(text.split(whereSeparator: \.isWhitespace).map(String.init) == hex)
    }

    @Test(arguments: rows) private func refusesEveryPrefix(_ row: Row) {
        let bytes = encoded(row.message)
        for length in 0..<bytes.count {
            #expect(failure(Array(bytes[..<length]), from: row.sender) == .truncated)
        }
    }

    /// A shorter body with a length to match must not decode either: each field is needed.
    @Test(arguments: rows) private func refusesShortenedBodies(_ row: Row) {
        let bytes = encoded(row.message)
        for length in ControlLimits.headerBytes..<max(ControlLimits.headerBytes, bytes.count) {
            var shorter = Array(bytes[..<length])
            setLength(&shorter)
            #expect(failure(shorter, from: row.sender) != nil || isOfOlderVersion(shorter, from: row.sender))
        }
    }

    /// `routes` ends before the other nodes when a supervisor of version 3 says it, which knows none; `register` and `refused` before
    /// what quotas brought.
    private func isOfOlderVersion(_ bytes: [UInt8], from sender: ControlParty) -> Bool {
        var again = ByteBuffer()
        switch try? ControlMessage.decode(bytes.span, from: sender) {
        case .routes?, .register?, .refused?: (try? ControlMessage.decode(bytes.span, from: sender))?.encode(into: &again, version: 3)
        default: return false
        }
        return [UInt8](copying: again.span) == bytes
    }

    @Test func olderVersionsKnowNoQuotas() throws {
        let quotas = TunnelQuotas([Quota(subject: QuotaSubject(hash: 7), limits: QuotaLimits(tunnels: 1))])
        for (message, sender, plain) in [
            (
                ControlMessage.register(tunnel: 1, endpoint: "e", kind: .session, quotas: quotas), ControlParty.worker,
                ControlMessage.register(tunnel: 1, endpoint: "e", kind: .session)
            ), (.refused(tunnel: 1, reason: .tunnels), .supervisor, .refused(tunnel: 1)),
        ] {
            var old = ByteBuffer()
            message.encode(into: &old, version: 4)
            #expect(try ControlMessage.decode(old.span, from: sender) == plain)
        }
        // Without quotas nothing has changed.
        #expect(try ControlMessage.decode(encoded(.register(tunnel: 1, endpoint: "e", kind: .session)).span, from: .worker)
            == .register(tunnel: 1, endpoint: "e", kind: .session))
        #expect(encoded(.register(tunnel: 1, endpoint: "e", kind: .session)).count == 8 + 8 + 1 + 3)
        #expect(!TunnelQuotas([], isMoved: true).isMoved)
    }

    @Test func refusesQuotasOfNobody() {
        let good = encoded(
            .register(
                tunnel: 1, endpoint: "e", kind: .session,
                quotas: TunnelQuotas([Quota(subject: QuotaSubject(hash: .max), limits: QuotaLimits())])))
        let start = 8 + 8 + 1 + 3
        for (index, values, expected) in [
            (start, [UInt8(2)], ControlError.invalidValue), (start + 1, [0], .invalidValue), (start + 1, [2], .truncated),
            (start + 1, [3], .oversized), (start + 2, [255, 255, 0, 0, 0, 0, 0, 0], .invalidValue),
        ] {
            var bytes = good
            bytes.replaceSubrange(index..<index + values.count, with: values)
            #expect(failure(bytes, from: .worker) == expected)
        }
    }

    @Test(arguments: rows) private func refusesTrailingBytes(_ row: Row) {
        var bytes = encoded(row.message) + [0]
        #expect(failure(bytes, from: row.sender) == .trailingBytes)
        setLength(&bytes)
        #expect(failure(bytes, from: row.sender) != nil)
    }

    @Test(arguments: rows) private func refusesOtherSenders(_ row: Row) {
        for sender in [ControlParty.supervisor, .worker, .sibling] where sender != row.sender {
            if case .hello = row.message { continue }
            let bytes = encoded(row.message)
            #expect(failure(bytes, from: sender) == .unexpectedType(UInt16(bytes[0])))
        }
    }

    @Test(arguments: rows) private func refusesUnknownFlags(_ row: Row) {
        for bit in 1..<16 {
            var bytes = encoded(row.message)
            let flags = (UInt16(bytes[3]) << 8 | UInt16(bytes[2])) | 1 << UInt16(bit)
            bytes[2] = UInt8(truncatingIfNeeded: flags)
            bytes[3] = UInt8(flags >> 8)
            #expect(failure(bytes, from: row.sender) == .invalidValue)
        }
    }

    /// Every single byte changed in every way: no trap, and what decodes encodes again.
    @Test(arguments: rows) private func survivesAnyChangedByte(_ row: Row) {
        let bytes = encoded(row.message)
        for index in bytes.indices {
            for value in UInt8.min...UInt8.max {
                var changed = bytes
                changed[index] = value
                if let message = try? ControlMessage.decode(changed.span, from: row.sender) {
                    #expect(encoded(message) == changed || isOfOlderVersion(changed, from: row.sender))
                }
            }
        }
    }

    @Test func refusesWhatIsOverItsLimit() {
        let long = [UInt8](repeating: 0, count: ControlLimits.messageBytesMax + 1)
        #expect(failure(long, from: .worker) == .oversized)
        // A length field that would overflow.
        #expect(failure([64, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], from: .worker) == .oversized)
        // 65 connections in one message.
        var accepted = encoded(.accepted(listener: .proxy, acceptedAt: .never, peers: Array(repeating: .none, count: 64)))
        #expect(failure(accepted, from: .supervisor) == nil)
        accepted[9] = 65
        accepted += [UInt8](repeating: 0, count: 18)
        setLength(&accepted)
        #expect(failure(accepted, from: .supervisor) == .oversized)
        // A name one byte too long.
        let name = String(repeating: "n", count: ControlLimits.endpointBytesMax)
        var lookup = encoded(.lookup(endpoint: name))
        #expect(failure(lookup, from: .worker) == nil)
        lookup.append(110)
        lookup[8] = 1
        lookup[9] = 1
        setLength(&lookup)
        #expect(failure(lookup, from: .worker) == .oversized)
        // No name, and a name that is not UTF-8.
        #expect(failure([67, 0, 0, 0, 2, 0, 0, 0, 0, 0], from: .worker) == .invalidValue)
        #expect(failure([67, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0xff], from: .worker) == .invalidText)
        #expect(failure([63, 0, 0, 0, 0, 0, 0, 0], from: .supervisor) == .unknownType(63))
    }

    /// A worker of before an upgrade is told of its own node only.
    @Test func speaksToWorkersThatKnowNoNodes() {
        let entries = [RouteEntry(worker: 1, tunnels: 2)]
        let message = ControlMessage.routes(
            endpoint: "e", version: 9, lostFor: nil, entries: entries, remote: [RemoteEntry(node: "node-1", listeners: 3)])
        var old = ByteBuffer()
        message.encode(into: &old, version: 3)
        let bare = encoded(.routes(endpoint: "e", version: 9, lostFor: nil, entries: entries, remote: []))
        let bytes = [UInt8](copying: old.span)
        // Without the count of other nodes.
        #expect(bytes[8...] == bare[8..<bare.count - 2])
    }

    @Test func carriesTheLargestMove() throws {
        let bytes = [UInt8](repeating: 7, count: ControlLimits.movedBytesMax)
        let message = ControlMessage.move(listener: .proxy, client: .none, moves: 0, bytes: .inline(bytes))
        #expect(try ControlMessage.decode(encoded(message).span, from: .sibling) == message)
    }

    @Test func saysWhichDescriptorsItNeeds() {
        let accepted = ControlMessage.accepted(listener: .proxy, acceptedAt: .never, peers: [.none, .none])
        #expect(accepted.descriptorCount == 2)
        let moved = ControlMessage.move(listener: .proxy, client: .none, moves: 0, bytes: .inMemory(1))
        #expect(moved.descriptorCount == 2)
        #expect(ControlMessage.drained.descriptorCount == 0)
    }
}

/// Makes the header's length fit the bytes.
private func setLength(_ bytes: inout [UInt8]) {
    let length = UInt32(bytes.count - ControlLimits.headerBytes)
    for index in 0..<4 { bytes[4 + index] = UInt8(truncatingIfNeeded: length >> UInt32(8 * index)) }
}
