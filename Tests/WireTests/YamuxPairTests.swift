// Two sessions back to back, driven by seeded random operations over pipes that deliver in random pieces. Every byte, every
// end and every window is checked against a plain account of what was done. A failure names its seed, which replays it.

import Base
import Memory
import TestKit
import Testing

@testable import Wire

/// One side of the pair, with an account of each of its streams.
private final class Side {
    /// What is known of one stream on this side.
    struct Account {
        var id: YamuxStreamID
        var sent = 0
        var received = 0
        var consumed = 0
        var finished = false
        var ended = false
    }

    let harness: YamuxHarness
    /// Streams that live here, by number.
    var streams: [UInt32: Account] = [:]
    /// How much was sent in all on streams whose half was ended here, kept for the other side's check.
    var totals: [UInt32: Int] = [:]
    /// Bytes on their way to the other side.
    var pipe: [UInt8] = []
    /// Which end this is; part of the bytes' pattern.
    let salt: UInt8

    init(_ role: YamuxSession.Role, limits: YamuxLimits) {
        harness = YamuxHarness(role, limits: limits, acceptsStreams: true)
        salt = role == .client ? 0x5a : 0xc3
    }

    /// The byte that this side sends at a position of a stream.
    func pattern(_ number: UInt32, _ position: Int) -> UInt8 {
        UInt8(truncatingIfNeeded: UInt64(number) &* 31 &+ UInt64(position) &* 7 &+ UInt64(position >> 8)) ^ salt
    }

    func flush() { pipe += harness.takeOutput() }

    func open() {
        guard let id = harness.session.open(now: harness.now) else { return }
        precondition(streams[id.number] == nil)
        streams[id.number] = Account(id: id)
    }

    func write(_ number: UInt32, _ wanted: Int) {
        guard let account = streams[number], !account.finished else { return }
        let length = min(wanted, harness.session.sendWindow(account.id))
        guard length > 0 else { return }
        pipe += harness.send(account.id, (0..<length).map { pattern(number, account.sent + $0) })
        streams[number]!.sent += length
    }

    func finish(_ number: UInt32) {
        guard let account = streams[number], !account.finished else { return }
        flush()
        harness.session.finish(account.id)
        flush()
        totals[number] = account.sent
        streams[number]!.finished = true
        if account.ended { streams[number] = nil }
    }

    func reset(_ number: UInt32) {
        guard let account = streams.removeValue(forKey: number) else { return }
        harness.session.reset(account.id)
        flush()
    }

    func consume(_ number: UInt32, _ wanted: Int) {
        guard let account = streams[number] else { return }
        let length = min(wanted, account.received - account.consumed)
        harness.session.consumed(account.id, length)
        streams[number]!.consumed += length
        flush()
    }

    /// Takes a piece of what the other side sent.
    func deliver(_ piece: [UInt8], from other: Side) throws {
        harness.log = []
        harness.feed(piece)
        for entry in harness.log {
            switch entry {
            case .opened(let number):
                try #require(streams[number] == nil)
                let id = harness.names[number]!
                try #require(!streams.values.contains { $0.id.slot == id.slot }, "slot in use")
                streams[number] = Account(id: id)
            case .data(let number, let bytes):
                let start = try #require(streams[number]).received
                for (index, byte) in bytes.enumerated() where byte != other.pattern(number, start + index) {
                    Issue.record("stream \(number) differs at \(start + index)")
                }
                streams[number]!.received += bytes.count
            case .ended(let number):
                let account = try #require(streams[number])
                #expect(other.totals[number] == account.received)
                streams[number]!.ended = true
                if account.finished { streams[number] = nil }
            case .reset(let number):
                try #require(streams.removeValue(forKey: number) != nil)
            case .writable(let number):
                let account = try #require(streams[number])
                try #require(harness.session.sendWindow(account.id) > 0)
            case .pong: break
            case .goAway, .failed:
                Issue.record("\(entry)")
                throw YamuxError.badFlags
            }
        }
        flush()
        #expect(harness.session.streamCount == streams.count)
    }
}

