// Quotas in shared memory: the rate on a virtual clock, streams over several processes, the slots of subjects, and the end of a
// process.

import Base
import Synchronization
import Testing

@testable import Memory

private let second: UInt64 = 1_000_000_000

@Suite struct RequestRateTests {
    /// A rate; when requests come, in milliseconds; and which of them are served.
    static let rows: [(UInt32, [UInt64], String)] = [
        (1, [0, 0, 999, 1_000, 1_001, 2_000, 9_000, 9_000], "x..x.xx."),
        (2, [0, 0, 0, 499, 500, 501, 1_000, 1_000, 5_000, 5_000, 5_000], "xx..x.x.xx."),
        (4, [0, 0, 0, 0, 0, 249, 250, 250, 1_000, 1_000, 1_000, 1_000], "xxxx..x.xxx."),
        (1_000, [0, 0, 1, 1, 2], "xxxxx"),
    ]

    @Test(arguments: rows)
    func servesAsManyAsMayBe(_ rate: UInt32, _ times: [UInt64], _ served: String) throws {
        let rate = try #require(RequestRate(perSecond: rate))
        var arrival: UInt64 = 0
        var found = ""
        for time in times {
            let next = rate.next(after: arrival, now: 10 * second + time * 1_000_000)
            found += next == nil ? "." : "x"
            arrival = next ?? arrival
        }
        #expect(found == served)
    }

    @Test func neverMoreThanTheRate() throws {
        for perSecond: UInt32 in [1, 3, 7, 50, 999, 30_000, .max] {
            let rate = try #require(RequestRate(perSecond: perSecond))
            var arrival: UInt64 = 0
            var now: UInt64 = second
            var count = 0
            // The first second's worth at once, then ten seconds of asking more often than that.
            while now < 11 * second, count < 100_000 {
                if let next = rate.next(after: arrival, now: now) {
                    arrival = next
                    count += 1
                } else {
                    #expect(rate.next(after: arrival, now: arrival - rate.tolerance - 1) == nil)
                    now = arrival - rate.tolerance
                }
            }
            #expect(count <= 11 * Int(perSecond))
            // Less than a thousandth is lost to the rounding.
            #expect(count >= 11 * Int(perSecond) - 11 * Int(perSecond) / 1_000 - 1 || count == 100_000)
        }
        #expect(RequestRate(perSecond: 0) == nil)
    }

    @Test func whatIsNoArrivalTimeIsForgotten() throws {
        let rate = try #require(RequestRate(perSecond: 1))
        #expect(rate.next(after: .max, now: second) == 2 * second)
        #expect(rate.next(after: 0, now: second) == 2 * second)
    }
}

@Suite struct QuotaRegionTests {
    private static func region(slots: Int = 64, slabs: Int = 4) -> QuotaRegion {
        QuotaRegion(
            formatting: SharedRegion(privateBytes: QuotaRegion.byteCount(slots: slots, slabs: slabs)), slots: slots, slabs: slabs)
    }

    private static func subject(_ number: UInt64) -> QuotaSubject { QuotaSubject(hash: 1 << 32 | number) }

    private static func quota(_ number: UInt64, streams: UInt32? = nil, rate: UInt32? = nil) -> Quota {
        Quota(subject: subject(number), limits: QuotaLimits(streams: streams, requestRate: rate))
    }

    private func refusal(_ account: QuotaAccount, _ quotas: [Quota], now: UInt64 = second) -> QuotaRefusal? {
        do throws(QuotaRefusal) {
            _ = try account.draw(quotas, now: now)
            return nil
        } catch {
            return error
        }
    }

    @Test func streamsAreCountedOverAllProcesses() throws {
        let region = Self.region()
        let one = region.account(slab: 1)
        let two = region.account(slab: 2)
        let quota = Self.quota(1, streams: 3)
        var first = try one.draw([quota], now: 0)
        var second = try two.draw([quota], now: 0)
        let third = try two.draw([quota], now: 0)
        #expect(!third.isEmpty && region.openStreams(of: quota.subject) == 3)
        #expect(refusal(one, [quota]) == .streams && refusal(two, [quota]) == .streams)
        // Another token of the subject may say something else.
        #expect(refusal(one, [Self.quota(1, streams: 2)]) == .streams)
        var more = try one.draw([Self.quota(1, streams: 4)], now: 0)
        #expect(try !one.draw([Self.quota(2, streams: 1)], now: 0).isEmpty)
        one.giveBack(&more)
        one.giveBack(&first)
        #expect(first.isEmpty && region.openStreams(of: quota.subject) == 2)
        one.giveBack(&first)
        #expect(region.openStreams(of: quota.subject) == 2)
        two.giveBack(&second)
        #expect(region.openStreams(of: quota.subject) == 1)
        #expect(refusal(one, [Self.quota(1, streams: 0)]) == .streams)
        #expect(try one.draw([Quota(subject: quota.subject, limits: QuotaLimits(tunnels: 0))], now: 0).isEmpty)
    }

