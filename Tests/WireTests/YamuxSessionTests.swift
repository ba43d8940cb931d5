// What a session makes of what it receives: tables of inputs with the events and answers they must give, each input whole,
// byte by byte and cut at every offset; and every violation.

import Base
import Memory
import Testing

@testable import Wire

/// An input and what must come of it.
struct YamuxRow: CustomTestStringConvertible, Sendable {
    var name: String
    var role = YamuxSession.Role.client
    var acceptsStreams: Bool?
    /// What happens before the input.
    var prepare: @Sendable (YamuxHarness) -> Void = { _ in }
    var input: [UInt8]
    var log: [YamuxLogEntry]
    var output: [UInt8] = []

    var testDescription: String { name }
}

private let accepted = yamuxFrame(1, yamuxACK, 2, 0)

private let goodRows: [YamuxRow] = [
    YamuxRow(name: "open", input: yamuxFrame(1, yamuxSYN, 2, 0), log: [.opened(2)], output: accepted),
    YamuxRow(
        name: "open by data", input: yamuxData(2, [1, 2, 3], flags: yamuxSYN), log: [.opened(2), .data(2, [1, 2, 3])],
        output: accepted),
    YamuxRow(
        name: "open, data and end in one frame", input: yamuxData(2, [1, 2], flags: yamuxSYN | yamuxFIN),
        log: [.opened(2), .data(2, [1, 2]), .ended(2)], output: accepted),
    YamuxRow(
        name: "open and end without data", input: yamuxFrame(1, yamuxSYN | yamuxFIN, 2, 0), log: [.opened(2), .ended(2)],
        output: accepted),
    YamuxRow(
        name: "open by empty data", input: yamuxData(2, [], flags: yamuxSYN) + yamuxData(2, [9]),
        log: [.opened(2), .data(2, [9])], output: accepted),
    YamuxRow(
        name: "two streams in turns",
        input: yamuxFrame(1, yamuxSYN, 2, 0) + yamuxFrame(1, yamuxSYN, 4, 0) + yamuxData(2, [1]) + yamuxData(4, [2])
            + yamuxData(2, [3], flags: yamuxFIN),
        log: [.opened(2), .opened(4), .data(2, [1]), .data(4, [2]), .data(2, [3]), .ended(2)],
        output: accepted + yamuxFrame(1, yamuxACK, 4, 0)),
    YamuxRow(
        name: "numbers out of order", input: yamuxFrame(1, yamuxSYN, 6, 0) + yamuxFrame(1, yamuxSYN, 2, 0),
        log: [.opened(6), .opened(2)], output: yamuxFrame(1, yamuxACK, 6, 0) + accepted),
    YamuxRow(
        name: "reset by the peer",
        input: yamuxFrame(1, yamuxSYN, 2, 0) + yamuxFrame(1, yamuxRST, 2, 0) + yamuxFrame(1, 0, 2, 5),
        log: [.opened(2), .reset(2)], output: accepted),
    YamuxRow(
        name: "reset as a data frame, with FIN",
        input: yamuxFrame(1, yamuxSYN, 2, 0) + yamuxFrame(0, yamuxRST | yamuxFIN, 2, 0),
        log: [.opened(2), .reset(2)], output: accepted),
    YamuxRow(
        name: "refused open", role: .server,
        prepare: {
            $0.open(); _ = $0.takeOutput()
        },
        input: yamuxFrame(1, yamuxRST, 2, 0), log: [.reset(2)]),
    YamuxRow(
        name: "accepted with data", role: .server,
        prepare: {
            $0.open(); _ = $0.takeOutput()
        },
        input: yamuxData(2, [5, 6], flags: yamuxACK) + yamuxFrame(1, yamuxFIN, 2, 0), log: [.data(2, [5, 6]), .ended(2)]),
    YamuxRow(
        name: "data without an accept", role: .server,
        prepare: {
            $0.open(); _ = $0.takeOutput()
        },
        input: yamuxData(2, [5], flags: yamuxFIN), log: [.data(2, [5]), .ended(2)]),
    YamuxRow(
        name: "window that was used up", role: .server,
        prepare: { harness in
            let id = harness.open()
            _ = harness.send(id, [UInt8](repeating: 0, count: 262_144))
        },
        input: yamuxFrame(1, yamuxACK, 2, 0) + yamuxFrame(1, 0, 2, 10) + yamuxFrame(1, 0, 2, 10), log: [.writable(2)]),
    YamuxRow(
        name: "window and end in one frame", role: .server,
        prepare: { harness in
            let id = harness.open()
            _ = harness.send(id, [UInt8](repeating: 0, count: 262_144))
        },
        input: yamuxFrame(1, yamuxFIN, 2, 10), log: [.writable(2), .ended(2)]),
    YamuxRow(
        name: "window after we ended", role: .server,
        prepare: { harness in
            let id = harness.open()
            _ = harness.send(id, [UInt8](repeating: 0, count: 262_144))
            harness.session.finish(id)
            _ = harness.takeOutput()
        },
        input: yamuxFrame(1, yamuxACK, 2, 10) + yamuxData(2, [4]) + yamuxFrame(1, yamuxFIN, 2, 0),
        log: [.data(2, [4]), .ended(2)]),
    YamuxRow(
        name: "pings", input: yamuxFrame(2, yamuxSYN, 0, 7) + yamuxFrame(2, yamuxSYN, 0, .max), log: [],
        output: yamuxFrame(2, yamuxACK, 0, 7) + yamuxFrame(2, yamuxACK, 0, .max)),
    YamuxRow(
        name: "answer to our ping",
        prepare: {
            _ = $0.tick(); _ = $0.tick(after: .seconds(30)); _ = $0.takeOutput()
        },
        input: yamuxFrame(2, yamuxACK, 0, 1), log: [.pong]),
    YamuxRow(name: "answer to no ping", input: yamuxFrame(2, yamuxACK, 0, 1), log: []),
    YamuxRow(
        name: "go away, then worse",
        input: yamuxFrame(3, 0, 0, 0) + yamuxFrame(3, 0, 0, 0) + yamuxFrame(3, 0, 0, 2) + yamuxFrame(3, 0, 0, 77),
        log: [.goAway(0), .goAway(2), .goAway(77)]),
    YamuxRow(
        name: "frames for streams that never were",
        input: yamuxData(1, [1, 2, 3]) + yamuxFrame(1, 0, 8, 99) + yamuxFrame(1, yamuxFIN, 8, 0)
            + yamuxFrame(1, yamuxRST, 8, 0)
            + yamuxFrame(2, yamuxSYN, 0, 1),
        log: [], output: yamuxFrame(2, yamuxACK, 0, 1)),
    YamuxRow(
        name: "data after the end is dropped",
        input: yamuxFrame(1, yamuxSYN, 2, 0) + yamuxFrame(1, yamuxFIN, 2, 0) + yamuxData(2, [1, 2])
            + yamuxFrame(1, yamuxSYN, 4, 0),
        log: [.opened(2), .ended(2), .opened(4)], output: accepted + yamuxFrame(1, yamuxACK, 4, 0)),
    YamuxRow(
        name: "a server opens streams only itself", role: .server,
        input: yamuxFrame(1, yamuxSYN, 1, 0) + yamuxData(3, [1, 2], flags: yamuxSYN) + yamuxData(3, [3])
            + yamuxFrame(2, yamuxSYN, 0, 1),
        log: [], output: yamuxFrame(1, yamuxRST, 1, 0) + yamuxFrame(1, yamuxRST, 3, 0) + yamuxFrame(2, yamuxACK, 0, 1)),
    YamuxRow(
        name: "a server that lets the peer open", role: .server, acceptsStreams: true, input: yamuxFrame(1, yamuxSYN, 1, 0),
        log: [.opened(1)], output: yamuxFrame(1, yamuxACK, 1, 0)),
    YamuxRow(
        name: "open after our go-away",
        prepare: {
            $0.session.goAway(.normal); _ = $0.takeOutput()
        },
        input: yamuxData(2, [1], flags: yamuxSYN) + yamuxData(2, [2]), log: [], output: yamuxFrame(1, yamuxRST, 2, 0)),
    YamuxRow(
        name: "open before the peer heard our go-away",
        prepare: {
            $0.session.goAway(.normal, acceptingLate: true); _ = $0.takeOutput()
        },
        input: yamuxFrame(1, yamuxSYN, 2, 0), log: [.opened(2)], output: accepted),
    YamuxRow(
        name: "open when it must have heard it",
        prepare: {
            $0.session.goAway(.normal, acceptingLate: true); $0.session.refuseLateStreams(); _ = $0.takeOutput()
        },
        input: yamuxFrame(1, yamuxSYN, 2, 0), log: [], output: yamuxFrame(1, yamuxRST, 2, 0)),
    YamuxRow(
        name: "open after a go-away with an error",
        prepare: {
            $0.session.goAway(.normal, acceptingLate: true); $0.session.goAway(.internalError); _ = $0.takeOutput()
        },
        input: yamuxFrame(1, yamuxSYN, 2, 0), log: [], output: yamuxFrame(1, yamuxRST, 2, 0)),
    YamuxRow(
        name: "number too old to know",
        prepare: {
            $0.feed(yamuxFrame(1, yamuxSYN, 4_000, 0)); _ = $0.takeOutput(); $0.log = []
        },
        input: yamuxFrame(1, yamuxSYN, 2, 0), log: [], output: yamuxFrame(1, yamuxRST, 2, 0)),
]

