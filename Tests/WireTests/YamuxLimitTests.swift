// The bounds of a session: how many streams, how long things may take, how much useless traffic a peer may send.

import Base
import Memory
import Testing

@testable import Wire

@Suite struct YamuxLimitTests {
    @Test func unacknowledgedStreamsAreBounded() {
        let harness = YamuxHarness(.server)
        for _ in 0..<256 { harness.open() }
        #expect(!harness.mayOpen)
        #expect(harness.session.open(now: harness.now) == nil)
        #expect(harness.session.unacknowledgedCount == 256)
        harness.feed(yamuxFrame(1, yamuxACK, 200, 0))
        #expect(harness.isAcknowledged(200))
        #expect(!harness.isAcknowledged(2))
        #expect(harness.open().number == 514)
        #expect(!harness.mayOpen)
        harness.session.reset(harness.names[4]!)
        #expect(harness.open().slot == harness.names[4]!.slot)
    }

    @Test func liveStreamsAreBoundedEitherWay() {
        var limits = YamuxLimits()
        limits.streamsMax = 3
        let harness = YamuxHarness(.client, limits: limits)
        harness.feed(yamuxFrame(1, yamuxSYN, 2, 0) + yamuxFrame(1, yamuxSYN, 4, 0))
        harness.open()
        #expect(!harness.mayOpen)
        _ = harness.takeOutput()
        harness.feed(yamuxFrame(1, yamuxSYN, 6, 0))
        #expect(harness.takeOutput() == yamuxFrame(1, yamuxRST, 6, 0))
        harness.session.reset(harness.names[2]!)
        harness.feed(yamuxFrame(1, yamuxSYN, 8, 0))
        #expect(harness.log == [.opened(2), .opened(4), .opened(8)])
        #expect(harness.names[8]!.slot < 3)
    }

    @Test func goAwayEitherWayStopsOpens() {
        let local = YamuxHarness(.server)
        local.session.goAway(.normal)
        local.session.goAway(.normal)
        #expect(local.takeOutput() == yamuxFrame(3, 0, 0, 0))
        #expect(local.isGoingAway)
        #expect(local.session.open(now: local.now) == nil)
        local.session.goAway(.internalError)
        #expect(local.takeOutput() == yamuxFrame(3, 0, 0, 2))
        let remote = YamuxHarness(.server)
        let id = remote.open()
        remote.feed(yamuxFrame(3, 0, 0, 0))
        #expect(remote.session.remoteGoAway == .normal)
        #expect(remote.session.open(now: remote.now) == nil)
        #expect(remote.session.sendWindow(id) == 262_144, "those that run go on")
    }

    @Test(arguments: [YamuxSession.Role.client, .server])
    func numbersRunOut(role: YamuxSession.Role) {
        let harness = YamuxHarness(role)
        harness.session.nextNumber = role == .client ? UInt64(UInt32.max) : UInt64(UInt32.max) - 1
        harness.open()
        #expect(harness.isGoingAway)
        #expect(harness.session.open(now: harness.now) == nil)
        #expect(harness.session.localGoAway == nil)
    }

    @Test func streamNotAcceptedInTimeEndsTheSession() {
        let harness = YamuxHarness(.server)
        harness.open()
        _ = harness.pass(.seconds(40))
        harness.open()
        harness.feed(yamuxFrame(1, yamuxACK, 2, 0))
        _ = harness.pass(.milliseconds(74_999))
        #expect(harness.session.nextDeadline == harness.now + .milliseconds(1))
        #expect(harness.tick(after: .milliseconds(1)).error == .openTimeout)
        #expect(bytes(of: harness.session.output).suffix(12) == yamuxFrame(3, 0, 0, 2)[...])
    }

    @Test func silentPeerIsFound() {
        let harness = YamuxHarness(.server)
        #expect(harness.session.nextDeadline == Instant(nanoseconds: 0))
        _ = harness.tick()
        #expect(harness.session.nextDeadline == harness.now + .seconds(30))
        #expect(harness.tick(after: .seconds(30)).error == nil)
        #expect(harness.takeOutput() == yamuxFrame(2, yamuxSYN, 0, 1))
        #expect(harness.session.nextDeadline == harness.now + .seconds(10))
        #expect(harness.tick(after: .milliseconds(9_999)).error == nil)
        #expect(harness.tick(after: .milliseconds(1)).error == .keepAliveTimeout)
    }

    @Test func answersAndOtherBytesKeepTheSessionAlive() {
        let harness = YamuxHarness(.server)
        _ = harness.tick()
        for value in 1...5 {
            #expect(harness.tick(after: .seconds(30)).error == nil)
            #expect(harness.takeOutput() == yamuxFrame(2, yamuxSYN, 0, UInt32(value)))
            harness.feed(yamuxFrame(2, yamuxACK, 0, UInt32(value)))
            #expect(harness.log.last == .pong)
        }
        #expect(harness.tick(after: .seconds(30)).error == nil)
        for _ in 0..<5 {
            harness.now = harness.now + .seconds(9)
            harness.feed([0])
            #expect(harness.tick().error == nil)
        }
        #expect(harness.tick(after: .seconds(10)).error == .keepAliveTimeout)
    }