    @Test func ratesAreCountedOverAllProcesses() throws {
        let region = Self.region()
        let accounts = (0..<4).map { region.account(slab: $0) }
        let quota = Self.quota(1, rate: 10)
        for now in [second, 2 * second, 5 * second] {
            let served = (0..<40).count { refusal(accounts[$0 % 4], [quota], now: now) == nil }
            #expect(served == 10)
        }
        // One that goes elsewhere is not counted twice.
        var hold = try accounts[0].draw([quota], now: 6 * second)
        accounts[0].giveBack(&hold, withRate: true)
        #expect((0..<40).count { refusal(accounts[$0 % 4], [quota], now: 6 * second) == nil } == 10)
        hold = try accounts[0].draw([quota], now: 8 * second)
        accounts[0].giveBack(&hold)
        #expect((0..<40).count { refusal(accounts[$0 % 4], [quota], now: 8 * second) == nil } == 9)
        #expect(refusal(accounts[0], [Self.quota(2, rate: 0)]) == .requests)
        #expect(refusal(accounts[0], [Self.quota(3, rate: 1)]) == nil)
    }

    @Test func allQuotasOrNone() throws {
        let region = Self.region()
        let account = region.account(slab: 0)
        let token = Self.quota(1, streams: 10, rate: 5)
        let tenant = Self.quota(2, streams: 1)
        var hold = try account.draw([token, tenant], now: second)
        #expect(refusal(account, [token, tenant]) == .streams && refusal(account, [tenant, token]) == .streams)
        #expect(region.openStreams(of: token.subject) == 1 && region.openStreams(of: tenant.subject) == 1)
        account.giveBack(&hold)
        #expect(region.openStreams(of: token.subject) == 0 && region.openStreams(of: tenant.subject) == 0)
        // What was refused has not used the rate up.
        #expect((0..<20).count { _ in refusal(account, [token]) == nil } == 4)
        // Nor the stream, when the rate refuses.
        #expect(refusal(account, [tenant, token]) == .requests && region.openStreams(of: tenant.subject) == 0)
    }

    @Test func aProcessThatEndsGivesEverythingBack() throws {
        let region = Self.region()
        let quota = Self.quota(1, streams: 4)
        for _ in 0..<3 { _ = try region.account(slab: 1).draw([quota], now: 0) }
        var other = try region.account(slab: 2).draw([quota], now: 0)
        #expect(refusal(region.account(slab: 2), [quota]) == .streams)
        region.clear(slab: 1)
        #expect(region.openStreams(of: quota.subject) == 1)
        #expect(refusal(region.account(slab: 1), [quota]) == nil)
        region.account(slab: 2).giveBack(&other)
        region.clear(slab: 2)
        #expect(region.openStreams(of: quota.subject) == 1)
    }

