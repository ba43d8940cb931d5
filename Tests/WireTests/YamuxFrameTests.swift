// The bytes that leave a session, written out: they must never change silently. And the parts under it: stream states,
// stream table, number history.

import Base
import Memory
import TestKit
import Testing

@testable import Wire

@Suite struct YamuxGoldenTests {
    @Test func serverOpensSendsAndEnds() {
        let harness = YamuxHarness(.server)
        let id = harness.open()
        #expect(id == YamuxStreamID(slot: 0, number: 2))
        #expect(harness.takeOutput() == [0, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0])
        #expect(harness.send(id, Array("hi".utf8)) == [0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2, 0x68, 0x69])
        harness.session.finish(id)
        #expect(harness.takeOutput() == [0, 1, 0, 4, 0, 0, 0, 2, 0, 0, 0, 0])
    }

    @Test func clientNumbersAreOdd() {
        let harness = YamuxHarness(.client)
        #expect([harness.open(), harness.open(), harness.open()].map(\.number) == [1, 3, 5])
    }

    @Test func dataTakesWaitingControlFramesAlong() {
        let harness = YamuxHarness(.server)
        let id = harness.open()
        #expect(harness.send(id, [7]) == [0, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0] + [0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 7])
        #expect(harness.takeOutput() == [])
    }

    @Test func openIsAccepted() {
        let harness = YamuxHarness(.client)
        harness.feed(yamuxFrame(1, yamuxSYN, 2, 0))
        #expect(harness.log == [.opened(2)])
        #expect(harness.takeOutput() == [0, 1, 0, 2, 0, 0, 0, 2, 0, 0, 0, 0])
    }

    @Test func largerWindowIsGrantedWithTheOpenAndTheAccept() {
        var limits = YamuxLimits()
        limits.windowBytesMax = 0x10_0000
        let server = YamuxHarness(.server, limits: limits)
        server.open()
        let open = server.takeOutput()
        #expect(open == [0, 1, 0, 1, 0, 0, 0, 2, 0, 0x0c, 0, 0])
        let client = YamuxHarness(.client, limits: limits)
        client.feed(open)
        #expect(client.session.sendWindow(client.names[2]!) == 0x10_0000)
        let accept = client.takeOutput()
        #expect(accept == [0, 1, 0, 2, 0, 0, 0, 2, 0, 0x0c, 0, 0])
        server.feed(accept)
        #expect(server.session.sendWindow(server.names[2]!) == 0x10_0000)
        #expect(server.session.unacknowledgedCount == 0)
    }

    @Test func pingIsAnswered() {
        let harness = YamuxHarness(.client)
        harness.feed([0, 2, 0, 1, 0, 0, 0, 0, 0xde, 0xad, 0xbe, 0xef])
        #expect(harness.log.isEmpty)
        #expect(harness.takeOutput() == [0, 2, 0, 2, 0, 0, 0, 0, 0xde, 0xad, 0xbe, 0xef])
    }

    @Test func pingIsSentWhenDue() {
        let harness = YamuxHarness(.client)
        #expect(harness.tick().error == nil)
        #expect(harness.tick(after: .seconds(30)).error == nil)
        #expect(harness.takeOutput() == [0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1])
    }

    @Test func resetAndGoAway() {
        let harness = YamuxHarness(.server)
        let id = harness.open()
        _ = harness.takeOutput()
        harness.session.reset(id)
        #expect(harness.takeOutput() == [0, 1, 0, 8, 0, 0, 0, 2, 0, 0, 0, 0])
        harness.session.goAway(.normal)
        #expect(harness.takeOutput() == [0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    @Test func windowIsGivenBackWhenHalfIsUsed() {
        let harness = YamuxHarness(.client)
        harness.feed(yamuxFrame(1, yamuxSYN, 2, 0) + yamuxData(2, [UInt8](repeating: 1, count: 131_072)))
        _ = harness.takeOutput()
        harness.session.consumed(harness.names[2]!, 131_071)
        #expect(harness.takeOutput() == [])
        harness.session.consumed(harness.names[2]!, 1)
        #expect(harness.takeOutput() == [0, 1, 0, 0, 0, 0, 0, 2, 0, 2, 0, 0])
    }

    @Test func windowIsGivenBackEarlierWhenThePeerStalls() {
        let harness = YamuxHarness(.client)
        harness.feed(yamuxFrame(1, yamuxSYN, 2, 0) + yamuxData(2, [UInt8](repeating: 1, count: 262_144)))
        _ = harness.takeOutput()
        harness.session.consumed(harness.names[2]!, 32_767)
        #expect(harness.takeOutput() == [])
        harness.session.consumed(harness.names[2]!, 1)
        #expect(harness.takeOutput() == [0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0x80, 0])
    }
}

