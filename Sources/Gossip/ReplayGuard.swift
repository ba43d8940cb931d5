// Tells what a sender sent from what somebody else recorded and sends again. A sender numbers its packets, and its streams by
// themselves; of each sender the highest number is kept, and which of the 128 below it came. Lower ones count as seen.
//
// Senders are lives of nodes (GossipEnvelope), so a restarted sender begins anew. A restarted receiver is a new life itself,
// and what was recorded before was not meant for it. Invariant: at most `sendersMax` senders; whoever was silent longest goes.

internal import Base

/// The numbers that one sender has used.
struct ReplayWindow: Equatable {
    /// The highest number that came.
    var highest: UInt64 = 0
    /// Bit N is set when the number N below the highest came.
    var seen: UInt128 = 0

    /// Notes a number, and says whether it is a new one.
    mutating func accept(_ number: UInt64) -> Bool {
        guard number > 0 else { return false }
        if number > highest {
            let distance = number - highest
            seen = distance < 128 ? seen << UInt128(distance) | 1 : 1
            highest = number
            return true
        }
        let distance = highest - number
        guard distance < 128 else { return false }
        let bit = UInt128(1) << UInt128(distance)
        guard seen & bit == 0 else { return false }
        seen |= bit
        return true
    }
}

/// The windows of all senders.
struct ReplayGuard {
    struct Sender: Equatable {
        var life: UInt64
        var lastUse: Instant
        var packets = ReplayWindow()
        var streams = ReplayWindow()
    }

    private let sendersMax: Int
    private(set) var senders: [Sender] = []
    private var places: [UInt64: Int] = [:]
    /// Where the search for a silent sender goes on.
    private var hand = 0

    init(sendersMax: Int) { self.sendersMax = sendersMax }

    init(sendersMax: Int, senders: [Sender]) {
        self.sendersMax = sendersMax
        self.senders = senders
        for (place, sender) in senders.enumerated() { places[sender.life] = place }
    }

    /// Notes a number of a sender, and says whether it is a new one.
    mutating func accept(_ life: UInt64, _ number: UInt64, isStream: Bool, now: Instant) -> Bool {
        let place = places[life] ?? add(life, now)
        senders[place].lastUse = now
        return isStream ? senders[place].streams.accept(number) : senders[place].packets.accept(number)
    }

    private mutating func add(_ life: UInt64, _ now: Instant) -> Int {
        guard senders.count >= sendersMax else {
            senders.append(Sender(life: life, lastUse: now))
            places[life] = senders.count - 1
            return senders.count - 1
        }
        var oldest = hand
        for _ in 0..<min(64, senders.count) {
            if senders[hand].lastUse < senders[oldest].lastUse { oldest = hand }
            hand = (hand + 1) % senders.count
        }
        places[senders[oldest].life] = nil
        senders[oldest] = Sender(life: life, lastUse: now)
        places[life] = oldest
        return oldest
    }
}