    @Test func slotsAreSharedOutAndUsedAgain() throws {
        // Sixteen slots, so that every subject may have each.
        let region = Self.region(slots: 16)
        let account = region.account(slab: 0)
        var holds: [QuotaHold] = []
        for number in 0..<16 { holds.append(try account.draw([Self.quota(UInt64(number), streams: 1)], now: second)) }
        #expect(refusal(account, [Self.quota(16, streams: 1)]) == .noRoom)
        for number in 0..<16 { #expect(refusal(account, [Self.quota(UInt64(number), streams: 1)]) == .streams) }
        account.giveBack(&holds[5])
        #expect(refusal(region.account(slab: 1), [Self.quota(16, streams: 1)]) == nil)
        #expect(region.openStreams(of: Self.subject(16)) == 1 && region.openStreams(of: Self.subject(5)) == 0)
        #expect(refusal(account, [Self.quota(5, streams: 1)]) == .noRoom)
    }

    @Test func aSlotWithDebtIsKept() throws {
        let region = Self.region(slots: 16)
        let account = region.account(slab: 0)
        for number in 0..<16 { #expect(refusal(account, [Self.quota(UInt64(number), rate: 1)], now: second) == nil) }
        #expect(refusal(account, [Self.quota(16, rate: 1)], now: 2 * second - 1) == .noRoom)
        #expect(refusal(account, [Self.quota(3, rate: 1)], now: 2 * second - 1) == .requests)
        #expect(refusal(account, [Self.quota(16, rate: 1)], now: 2 * second) == nil)
        #expect(refusal(account, [Self.quota(16, rate: 1)], now: 2 * second) == .requests)
        #expect((0...16).count { region.find(Self.subject(UInt64($0)).key) != nil } == 16)
    }

    @Test func aProcessThatEndedWhileItReclaimedLeavesTheSlotFree() throws {
        let memory = SharedRegion(privateBytes: QuotaRegion.byteCount(slots: 16, slabs: 4))
        let region = QuotaRegion(formatting: memory, slots: 16, slabs: 4)
        let keys = memory.words(from: QuotaRegion.headerWords, count: 16)
        for slot in 0..<16 { keys[slot].store(3, ordering: .relaxed) }
        #expect(refusal(region.account(slab: 0), [Self.quota(1, streams: 1)]) == .noRoom)
        region.clear(slab: 1)
        #expect(refusal(region.account(slab: 0), [Self.quota(1, streams: 1)]) == .noRoom)
        region.clear(slab: 2)
        #expect(refusal(region.account(slab: 0), [Self.quota(1, streams: 1)]) == nil)
    }

    @Test func isReadByAnotherProcess() throws {
        let memory = SharedRegion(privateBytes: QuotaRegion.byteCount(slots: 64, slabs: 7))
        let region = QuotaRegion(formatting: memory, slots: 64, slabs: 7)
        _ = try region.account(slab: 6).draw([Self.quota(1, streams: 9)], now: 0)
        let other = try QuotaRegion(opening: memory)
        #expect(other.slabCount == 7 && other.slotCount == 64 && other.openStreams(of: Self.subject(1)) == 1)
        #expect(throws: QuotaRegionError.notQuotas) { try QuotaRegion(opening: SharedRegion(privateBytes: 8_192)) }
        #expect(throws: QuotaRegionError.notQuotas) { try QuotaRegion(opening: SharedRegion(privateBytes: 8)) }
        for (word, value) in [(1, UInt64.max), (1, 48), (2, UInt64.max), (2, 0), (2, 100), (1, 1 << 20)] {
            let words = memory.words(from: 0, count: 3)
            let before = words[word].load(ordering: .relaxed)
            words[word].store(value, ordering: .relaxed)
            #expect(throws: QuotaRegionError.invalidLayout) { try QuotaRegion(opening: memory) }
            words[word].store(before, ordering: .relaxed)
        }
    }

    /// Threads in the place of processes: never more than the limit, whatever they do at the same time, and nothing left at the end.
    @Test func manyAtOnceNeverHaveMoreThanTheLimit() async {
        let memory = SharedRegion(privateBytes: QuotaRegion.byteCount(slots: 16, slabs: 4))
        _ = QuotaRegion(formatting: memory, slots: 16, slabs: 4)
        nonisolated(unsafe) let shared = memory
        let most = await withTaskGroup(of: UInt64.self) { group in
            for slab in 0..<4 {
                group.addTask {
                    guard let region = try? QuotaRegion(opening: shared) else { return .max }
                    let account = region.account(slab: slab)
                    var most: UInt64 = 0
                    for turn in 0..<3_000 {
                        // More subjects than slots, so that they are claimed and reclaimed all the time.
                        let number = UInt64((turn * 7 + slab) % 24)
                        guard var hold = try? account.draw([Self.quota(number, streams: 2)], now: 0) else { continue }
                        most = max(most, region.openStreams(of: Self.subject(number)) > 2 + 3 ? 6 : 2)
                        account.giveBack(&hold)
                    }
                    return most
                }
            }
            return await group.reduce(0) { max($0, $1) }
        }
        // A try that steps back is counted for a moment.
        #expect(most == 2)
        let region = try? QuotaRegion(opening: memory)
        for number in 0..<24 { #expect(region?.openStreams(of: Self.subject(UInt64(number))) == 0) }
        for slot in 0..<16 { #expect(region?.openStreams(slot) == 0) }
    }
}