@Suite struct YamuxStreamStateTests {
    @Test func everyTransition() {
        typealias State = YamuxStreamState
        let rows: [(State, [YamuxStreamEvent: State])] = [
            (.free, [.open: .opening, .accept: .open]),
            (.opening, [.acknowledge: .open, .finish: .openingFinished, .reset: .free]),
            (.openingFinished, [.acknowledge: .finished, .reset: .free]),
            (.open, [.acknowledge: .open, .finish: .finished, .end: .ended, .reset: .free]),
            (.finished, [.acknowledge: .finished, .end: .free, .reset: .free]),
            (.ended, [.acknowledge: .ended, .finish: .free, .reset: .free]),
        ]
        #expect(rows.map(\.0) == State.allCases)
        for (state, legal) in rows {
            for event in YamuxStreamEvent.allCases {
                #expect(state.next(event) == legal[event], "\(state) \(event)")
            }
        }
    }
}

@Suite struct YamuxStreamTableTests {
    /// The table against dictionaries and arrays that do the same in the plain way.
    @Test(arguments: 0..<8 as Range<UInt64>)
    func behavesAsItsModel(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        var table = YamuxStreamTable()
        var slots: [UInt32: UInt32] = [:]
        var states: [UInt32: YamuxStreamState] = [:]
        var unacknowledged: [UInt32] = []
        var halfClosed: [UInt32] = []
        var nextNumber: UInt32 = 1
        var now = Instant(nanoseconds: 0)
        for _ in 0..<1_200 {
            now = now + .nanoseconds(1)
            if slots.isEmpty || Int.random(in: 0..<100, using: &random) < (slots.count < 200 ? 40 : 5) {
                nextNumber += UInt32.random(in: 1...5, using: &random)
                let event: YamuxStreamEvent = Bool.random(using: &random) ? .open : .accept
                let slot = table.insert(number: nextNumber, event: event, now: now)
                #expect(!slots.values.contains(slot), "slot in use")
                slots[nextNumber] = slot
                states[nextNumber] = event == .open ? .opening : .open
                if event == .open { unacknowledged.append(nextNumber) }
            } else {
                let number = slots.keys.sorted().randomElement(using: &random)!
                let event = YamuxStreamEvent.allCases.randomElement(using: &random)!
                let next = states[number]!.next(event)
                #expect(table.apply(event, to: slots[number]!, now: now) == (next != nil))
                guard let next else { continue }
                let before = states[number]!
                states[number] = next
                if !next.waits(in: .unacknowledged) { unacknowledged.removeAll { $0 == number } }
                if !next.waits(in: .halfClosed) { halfClosed.removeAll { $0 == number } }
                if next.waits(in: .halfClosed), !before.waits(in: .halfClosed) { halfClosed.append(number) }
                if next == .free {
                    #expect(table.slot(ofNumber: number) == nil)
                    #expect(table.slot(of: YamuxStreamID(slot: slots[number]!, number: number)) == nil)
                    slots[number] = nil
                    states[number] = nil
                }
            }
            #expect(table.count == slots.count)
            #expect(table.unacknowledgedCount == unacknowledged.count)
            #expect(table.oldest(in: .unacknowledged)?.slot == unacknowledged.first.map { slots[$0]! })
            #expect(table.oldest(in: .halfClosed)?.slot == halfClosed.first.map { slots[$0]! })
        }
        for (number, slot) in slots {
            #expect(table.slot(ofNumber: number) == slot)
            #expect(table.slot(of: YamuxStreamID(slot: slot, number: number)) == slot)
            #expect(table[slot].state == states[number])
        }
        #expect(slots.values.allSatisfy { $0 < 260 }, "slots stay dense")
    }
}

@Suite struct YamuxNumberHistoryTests {
    @Test func remembersTheLatest() {
        var history = YamuxNumberHistory()
        #expect(history.claim(2) == .fresh)
        #expect(history.claim(2) == .used)
        #expect(history.claim(8) == .fresh)
        #expect(history.claim(4) == .fresh)
        #expect(history.claim(6) == .fresh)
        #expect(history.claim(4) == .used)
        #expect(history.claim(2_048) == .fresh)
        #expect(history.claim(2) == .used, "1023 behind")
        #expect(history.claim(2_050) == .fresh)
        #expect(history.claim(2) == .tooOld, "1024 behind")
        #expect(history.claim(10) == .fresh)
        #expect(history.claim(.max - 1) == .fresh)
        #expect(history.claim(2_050) == .tooOld)
        #expect(history.claim(.max - 3) == .fresh)
        #expect(history.claim(.max - 3) == .used)
    }

    @Test func agreesWithASet() {
        var random = SeededGenerator(seed: 5)
        var history = YamuxNumberHistory()
        var used: Set<UInt32> = []
        var latest: UInt32 = 1
        for _ in 0..<6_000 {
            let ordinal =
                Int(latest / 2)
                + Int.random(in: -1_100...(Int.random(in: 0..<50, using: &random) == 0 ? 2_000 : 3), using: &random)
            guard ordinal >= 0 else { continue }
            let number = UInt32(ordinal) * 2 + 1
            let isOld = Int(latest / 2) - ordinal >= YamuxNumberHistory.depth
            #expect(history.claim(number) == (isOld ? .tooOld : used.contains(number) ? .used : .fresh))
            if !isOld { used.insert(number) }
            latest = max(latest, number)
        }
    }
}
