// Dates in the preferred format of RFC 9110 section 5.6.7, `Sun, 06 Nov 1994 08:49:37 GMT`.

public import Memory

/// Writes dates. Whoever answers often keeps the text for a second.
public enum HTTPDate {
    /// The length of a date.
    public static let byteCount = 29

    /// Writes the moment `unixSeconds` after 1970, which must lie in the years 1970 to 9999; others are clamped to those.
    public static func write(_ unixSeconds: Int64, into output: inout ByteBuffer) {
        let clamped = min(max(unixSeconds, 0), 253_402_300_799)
        let days = clamped / 86_400
        let second = clamped % 86_400
        let (year, month, day) = civil(daysSince1970: days)
        output.append(weekday(Int((days + 4) % 7)))
        output.append(", ")
        writeTwoDigits(day, into: &output)
        output.append(monthName(Int(month)))
        writeTwoDigits(year / 100, into: &output)
        writeTwoDigits(year % 100, into: &output)
        output.append(" ")
        writeTwoDigits(second / 3_600, into: &output)
        output.append(":")
        writeTwoDigits(second / 60 % 60, into: &output)
        output.append(":")
        writeTwoDigits(second % 60, into: &output)
        output.append(" GMT")
    }

    /// The seconds after 1970 of a date in the preferred format; nil for anything else.
    public static func seconds(of text: String) -> Int64? {
        let parts = text.split(separator: " ")
        guard parts.count == 6, parts[5] == "GMT", let day = Int64(parts[1]), let year = Int64(parts[3]), (1970...9999).contains(year),
            let month = months.firstIndex(of: String(parts[2])), (1...31).contains(day)
        else { return nil }
        let clock = parts[4].split(separator: ":").compactMap { Int64($0) }
        guard clock.count == 3, (0..<24).contains(clock[0]), (0..<60).contains(clock[1]), (0...60).contains(clock[2]) else { return nil }
        // Years are counted from March here, too.
        let shiftedYear = month < 2 ? year - 1 : year
        let shiftedMonth = Int64((month + 10) % 12)
        let dayOfYear = (153 * shiftedMonth + 2) / 5 + day - 1
        let days = shiftedYear * 365 + shiftedYear / 4 - shiftedYear / 100 + shiftedYear / 400 + dayOfYear - 719_468
        return days * 86_400 + clock[0] * 3_600 + clock[1] * 60 + clock[2]
    }

    private static let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

    /// The day in the Gregorian calendar: years are counted from March, so that the leap day is the last of its year.
    private static func civil(daysSince1970 days: Int64) -> (year: Int64, month: Int64, day: Int64) {
        let shifted = days + 719_468
        let era = shifted / 146_097
        let dayOfEra = shifted % 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let marchMonth = (5 * dayOfYear + 2) / 153
        let day = dayOfYear - (153 * marchMonth + 2) / 5 + 1
        let month = marchMonth < 10 ? marchMonth + 3 : marchMonth - 9
        return (yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, day)
    }

    private static func writeTwoDigits(_ number: Int64, into output: inout ByteBuffer) {
        output.append(0x30 + UInt8(number / 10))
        output.append(0x30 + UInt8(number % 10))
    }

    private static func weekday(_ index: Int) -> StaticString {
        switch index {
        case 0: "Sun"
        case 1: "Mon"
        case 2: "Tue"
        case 3: "Wed"
        case 4: "Thu"
        case 5: "Fri"
        default: "Sat"
        }
    }

    private static func monthName(_ month: Int) -> StaticString {
        switch month {
        case 1: " Jan "
        case 2: " Feb "
        case 3: " Mar "
        case 4: " Apr "
        case 5: " May "
        case 6: " Jun "
        case 7: " Jul "
        case 8: " Aug "
        case 9: " Sep "
        case 10: " Oct "
        case 11: " Nov "
        default: " Dec "
        }
    }
}