    @Test func halfClosedStreamsAreDroppedWithoutProgress() {
        let harness = YamuxHarness(.client)
        harness.feed(yamuxFrame(1, yamuxSYN, 2, 0) + yamuxFrame(1, yamuxSYN, 4, 0) + yamuxFrame(1, yamuxSYN, 6, 0))
        for number in [2, 4] as [UInt32] { harness.session.finish(harness.names[number]!) }
        #expect(harness.pass(.seconds(290)) == [])
        harness.feed(yamuxData(2, [1]))
        _ = harness.takeOutput()
        #expect(harness.pass(.seconds(10)) == [4])
        #expect(harness.takeOutput().suffix(12) == yamuxFrame(1, yamuxRST, 4, 0)[...])
        #expect(harness.pass(.milliseconds(289_999)) == [])
        #expect(harness.pass(.milliseconds(1)) == [2])
        #expect(harness.session.streamCount == 1)
    }

    // Row 32 of the security tests: each kind of useless frame ends the session, unless it is rare.
    @Test func uselessFramesDrawOnABudget() {
        let rows: [(String, [UInt8], YamuxError, Int)] = [
            ("pings", yamuxFrame(2, yamuxSYN, 0, 1), .pingsExceeded, 128),
            ("answers to nothing", yamuxFrame(2, yamuxACK, 0, 1), .oddFramesExceeded, 256),
            ("empty data", yamuxData(2, []), .oddFramesExceeded, 256),
            ("empty window updates", yamuxFrame(1, 0, 2, 0), .oddFramesExceeded, 256),
            ("accepts again", yamuxFrame(1, yamuxACK, 2, 0), .oddFramesExceeded, 256),
            ("data for no stream", yamuxData(8, [1]), .oddFramesExceeded, 256),
            ("resets for no stream", yamuxFrame(1, yamuxRST, 8, 0), .oddFramesExceeded, 256),
            ("go away again", yamuxFrame(3, 0, 0, 0), .oddFramesExceeded, 256),
        ]
        for (name, frame, error, allowed) in rows {
            let harness = YamuxHarness(.client)
            harness.feed(yamuxFrame(1, yamuxSYN, 2, 0) + yamuxFrame(3, 0, 0, 0))
            for _ in 0..<3 {
                for _ in 0..<allowed { harness.feed(frame) }
                #expect(harness.session.failure == nil, "\(name)")
                harness.now = harness.now + .seconds(10)
            }
            for _ in 0...allowed { harness.feed(frame) }
            #expect(harness.session.failure == error, "\(name)")
        }
    }

    @Test func aMillionOpensAgainstAServer() {
        let harness = YamuxHarness(.server)
        var number: UInt32 = 1
        while harness.session.failure == nil, number < 2_000_001 {
            harness.feed(yamuxFrame(1, yamuxSYN, number, 0))
            number += 2
        }
        #expect(harness.session.failure == .oddFramesExceeded)
        #expect(number / 2 == 257)
        #expect(harness.session.output.count <= 257 * 12)
    }

    @Test func openingAndResettingEndsTheSession() {
        let harness = YamuxHarness(.client)
        var number: UInt32 = 2
        while harness.session.failure == nil, number < 100_000 {
            harness.feed(yamuxFrame(1, yamuxSYN, number, 0) + yamuxFrame(1, yamuxRST, number, 0))
            number += 2
        }
        #expect(harness.session.failure == .churnExceeded)
        #expect(number / 2 - 1 == 8_193)
    }

    @Test func resetsOfOurOwnStreamsAreFree() {
        let harness = YamuxHarness(.server)
        for _ in 0..<20_000 {
            let id = harness.open()
            harness.feed(yamuxFrame(1, yamuxRST, id.number, 0))
            harness.session.output.removeAll()
        }
        #expect(harness.session.failure == nil)
        #expect(harness.session.streamCount == 0)
    }

    // Row 33 of the security tests: an agent that never gives window back.
    @Test func aStalledPeerHoldsUpOnlyWhatItStalls() {
        let harness = YamuxHarness(.server)
        for _ in 0..<200 {
            let id = harness.open()
            _ = harness.send(id, [UInt8](repeating: 0, count: 262_144))
            #expect(harness.session.sendWindow(id) == 0)
        }
        harness.feed(yamuxFrame(1, yamuxACK, 400, 0) + yamuxFrame(1, 0, 400, 5))
        #expect(harness.log == [.writable(400)])
        #expect(harness.session.sendWindow(harness.names[400]!) == 5)
        #expect(harness.session.sendWindow(harness.open()) == 262_144)
        #expect(harness.pass(.seconds(74)) == [])
        #expect(harness.tick(after: .seconds(1)).error == .openTimeout, "an agent that does not even accept")
    }

    @Test func callersMistakesTrap() async {
        await #expect(processExitsWith: .failure) {
            let harness = YamuxHarness(.server)
            let id = harness.open()
            var buffer = ByteBuffer()
            harness.session.writeDataHeader(id, length: 262_145, into: &buffer)
        }
        await #expect(processExitsWith: .failure) {
            let harness = YamuxHarness(.server)
            let id = harness.open()
            harness.session.finish(id)
            var buffer = ByteBuffer()
            harness.session.writeDataHeader(id, length: 1, into: &buffer)
        }
        await #expect(processExitsWith: .failure) {
            let harness = YamuxHarness(.server)
            harness.session.consumed(harness.open(), 1)
        }
        await #expect(processExitsWith: .failure) {
            var limits = YamuxLimits()
            limits.windowBytesMax = 1_000
            _ = YamuxHarness(.server, limits: limits)
        }
    }
}