/// An input that breaks the protocol.
private func violation(
    _ error: YamuxError, _ name: String, role: YamuxSession.Role = .client, log: [YamuxLogEntry] = [],
    prepare: @escaping @Sendable (YamuxHarness) -> Void = { _ in }, _ input: [UInt8]
) -> YamuxRow {
    YamuxRow(
        name: "\(error): \(name)", role: role,
        prepare: {
            prepare($0); _ = $0.takeOutput(); $0.log = []
        }, input: input,
        log: log + [.failed(error)], output: yamuxFrame(3, 0, 0, 1))
}

private let openTwo: @Sendable (YamuxHarness) -> Void = { $0.feed(yamuxFrame(1, yamuxSYN, 2, 0)) }

private let badRows: [YamuxRow] = [
    violation(.unsupportedVersion, "1", yamuxFrame(0, 0, 2, 0, version: 1)),
    violation(.unsupportedVersion, "text", Array("GET / HTTP/1.1\r\n".utf8)),
    violation(.unknownType, "4", yamuxFrame(4, 0, 0, 0)),
    violation(.badFlags, "16", yamuxFrame(1, 16, 2, 0)),
    violation(.badFlags, "high byte", yamuxFrame(1, 0x101, 2, 0)),
    violation(.badFlags, "SYN and ACK", yamuxFrame(1, yamuxSYN | yamuxACK, 2, 0)),
    violation(.badFlags, "SYN and RST", yamuxFrame(1, yamuxSYN | yamuxRST, 2, 0)),
    violation(.badFlags, "ping without", yamuxFrame(2, 0, 0, 0)),
    violation(.badFlags, "ping with both", yamuxFrame(2, yamuxSYN | yamuxACK, 0, 0)),
    violation(.badFlags, "ping with FIN", yamuxFrame(2, yamuxSYN | yamuxFIN, 0, 0)),
    violation(.badFlags, "go away with FIN", yamuxFrame(3, yamuxFIN, 0, 0)),
    violation(.badStreamNumber, "data on 0", yamuxData(0, [1])),
    violation(.badStreamNumber, "open 0", yamuxFrame(1, yamuxSYN, 0, 0)),
    violation(.badStreamNumber, "ping with a number", yamuxFrame(2, yamuxSYN, 2, 0)),
    violation(.badStreamNumber, "go away with a number", yamuxFrame(3, 0, 2, 0)),
    violation(.badLength, "reset with window", prepare: openTwo, yamuxFrame(1, yamuxRST, 2, 1)),
    violation(.badLength, "reset with data", prepare: openTwo, yamuxFrame(0, yamuxRST, 2, 1)),
    violation(.wrongParity, "client hears an odd open", yamuxFrame(1, yamuxSYN, 1, 0)),
    violation(.wrongParity, "server hears an even open", role: .server, yamuxFrame(1, yamuxSYN, 2, 0)),
    violation(.numberReused, "while it lives", prepare: openTwo, yamuxFrame(1, yamuxSYN, 2, 0)),
    violation(
        .numberReused, "after its reset",
        prepare: {
            openTwo($0); $0.session.reset($0.names[2]!)
        }, yamuxFrame(1, yamuxSYN, 2, 0)),
    violation(
        .numberReused, "long-lived and old",
        prepare: {
            openTwo($0); $0.feed(yamuxFrame(1, yamuxSYN, 4_000, 0))
        },
        yamuxFrame(1, yamuxSYN, 2, 0)),
    violation(
        .endedTwice, "FIN and FIN",
        prepare: {
            openTwo($0); $0.feed(yamuxFrame(1, yamuxFIN, 2, 0))
        }, yamuxFrame(1, yamuxFIN, 2, 0)),
    violation(
        .endedTwice, "FIN and data with FIN",
        prepare: {
            openTwo($0); $0.feed(yamuxFrame(1, yamuxFIN, 2, 0))
        },
        yamuxData(2, [1], flags: yamuxFIN)),
    // Row 30 of the security tests: the open carries more than the window.
    violation(.receiveWindowExceeded, "open with too much data", yamuxFrame(0, yamuxSYN, 2, 262_145)),
    violation(.receiveWindowExceeded, "open with 4 GiB", yamuxFrame(0, yamuxSYN, 2, .max)),
    violation(.receiveWindowExceeded, "refused open with too much data", role: .server, yamuxFrame(0, yamuxSYN, 1, 262_145)),
    violation(.receiveWindowExceeded, "more than the window", prepare: openTwo, yamuxFrame(0, 0, 2, 262_145)),
    violation(
        .receiveWindowExceeded, "one byte more than was left",
        prepare: {
            openTwo($0); $0.feed(yamuxData(2, [UInt8](repeating: 0, count: 262_144)))
        }, yamuxFrame(0, 0, 2, 1)),
    violation(.receiveWindowExceeded, "unknown stream", yamuxFrame(0, 0, 8, 262_145)),
    // Row 31: window updates that add up to more than a window can be.
    violation(.sendWindowOverflow, "at once", prepare: openTwo, yamuxFrame(1, 0, 2, .max)),
    violation(.sendWindowOverflow, "with the open", yamuxFrame(1, yamuxSYN, 2, .max)),
    violation(.sendWindowOverflow, "by one", prepare: openTwo, yamuxFrame(1, 0, 2, .max - 262_144) + yamuxFrame(1, 0, 2, 1)),
]

