// One process's use of the node's quotas: what a request draws, and gives back.
//
// A stream is counted before the sum is compared with the limit, so that two processes never both take the last one. When each
// sees the other's, both step back and look again.

public import Base
import Synchronization

/// Why nothing was drawn.
public enum QuotaRefusal: Error, Equatable, Sendable {
    /// As many streams are open as may be.
    case streams
    /// Requests come faster than they may.
    case requests
    /// No slot was to be had: more subjects are in use than the node can count.
    case noRoom
}

/// What one request drew. It is given back to the account that it came from, once.
public struct QuotaHold: Sendable {
    struct Part {
        var slot: Int
        var key: UInt64
        var hasStream = false
        /// What its rate was charged, in nanoseconds; 0: nothing.
        var interval: UInt64 = 0
    }

    var first: Part?
    var second: Part?

    public init() {}

    /// Whether nothing is held.
    public var isEmpty: Bool { first == nil && second == nil }
}

/// Draws from the quotas of a region. For one thread.
public final class QuotaAccount {
    private let region: QuotaRegion
    private let slab: Int

    init(_ region: QuotaRegion, slab: Int) {
        self.region = region
        self.slab = slab
    }

    /// An account of its own for a program of one process, or a test.
    public convenience init() {
        let slots = QuotaRegion.windowMax
        let memory = SharedRegion(privateBytes: QuotaRegion.byteCount(slots: slots, slabs: 1))
        self.init(QuotaRegion(formatting: memory, slots: slots, slabs: 1), slab: 0)
    }

    /// Draws one request, with the stream that it is, from all the quotas, of which there are at most `Quota.countMax`, or from
    /// none of them. `now`: nanoseconds of the clock that all processes of the node share. Allocates nothing.
    public func draw(_ quotas: [Quota], now: UInt64) throws(QuotaRefusal) -> QuotaHold {
        precondition(quotas.count <= Quota.countMax, "too many quotas for one request")
        var hold = QuotaHold()
        do throws(QuotaRefusal) {
            for index in quotas.indices where quotas[index].limits.limitsRequests {
                let part = try draw(quotas[index], now)
                if hold.first == nil { hold.first = part } else { hold.second = part }
            }
        } catch {
            giveBack(&hold, withRate: true)
            throw error
        }
        return hold
    }

    /// Gives the streams back; `withRate`: the request as well, which is served elsewhere and drawn there. Nothing is held then.
    public func giveBack(_ hold: inout QuotaHold, withRate: Bool = false) {
        if let part = hold.first { giveBack(part, withRate) }
        if let part = hold.second { giveBack(part, withRate) }
        hold = QuotaHold()
    }

    // MARK: One quota

    /// How often a slot is looked for that another process reclaims meanwhile, and how often the last stream.
    private static let triesMax = 8

    private func draw(_ quota: Quota, _ now: UInt64) throws(QuotaRefusal) -> QuotaHold.Part {
        if quota.limits.streams == 0 { throw .streams }
        if quota.limits.requestRate == 0 { throw .requests }
        for _ in 0..<Self.triesMax {
            guard let slot = region.slot(for: quota.subject.key, slab: slab, now: now) else { throw .noRoom }
            if let part = try draw(quota, slot, now) { return part }
        }
        throw .noRoom
    }

    /// nil: the slot is another subject's now.
    private func draw(_ quota: Quota, _ slot: Int, _ now: UInt64) throws(QuotaRefusal) -> QuotaHold.Part? {
        var part = QuotaHold.Part(slot: slot, key: quota.subject.key)
        if let limit = quota.limits.streams {
            guard try openStream(slot, part.key, UInt64(limit)) else { return nil }
            part.hasStream = true
        }
        guard let limit = quota.limits.requestRate, let rate = RequestRate(perSecond: limit) else { return part }
        guard charge(rate, slot, now) else {
            giveBack(part, false)
            throw .requests
        }
        part.interval = rate.interval
        if region.key(slot) == part.key { return part }
        giveBack(part, true)
        return nil
    }

    /// Counts a stream; false: the slot is another subject's now.
    private func openStream(_ slot: Int, _ key: UInt64, _ limit: UInt64) throws(QuotaRefusal) -> Bool {
        for _ in 0..<Self.triesMax {
            region.setOpen(slot, slab, region.open(slot, slab) &+ 1)
            guard region.key(slot) == key else {
                closeStream(slot)
                return false
            }
            if region.openStreams(slot) <= limit { return true }
            closeStream(slot)
            // Others may have tried at the same time, and stepped back as well.
            if region.openStreams(slot) >= limit { throw .streams }
        }
        throw .streams
    }

    private func closeStream(_ slot: Int) {
        let count = region.open(slot, slab)
        if count > 0 { region.setOpen(slot, slab, count - 1) }
    }

    /// Charges one request; false: it comes too early.
    private func charge(_ rate: RequestRate, _ slot: Int, _ now: UInt64) -> Bool {
        region.arrival(slot) { word in
            var arrival = word.load(ordering: .relaxed)
            while let next = rate.next(after: arrival, now: now) {
                let (isDone, found) = word.compareExchange(expected: arrival, desired: next, ordering: .sequentiallyConsistent)
                if isDone { return true }
                arrival = found
            }
            return false
        }
    }

    private func giveBack(_ part: QuotaHold.Part, _ withRate: Bool) {
        // While the stream is counted, the slot stays the subject's.
        if withRate, part.interval > 0, region.key(part.slot) == part.key {
            region.arrival(part.slot) { word in
                var arrival = word.load(ordering: .relaxed)
                while arrival >= part.interval {
                    let (isDone, found) = word.compareExchange(
                        expected: arrival, desired: arrival - part.interval, ordering: .sequentiallyConsistent)
                    if isDone { return }
                    arrival = found
                }
            }
        }
        if part.hasStream { closeStream(part.slot) }
    }
}
