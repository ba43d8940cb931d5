// Requests from node to node: where they go, what goes with them, what happens when a node is gone or has nothing, and that nobody
// can pass for a node.
import Base
import Config
import Control
import Crypto
import Memory
import Reactor
import Telemetry
import TestKit
import Testing
import Transport
import Wire

@testable import Worker

private let keys: [[UInt8]] = [Array(1...32), Array(33...64)]

/// The number of times that the text has the other in it.
private func count(_ text: String, _ other: String) -> Int { text.lowercased().ranges(of: other).count }

@Suite struct NodeRoutingTests {
    @Test(arguments: [[], keys]) func servesAtTheNodeThatHasIt(_ keys: [[UInt8]]) throws {
        let cluster = try TestCluster(["a", "b"], keys: keys)
        try cluster["b"].agent("e") { TestService("b") }
        cluster.say("e", on: "a", ["b": 1])
        let answer = try cluster["a"].client().get("/p?q=1", fields: "X-Forwarded-For: 192.0.2.1\r\nX-Other: 7\r\n")
        #expect(answer.hasPrefix("HTTP/1.1 200 OK") && answer.contains("\r\n\r\nb\n"))
        #expect(answer.contains("GET /p?q=1 HTTP/1.1") && answer.contains("Host: e.example.com"))
        // The client's address stands there once, and nothing of ours.
        #expect(answer.contains("X-Forwarded-For: 192.0.2.1, 203.0.113.9\r\n"))
        #expect(count(answer, "x-piko-node") == 0 && count(answer, "x-piko-forward: true") == 1)
        #expect(cluster["a"].counter(.remoteRequests) == 1 && cluster["b"].counter(.nodeRequests) == 1)
        #expect(cluster["b"].counter(.nodeProofsRefused) == 0)
    }

