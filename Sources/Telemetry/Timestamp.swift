// UTC timestamps, as RFC 3339 writes them with milliseconds, and as the common log format does. Arithmetic on the proleptic
// Gregorian calendar, with the year beginning in March, so that the leap day is the last one.

import Memory

/// Times of day as text.
public enum Timestamp {
    /// `2026-11-22T10:11:12.345Z`.
    public static func text(unixNanoseconds: UInt64) -> String {
        var buffer = ByteBuffer()
        append(unixNanoseconds: unixNanoseconds, into: &buffer)
        return String(decoding: [UInt8](copying: buffer.span), as: UTF8.self)
    }

    /// `2026-11-22T10:11:12Z`.
    public static func text(unixSeconds: UInt64) -> String {
        var buffer = ByteBuffer()
        append(unixSeconds: unixSeconds, into: &buffer)
        buffer.append("Z" as StaticString)
        return String(decoding: [UInt8](copying: buffer.span), as: UTF8.self)
    }

    /// Appends `2026-11-22T10:11:12.345Z`.
    static func append(unixNanoseconds: UInt64, into buffer: inout ByteBuffer) {
        append(unixSeconds: unixNanoseconds / 1_000_000_000, into: &buffer)
        appendMilliseconds(unixNanoseconds / 1_000_000 % 1_000, into: &buffer)
    }

    /// Appends `.345Z`, the end of a stamp.
    static func appendMilliseconds(_ milliseconds: UInt64, into buffer: inout ByteBuffer) {
        buffer.append(UInt8(ascii: "."))
        append(milliseconds, digits: 3, into: &buffer)
        buffer.append(UInt8(ascii: "Z"))
    }

    /// Appends `2026-11-22T10:11:12`.
    static func append(unixSeconds: UInt64, into buffer: inout ByteBuffer) {
        let (year, month, day) = date(unixSeconds)
        append(year, digits: 4, into: &buffer)
        buffer.append("-" as StaticString)
        append(month, digits: 2, into: &buffer)
        buffer.append("-" as StaticString)
        append(day, digits: 2, into: &buffer)
        buffer.append("T" as StaticString)
        appendTime(unixSeconds, into: &buffer)
    }

    /// Appends `22/Nov/2026:10:11:12 +0000`, as the common log format has it.
    static func appendCommon(unixNanoseconds: UInt64, into buffer: inout ByteBuffer) {
        let (year, month, day) = date(unixNanoseconds / 1_000_000_000)
        append(day, digits: 2, into: &buffer)
        buffer.append(monthName(month))
        append(year, digits: 4, into: &buffer)
        buffer.append(":" as StaticString)
        appendTime(unixNanoseconds / 1_000_000_000, into: &buffer)
        buffer.append(" +0000" as StaticString)
    }

    private static func date(_ unixSeconds: UInt64) -> (year: UInt64, month: UInt64, day: UInt64) {
        let days = unixSeconds / 86_400
        let shifted = days + 719_468  // days since 0000-03-01
        let era = shifted / 146_097
        let dayOfEra = shifted % 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let monthFromMarch = (5 * dayOfYear + 2) / 153
        let day = dayOfYear - (153 * monthFromMarch + 2) / 5 + 1
        let month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9
        return (yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, day)
    }

    private static func appendTime(_ seconds: UInt64, into buffer: inout ByteBuffer) {
        append(seconds / 3_600 % 24, digits: 2, into: &buffer)
        buffer.append(":" as StaticString)
        append(seconds / 60 % 60, digits: 2, into: &buffer)
        buffer.append(":" as StaticString)
        append(seconds % 60, digits: 2, into: &buffer)
    }

    private static func monthName(_ month: UInt64) -> StaticString {
        switch month {
        case 1: "/Jan/"
        case 2: "/Feb/"
        case 3: "/Mar/"
        case 4: "/Apr/"
        case 5: "/May/"
        case 6: "/Jun/"
        case 7: "/Jul/"
        case 8: "/Aug/"
        case 9: "/Sep/"
        case 10: "/Oct/"
        case 11: "/Nov/"
        default: "/Dec/"
        }
    }

    private static func append(_ number: UInt64, digits: Int, into buffer: inout ByteBuffer) {
        var divisor: UInt64 = 1
        for _ in 1..<digits { divisor *= 10 }
        while divisor > 0 {
            buffer.append(UInt8(48 + number / divisor % 10))
            divisor /= 10
        }
    }
}