@Suite struct YamuxPairTests {
    @Test(arguments: 1...16 as ClosedRange<UInt64>)
    func everyByteArrives(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        var limits = YamuxLimits()
        if seed % 3 == 0 { limits.windowBytesMax = 300_000 }
        if seed % 5 == 0 { limits.streamsMax = 8 }
        let client = Side(.client, limits: limits)
        let server = Side(.server, limits: limits)
        for _ in 0..<500 {
            let (near, far) = Bool.random(using: &random) ? (client, server) : (server, client)
            let number = near.streams.keys.sorted().randomElement(using: &random)
            switch (Int.random(in: 0..<100, using: &random), number) {
            case (0..<12, _): near.open()
            case (12..<40, let number?):
                let isLarge = Int.random(in: 0..<12, using: &random) == 0
                near.write(number, Int.random(in: 1...(isLarge ? 120_000 : 300), using: &random))
            case (40..<56, let number?): near.consume(number, Int.random(in: 0...200_000, using: &random))
            case (56..<60, let number?): near.finish(number)
            case (60..<62, let number?): near.reset(number)
            case (62..<64, _):
                let time = Duration.milliseconds(Int.random(in: 0..<2_000, using: &random))
                for side in [near, far] {
                    let result = side.harness.tick(after: time)
                    #expect(result == ([], nil))
                    side.flush()
                }
            default: try carry(from: near, to: far, using: &random)
            }
        }
        try settle(client, server, using: &random)
        for side in [client, server] {
            #expect(side.streams.isEmpty)
            #expect(side.harness.session.streamCount == 0)
            #expect(side.harness.session.unacknowledgedCount == 0)
        }
    }

    /// Carries one random piece.
    private func carry(from near: Side, to far: Side, using random: inout SeededGenerator) throws {
        let most = Int.random(in: 0..<4, using: &random) == 0 ? 40 : 100_000
        let length = min(near.pipe.count, Int.random(in: 1...most, using: &random))
        let piece = Array(near.pipe[0..<length])
        near.pipe.removeFirst(length)
        try far.deliver(piece, from: near)
    }

    /// Carries everything that is under way.
    private func carryAll(_ client: Side, _ server: Side, using random: inout SeededGenerator) throws {
        while !client.pipe.isEmpty || !server.pipe.isEmpty {
            try carry(from: client, to: server, using: &random)
            try carry(from: server, to: client, using: &random)
        }
    }

    /// Delivers and consumes everything, checks the windows, ends every stream.
    private func settle(_ client: Side, _ server: Side, using random: inout SeededGenerator) throws {
        try carryAll(client, server, using: &random)
        for side in [client, server] { for number in side.streams.keys.sorted() { side.consume(number, .max) } }
        try carryAll(client, server, using: &random)
        #expect(client.streams.keys.sorted() == server.streams.keys.sorted())
        for (sender, receiver) in [(client, server), (server, client)] {
            for (number, account) in sender.streams where !account.finished {
                let record = receiver.harness.session.streams[receiver.streams[number]!.id.slot]
                #expect(sender.harness.session.sendWindow(account.id) == Int(record.receiveWindow))
                #expect(record.unconsumed == 0)
                #expect(account.sent == receiver.streams[number]!.received)
            }
        }
        for side in [client, server] { for number in side.streams.keys.sorted() { side.finish(number) } }
        try carryAll(client, server, using: &random)
    }

    @Test func aLongTransferNeverStalls() throws {
        let client = Side(.client, limits: YamuxLimits())
        let server = Side(.server, limits: YamuxLimits())
        server.open()
        var random = SeededGenerator(seed: 1)
        while server.streams[2]!.sent < 5_000_000 {
            server.flush()
            server.write(2, 50_000)
            let before = client.streams[2]?.received ?? 0
            try carryAll(client, server, using: &random)
            #expect(client.streams[2]!.received > before)
            client.consume(2, Int.random(in: 0...100_000, using: &random))
            if client.streams[2]!.received - client.streams[2]!.consumed > 200_000 { client.consume(2, .max) }
        }
        #expect(client.streams[2]!.received == server.streams[2]!.sent)
    }
}