    @Test func connectionsAreKept() throws {
        let cluster = try TestCluster(["a", "b"], keys: keys)
        try cluster["b"].agent("e") { TestService("b") }
        cluster.say("e", on: "a", ["b": 1])
        for _ in 0..<5 {
            let client = try cluster["a"].client()
            for number in 0..<4 { #expect(try client.get("/\(number)").contains("b\n")) }
        }
        #expect(cluster["a"].dials == ["b"])
        #expect(cluster["a"].counter(.nodeConnectionsOpen) == 1)
    }

    @Test(arguments: [0, 10, 70_000, 1_000_000], ["Content-Length", "chunked"]) func carriesBodies(_ size: Int, _ framing: String) throws {
        let cluster = try TestCluster(["a", "b"], keys: keys)
        try cluster["b"].agent("e") { TestService("b") }
        cluster.say("e", on: "a", ["b": 1])
        let client = try cluster["a"].client()
        let body = String(repeating: "x", count: size)
        if framing == "chunked" {
            client.send("POST / HTTP/1.1\r\nHost: e.example.com\r\nTransfer-Encoding: chunked\r\n\r\n")
            if size > 0 { client.send("\(String(size, radix: 16))\r\n\(body)\r\n") }
            client.send("0\r\n\r\n")
        } else {
            client.send("POST / HTTP/1.1\r\nHost: e.example.com\r\nContent-Length: \(size)\r\n\r\n\(body)")
        }
        #expect(try client.answer().contains("b\nbody=\(size)\n"))
        // And the connection goes on.
        #expect(try client.get().contains("b\nbody=0"))
    }

    @Test func goesToAnotherNodeWhenOneCannotBeReached() throws {
        let cluster = try TestCluster(["a", "b", "c"], keys: keys)
        try cluster["c"].agent("e") { TestService("c") }
        cluster["b"].isDown = true
        cluster.say("e", on: "a", ["b": 1_000_000, "c": 1])
        let client = try cluster["a"].client()
        for _ in 0..<3 { #expect(try client.get(method: "POST", body: "abc").contains("c\nbody=3")) }
        // Once it was found out, it is not asked again for a moment.
        #expect(cluster["a"].dials == ["b", "c"])
        #expect(cluster["a"].counter(.nodeDialFailures) == 1)
    }

    /// A node that has no tunnel says so, and the request goes on to the next, with its body.
    @Test(arguments: ["GET", "POST", "PUT"]) func goesOnWhenANodeDeclines(_ method: String) throws {
        let cluster = try TestCluster(["a", "b", "c"], keys: keys)
        try cluster["c"].agent("e") { TestService("c") }
        cluster.say("e", on: "a", ["b": 1_000_000, "c": 1])
        let client = try cluster["a"].client()
        let body = method == "GET" ? "" : String(repeating: "y", count: 30_000)
        for _ in 0..<3 {
            let answer = try client.get(method: method, body: body)
            #expect(answer.contains("c\nbody=\(body.count)\n"), "\(answer.prefix(300))")
            #expect(count(answer, "x-piko-node") == 0)
        }
        #expect(cluster["b"].counter(.nodeRequestsDeclined) == 3)
        #expect(cluster["b"].counter(.requestsInFlight) == 0 && cluster["a"].counter(.requestsInFlight) == 0)
        // The connection to the node that declined is used again.
        #expect(cluster["a"].dials.filter { $0 == "b" }.count == 1 || !body.isEmpty)
    }

    @Test func nobodyHasIt() throws {
        let cluster = try TestCluster(["a", "b", "c"], keys: keys)
        cluster.say("e", on: "a", ["b": 1, "c": 1])
        let answer = try cluster["a"].client().get()
        #expect(answer.hasPrefix("HTTP/1.1 502") && answer.hasSuffix("{\"error\":\"no available upstreams\"}"))
        #expect(cluster["a"].counter(.requestsWithoutUpstream) == 1)
        #expect(count(answer, "x-piko-node") == 0)
    }

    /// Two nodes that each believe the other has it: one hop, and no circle.
    @Test(arguments: [[], keys]) func oneHopAtMost(_ keys: [[UInt8]]) throws {
        let cluster = try TestCluster(["a", "b"], keys: keys)
        cluster.say("e", on: "a", ["b": 1])
        cluster.say("e", on: "b", ["a": 1])
        #expect(try cluster["a"].client().get().hasPrefix("HTTP/1.1 502"))
        #expect(cluster["a"].dials == ["b"] && cluster["b"].dials == [])
    }

    @Test func drainingAndUnreachableNodesAreAvoided() throws {
        let cluster = try TestCluster(["a", "b", "c"], keys: keys)
        try cluster["b"].agent("e") { TestService("b") }
        try cluster["c"].agent("e") { TestService("c") }
        cluster.say("e", on: "a", ["b": 1_000_000, "c": 1])
        let client = try cluster["a"].client()
        #expect(try client.get().contains("b\n"))
        for status in [NodeStatus.draining, .unreachable] {
            cluster["a"].introduce("b", status)
            for _ in 0..<5 { #expect(try client.get().contains("\r\n\r\nc\n")) }
        }
        // When there is no other, it is tried all the same.
        cluster.say("e", on: "a", ["b": 1])
        #expect(try client.get().contains("\r\n\r\nb\n"))
        cluster["a"].introduce("b", .active)
        #expect(try client.get().contains("\r\n\r\nb\n"))
        cluster["a"].tell(.nodeGone(id: "b"))
        #expect(try client.get().hasPrefix("HTTP/1.1 502"))
    }

    @Test func eachNodeGetsItsShare() {
        var random = SeededGenerator(seed: 7)
        var counts: [String: Int] = [:]
        for _ in 0..<10_000 {
            counts[NodeTable.pick([("b", 1), ("c", 3), ("d", 6)], using: &random)!, default: 0] += 1
        }
        #expect((900...1_100).contains(counts["b"]!) && (2_850...3_150).contains(counts["c"]!), "\(counts)")
    }

    /// A node is found unreachable while it has a request: one that may be repeated is, elsewhere.
    @Test func requestsLeaveANodeThatBecameUnreachable() throws {
        let cluster = try TestCluster(["a", "b", "c"], keys: keys)
        let hanging = try cluster["b"].agent("e") { RecordingDelegate() }
        try cluster["c"].agent("e") { TestService("c") }
        cluster.say("e", on: "a", ["b": 1_000_000, "c": 1])
        let client = try cluster["a"].client()
        client.send("GET / HTTP/1.1\r\nHost: e.example.com\r\n\r\n")
        try cluster.turn("the request at b") { hanging.streams == 1 }
        cluster["a"].introduce("b", .unreachable)
        #expect(try client.answer().contains("\r\n\r\nc\n"))
    }

    /// What a service says about nodes is not believed, and does not reach the client.
    @Test func servicesCannotDecline() throws {
        let cluster = try TestCluster(["a", "b", "c"], keys: keys)
        let fake = "HTTP/1.1 502 Bad Gateway\r\nx-piko-node: declined\r\nContent-Length: 0\r\n\r\n"
        try cluster["b"].agent("e") { TestService("b", answer: fake) }
        try cluster["c"].agent("e") { TestService("c") }
        cluster.say("e", on: "a", ["b": 1_000_000, "c": 1])
        let answer = try cluster["a"].client().get()
        #expect(answer.hasPrefix("HTTP/1.1 502") && count(answer, "x-piko-node") == 0)
        #expect(cluster["c"].agents[0].streams == 0)
    }

    @Test func carriesRawTCP() throws {
        let cluster = try TestCluster(["a", "b"], keys: keys)
        try cluster["b"].agent("e") { EchoDelegate() }
        cluster.say("e", on: "a", ["b": 1])
        let client = try cluster["a"].client()
        client.send("GET /_piko/v1/tcp/e HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: piko-raw/1\r\n\r\n")
        try cluster.turn("the 101") { client.recorder.text.hasPrefix("HTTP/1.1 101") && client.recorder.text.hasSuffix("\r\n\r\n") }
        client.recorder.forget()
        let bytes = (0..<300_000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        client.stream.write(bytes.span)
        client.stream.finish()
        try cluster.turn("the echo") { client.recorder.hasEnded }
        #expect(client.recorder.bytes == bytes)
    }

    /// Requests wait for an agent that another node has just lost, as they do for one of this node.
    @Test func waitsForAnAgentThatMoves() throws {
        let cluster = try TestCluster(["a", "b"], keys: keys) { $0.proxy.reconnectWait = .seconds(5) }
        cluster.say("e", on: "a", ["b": 1])
        let client = try cluster["a"].client()
        client.send("POST / HTTP/1.1\r\nHost: e.example.com\r\nContent-Length: 3\r\n\r\nabc")
        try cluster.turn("b declines it") { cluster["b"].counter(.nodeRequestsDeclined) >= 1 }
        // It comes back where it was, and nobody's count has changed.
        try cluster["b"].agent("e") { TestService("b") }
        #expect(try client.answer().contains("\r\n\r\nb\nbody=3"))
        cluster.say("f", on: "a", ["b": 1])
        client.send("GET / HTTP/1.1\r\nHost: f.example.com\r\n\r\n")
        try cluster.turn("b declines it") { cluster["b"].counter(.nodeRequestsDeclined) >= 2 }
        // It comes to the node where the client is.
        try cluster["a"].agent("f") { TestService("a") }
        #expect(try client.answer().contains("\r\n\r\na\n"))
    }
}

@Suite struct NodeProofTests {
    /// The field line that a node with this key would send.
    private func line(
        _ key: [UInt8], _ method: String = "GET", _ target: String = "/", _ endpoint: String = "e", node: String = "a", age: UInt64 = 0
    ) -> String {
        let now = SystemClock.unixNanoseconds / 1_000_000_000 &- age
        var signed = ByteBuffer()
        NodeProof.writeSigned(
            node: Array(node.utf8).span, time: now, method: Array(method.utf8).span, target: Array(target.utf8).span,
            endpoint: Array(endpoint.utf8).span, tenant: Span(), into: &signed)
        var line = ByteBuffer()
        NodeProof.writeField(
            node: Array(node.utf8).span, time: now, code: MessageAuthentication(key: key).code(for: signed.span).span, into: &line)
        return String(decoding: [UInt8](copying: line.span), as: UTF8.self)
    }

    /// Of a node that has no tunnel itself and knows one that has: who is believed to be a node is declined, everybody else is
    /// served through the other node, as if nothing had been said.
    private func isBelieved(_ cluster: TestCluster, _ fields: String, from address: PeerAddress, method: String = "GET", path: String = "/") throws -> Bool {
        let answer = try cluster["b"].client(from: address).get(path, method: method, fields: fields)
        if answer.hasPrefix("HTTP/1.1 502") {
            #expect(count(answer, "x-piko-node: declined") == 1)
            return true
        }
        #expect(answer.hasPrefix("HTTP/1.1 200"), "\(answer)")
        #expect(count(answer, "x-piko-node") == 0 && count(answer, "x-piko-forward: true") == 1, "\(answer)")
        return false
    }

    private func cluster(_ keys: [[UInt8]]) throws -> TestCluster {
        let cluster = try TestCluster(["a", "b", "c"], keys: keys)
        try cluster["c"].agent("e") { TestService("c") }
        try cluster["c"].agent("other") { TestService("c") }
        cluster.say("e", on: "b", ["c": 1])
        cluster.say("other", on: "b", ["c": 1])
        return cluster
    }

    @Test func withKeysOnlyAProofCounts() throws {
        let cluster = try cluster(keys)
        let stranger = peer("203.0.113.9", 1)
        let member = cluster["a"].address
        // Any of the keys will do, from wherever it comes.
        for key in keys {
            #expect(try isBelieved(cluster, line(key), from: stranger))
            #expect(try isBelieved(cluster, line(key, age: 20), from: member))
        }
        let good = line(keys[0])
        let rows: [(String, String)] = [
            ("the bare header", "x-piko-forward: true\r\n"), ("another key", line(Array(2...33))),
            ("another method", line(keys[0], "POST")), ("another target", line(keys[0], "GET", "/x")),
            ("another endpoint", line(keys[0], "GET", "/", "other")), ("no code", "x-piko-node: a; t=1; mac=\r\n"),
            ("nothing", "x-piko-node:\r\n"), ("another node's name", good.replacing("x-piko-node: a", with: "x-piko-node: b")),
            ("named in Connection", "x-piko-forward: true\r\nConnection: x-piko-forward, x-piko-node\r\n"),
        ]
        for (name, fields) in rows {
            for address in [stranger, member] { #expect(try !isBelieved(cluster, fields, from: address), "\(name)") }
        }
        #expect(cluster["b"].counter(.nodeProofsRefused) == UInt64(2 * rows.count))
        // A node whose clock is wrong is not believed either, but its requests do not go round.
        for age in [40, 0 &- 40] as [UInt64] {
            #expect(try isBelieved(cluster, line(keys[0], age: age), from: member))
        }
        #expect(cluster["b"].counter(.nodeProofsRefused) == UInt64(2 * rows.count + 2))
        #expect(try cluster["b"].client().get(fields: good + good).hasPrefix("HTTP/1.1 400"))
        // The endpoint is that which the node is about to serve, however it is named.
        #expect(try !isBelieved(cluster, line(keys[0]) + "x-piko-endpoint: other\r\n", from: member))
        #expect(try isBelieved(cluster, line(keys[0], "GET", "/", "other") + "x-piko-endpoint: other\r\n", from: member))
    }

    @Test func withoutKeysAnAddressCounts() throws {
        let cluster = try cluster([])
        #expect(try isBelieved(cluster, "x-piko-forward: true\r\n", from: cluster["a"].address))
        #expect(try isBelieved(cluster, "x-piko-forward: true\r\n", from: peer("10.0.0.1", 1)))
        #expect(try !isBelieved(cluster, "x-piko-forward: true\r\n", from: peer("203.0.113.9", 8_000)))
        #expect(try !isBelieved(cluster, line(keys[0]), from: cluster["a"].address))
        // A node that left is a stranger.
        cluster["b"].tell(.nodeGone(id: "a"))
        #expect(try !isBelieved(cluster, "x-piko-forward: true\r\n", from: cluster["a"].address))
    }

    /// An agent's credential is good at every node of the cluster, and at no other.
    @Test func credentialsOfTheClusterAreGoodEverywhere() throws {
        let one = try TestCluster(["a", "b"], keys: keys)
        let rotated = try TestCluster(["c"], keys: keys.reversed())
        let other = try TestCluster(["d"], keys: [Array(9...40)])
        let keyless = try TestCluster(["e", "f"])
        let agent = try one["a"].agent("e", offersData: true) { TestService("a") }
        let alone = try keyless["e"].agent("e", offersData: true) { TestService("e") }
        let credential = try #require(agent.credential)
        func status(_ cluster: TestCluster, _ node: String, _ credential: String, _ endpoint: String = "e") throws -> String {
            let client = TestClient(cluster, try cluster[node].connect(.upstream))
            client.send(
                "GET /piko/v1/data/\(endpoint) HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: piko-direct/1\r\n"
                    + "x-piko-credential: \(credential)\r\n\r\n")
            return String(try client.answer().prefix(12))
        }
        for node in ["a", "b"] { #expect(try status(one, node, credential) == "HTTP/1.1 101") }
        #expect(try status(rotated, "c", credential) == "HTTP/1.1 101")
        #expect(try status(one, "b", credential, "other") == "HTTP/1.1 401")
        #expect(try status(other, "d", credential) == "HTTP/1.1 401")
        #expect(try status(keyless, "e", try #require(alone.credential)) == "HTTP/1.1 101")
        #expect(try status(keyless, "f", try #require(alone.credential)) == "HTTP/1.1 401")
    }
}