@Suite struct YamuxSessionTests {
    @Test(arguments: goodRows)
    func givesTheEvents(row: YamuxRow) { check(row) }

    @Test(arguments: badRows)
    func refusesWhatBreaksTheProtocol(row: YamuxRow) { check(row) }

    private func check(_ row: YamuxRow) {
        for cuts in everyCut(of: row.input.count) {
            let harness = YamuxHarness(row.role, acceptsStreams: row.acceptsStreams)
            row.prepare(harness)
            harness.feed(row.input, cutAt: cuts)
            #expect(harness.log == row.log, "cut at \(cuts)")
            #expect(harness.takeOutput() == row.output, "cut at \(cuts)")
        }
    }

    @Test func everyViolationIsInTheTable() {
        let covered = Set(badRows.compactMap { row in if case .failed(let error) = row.log.last { error } else { nil } })
        let others: Set<YamuxError> = [
            .oddFramesExceeded, .pingsExceeded, .churnExceeded, .keepAliveTimeout, .openTimeout,
        ]
        #expect(covered.union(others) == Set(YamuxError.allCases))
    }

    @Test func anErrorStays() {
        let harness = YamuxHarness(.server)
        let id = harness.open()
        harness.feed(yamuxFrame(9, 0, 0, 0))
        _ = harness.takeOutput()
        var offset = 0
        #expect(throws: YamuxError.unknownType) {
            try harness.session.receive(yamuxFrame(2, yamuxSYN, 0, 0).span, at: &offset, now: harness.now)
        }
        #expect(harness.session.failure == .unknownType)
        #expect(harness.session.open(now: harness.now) == nil)
        #expect(harness.tick().error == .unknownType)
        #expect(harness.session.nextDeadline == .never)
        harness.session.reset(id)
        harness.session.goAway(.normal)
        #expect(harness.takeOutput() == [])
    }

    @Test func aStreamIsGoneWhenBothHalvesEnded() {
        for peerFirst in [true, false] {
            let harness = YamuxHarness(.client)
            harness.feed(yamuxFrame(1, yamuxSYN, 2, 0) + yamuxData(2, [1]))
            let id = harness.names[2]!
            if peerFirst {
                harness.feed(yamuxFrame(1, yamuxFIN, 2, 0))
                #expect(harness.session.sendWindow(id) == 262_144)
                #expect(harness.session.streamCount == 1)
                harness.session.finish(id)
            } else {
                harness.session.finish(id)
                #expect(harness.session.sendWindow(id) == 0)
                #expect(harness.session.streamCount == 1)
                harness.feed(yamuxFrame(1, yamuxFIN, 2, 0))
                #expect(harness.log.last == .ended(2))
            }
            #expect(harness.session.streamCount == 0)
            // A stale name does nothing, even when its slot is in use again.
            harness.feed(yamuxFrame(1, yamuxSYN, 4, 0))
            #expect(harness.names[4]!.slot == id.slot)
            _ = harness.takeOutput()
            harness.session.consumed(id, 1)
            harness.session.finish(id)
            harness.session.reset(id)
            #expect(harness.session.sendWindow(id) == 0)
            #expect(!harness.isAcknowledged(id.number))
            #expect(harness.takeOutput() == [])
            #expect(harness.session.streamCount == 1)
        }
    }

    @Test func endingTwiceIsNothing() {
        let harness = YamuxHarness(.server)
        let id = harness.open()
        harness.session.finish(id)
        _ = harness.takeOutput()
        harness.session.finish(id)
        #expect(harness.takeOutput() == [])
    }

    @Test func aResetInTheMiddleOfAFrameDropsTheRest() {
        let harness = YamuxHarness(.client)
        let input = yamuxFrame(1, yamuxSYN, 2, 0) + yamuxData(2, [1, 2, 3, 4], flags: yamuxFIN)
        harness.feed(Array(input[0..<26]))
        harness.session.reset(harness.names[2]!)
        // The slot is taken by another stream before the rest comes.
        let next = harness.open()
        #expect(next.slot == harness.names[2]!.slot)
        harness.feed(Array(input[26...]) + yamuxFrame(1, yamuxSYN, 4, 0))
        #expect(harness.log == [.opened(2), .data(2, [1, 2]), .opened(4)])
    }

    @Test func dataForAStreamThatWeResetIsDroppedWithoutBudget() {
        var limits = YamuxLimits()
        limits.oddFramesMax = 0
        let harness = YamuxHarness(.client, limits: limits)
        harness.feed(yamuxFrame(1, yamuxSYN, 2, 0) + yamuxData(2, [1, 2]))
        harness.session.reset(harness.names[2]!)
        for _ in 0..<262_142 / 4_096 { harness.feed(yamuxData(2, [UInt8](repeating: 0, count: 4_096))) }
        harness.feed(yamuxData(2, [UInt8](repeating: 0, count: 262_142 % 4_096)))
        harness.feed(yamuxFrame(1, 0, 2, 100) + yamuxFrame(1, yamuxFIN, 2, 0))
        #expect(harness.log == [.opened(2), .data(2, [1, 2])])
        harness.feed(yamuxData(2, [1]))
        #expect(harness.log.last == .failed(.oddFramesExceeded))
    }
}
