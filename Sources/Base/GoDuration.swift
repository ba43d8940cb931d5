// Durations as Go writes and reads them ("1m30s", "100ms", "1.5h"): configuration files, flags and log fields use this
// form, and files and log queries that were written for other programs of the protocol must keep their meaning.
//
// Invariants: `parse` accepts exactly what Go's time.ParseDuration accepts, and gives the same number of nanoseconds;
// `format` writes exactly what Go's Duration.String writes, for every number of nanoseconds that fits an Int64.

/// Go's notation for durations.
public enum GoDuration {
    /// The duration that `text` names, or nil when it names none. Fractions of a nanosecond are cut.
    public static func parse(_ text: String) -> Duration? {
        var rest = Array(text.utf8)[...]
        var isNegative = false
        if let first = rest.first, first == UInt8(ascii: "-") || first == UInt8(ascii: "+") {
            isNegative = first == UInt8(ascii: "-")
            rest.removeFirst()
        }
        if rest.elementsEqual([UInt8(ascii: "0")]) { return .zero }
        if rest.isEmpty { return nil }
        // The magnitude may reach 2^63, which only the negative form can hold.
        let limit = UInt64(1) << 63
        var total: UInt64 = 0
        while !rest.isEmpty {
            guard let part = parsePart(&rest, limit: limit) else { return nil }
            total += part
            if total > limit { return nil }
        }
        if isNegative { return .nanoseconds(total == limit ? Int64.min : -Int64(total)) }
        return total == limit ? nil : .nanoseconds(Int64(total))
    }

    /// Reads one number and its unit: "1.5h" of "1.5h30m". Nil when there is none or it is larger than `limit`.
    private static func parsePart(_ rest: inout ArraySlice<UInt8>, limit: UInt64) -> UInt64? {
        let start = rest.startIndex
        guard let whole = parseDigits(&rest, limit: limit) else { return nil }
        var digitCount = rest.startIndex - start
        var fraction: UInt64 = 0
        var scale = 1.0
        if rest.first == UInt8(ascii: ".") {
            rest.removeFirst()
            digitCount += parseFraction(&rest, fraction: &fraction, scale: &scale)
        }
        if digitCount == 0 { return nil }
        guard let unit = parseUnit(&rest) else { return nil }
        let (product, overflow) = whole.multipliedReportingOverflow(by: unit)
        if overflow || product > limit { return nil }
        // Floating point, as the original has it, so that every text gives the same nanoseconds.
        let sum = product + (fraction > 0 ? UInt64(Double(fraction) * (Double(unit) / scale)) : 0)
        return sum > limit ? nil : sum
    }

    /// Reads digits as a number; nil when it is larger than `limit`. No digits are zero.
    private static func parseDigits(_ rest: inout ArraySlice<UInt8>, limit: UInt64) -> UInt64? {
        var number: UInt64 = 0
        while let byte = rest.first, byte >= 48, byte <= 57 {
            if number > limit / 10 { return nil }
            number = number * 10 + UInt64(byte - 48)
            if number > limit { return nil }
            rest.removeFirst()
        }
        return number
    }

    /// Reads the digits after the point; those that no longer fit are skipped. Returns how many there were.
    private static func parseFraction(
        _ rest: inout ArraySlice<UInt8>, fraction: inout UInt64, scale: inout Double
    ) -> Int {
        var count = 0
        var isFull = false
        while let byte = rest.first, byte >= 48, byte <= 57 {
            count += 1
            rest.removeFirst()
            if isFull { continue }
            let maximum = (UInt64(1) << 63) - 1
            if fraction > maximum / 10 { isFull = true; continue }
            let next = fraction * 10 + UInt64(byte - 48)
            if next > maximum + 1 { isFull = true; continue }
            fraction = next
            scale *= 10
        }
        return count
    }

    /// Reads a unit and returns its nanoseconds.
    private static func parseUnit(_ rest: inout ArraySlice<UInt8>) -> UInt64? {
        let length = rest.prefix { $0 != UInt8(ascii: ".") && !($0 >= 48 && $0 <= 57) }.count
        let name = Array(rest.prefix(length))
        rest = rest.dropFirst(length)
        for (unit, nanoseconds) in units where name.elementsEqual(unit.utf8) { return nanoseconds }
        return nil
    }

    /// Unit names; the micro sign comes in both of its code points, U+00B5 and U+03BC.
    private static let units: [(String, UInt64)] = [
        ("ns", 1), ("us", 1_000), ("\u{B5}s", 1_000), ("\u{3BC}s", 1_000), ("ms", 1_000_000),
        ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000),
    ]

    /// The shortest form with a leading unit: "1m30s", "1.5s", "100ms", "0s". Durations outside Int64 nanoseconds are
    /// clamped to it.
    public static func format(_ duration: Duration) -> String { text(duration).string }

    /// The same, without the heap.
    public static func text(_ duration: Duration) -> ShortText {
        let (seconds, attoseconds) = duration.components
        let isNegative = seconds < 0 || attoseconds < 0
        let limit = isNegative ? UInt64(1) << 63 : UInt64(Int64.max)
        let magnitude = min((isNegative ? .zero - duration : duration).clampedNanoseconds, limit)
        var text = ShortText()
        if isNegative && magnitude > 0 { text.append(UInt8(ascii: "-")) }
        appendMagnitude(magnitude, to: &text)
        return text
    }

    private static func appendMagnitude(_ nanoseconds: UInt64, to text: inout ShortText) {
        switch nanoseconds {
        case 0: text.append("0s")
        case ..<1_000: appendDecimal(nanoseconds, fractionDigits: 0, "ns", to: &text)
        case ..<1_000_000: appendDecimal(nanoseconds, fractionDigits: 3, "\u{B5}s", to: &text)
        case ..<1_000_000_000: appendDecimal(nanoseconds, fractionDigits: 6, "ms", to: &text)
        default:
            let minutes = nanoseconds / 60_000_000_000
            if minutes >= 60 { appendDecimal(minutes / 60, fractionDigits: 0, "h", to: &text) }
            if minutes > 0 { appendDecimal(minutes % 60, fractionDigits: 0, "m", to: &text) }
            appendDecimal(nanoseconds % 60_000_000_000, fractionDigits: 9, "s", to: &text)
        }
    }

    /// `number` with its last `fractionDigits` digits after the point, of which zeros at the end are dropped, and the unit.
    private static func appendDecimal(_ number: UInt64, fractionDigits: Int, _ unit: String, to text: inout ShortText) {
        var scale: UInt64 = 1
        for _ in 0..<fractionDigits { scale *= 10 }
        text.appendDecimal(number / scale)
        var fraction = number % scale
        if fraction > 0 {
            var digits = fractionDigits
            while fraction % 10 == 0 {
                fraction /= 10
                digits -= 1
            }
            text.append(UInt8(ascii: "."))
            text.appendDecimal(fraction, digits: digits)
        }
        text.append(unit)
    }
}
