// Which stream numbers the peer has used, so that one that comes twice is noticed. Numbers grow, but not strictly: the
// reference implementation takes a number and sends its SYN in two steps, so the SYNs of concurrent opens may swap. The
// latest numbers are therefore remembered one by one; of older ones nothing is known, and they are refused.

import Memory

/// The numbers of one parity that the peer has opened streams with.
struct YamuxNumberHistory {
    /// What a number turned out to be.
    enum Answer {
        case fresh
        case used
        /// Too far behind the latest to know.
        case tooOld
    }

    /// How far behind the latest a number may come.
    static let depth = 1_024

    /// Half of the latest number, rounded up (1 for the first stream of either side); 0 before the first.
    private var latest = 0
    /// Bit `ordinal % depth` for each ordinal in latest - depth + 1 ... latest: used.
    private var bits: InlineArray<16, UInt64> = .init(repeating: 0)

    /// Takes the number into the history if it is fresh.
    mutating func claim(_ number: UInt32) -> Answer {
        let ordinal = Int(number / 2 + number % 2)
        if ordinal > latest {
            if ordinal - latest >= YamuxNumberHistory.depth {
                bits = .init(repeating: 0)
            } else {
                for skipped in latest + 1..<ordinal { clear(skipped) }
            }
            latest = ordinal
            set(ordinal)
            return .fresh
        }
        if latest - ordinal >= YamuxNumberHistory.depth { return .tooOld }
        if isSet(ordinal) { return .used }
        set(ordinal)
        return .fresh
    }

    private func isSet(_ ordinal: Int) -> Bool { bits[ordinal >> 6 & 15] >> UInt64(ordinal & 63) & 1 == 1 }
    private mutating func set(_ ordinal: Int) { bits[ordinal >> 6 & 15] |= 1 << UInt64(ordinal & 63) }
    private mutating func clear(_ ordinal: Int) { bits[ordinal >> 6 & 15] &= ~(1 << UInt64(ordinal & 63)) }
}

extension YamuxNumberHistory {
    func write(into state: inout StateWriter) {
        state.write(latest)
        for index in bits.indices { state.write(bits[index]) }
    }

    init(reading state: inout StateReader, _ bytes: Span<UInt8>) throws(StateReadError) {
        self.init()
        latest = try state.integer(bytes)
        for index in bits.indices { bits[index] = try state.number(bytes) }
    }
}
