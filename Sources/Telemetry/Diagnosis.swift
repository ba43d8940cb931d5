// What a diagnosis command found, as a table for people and as JSON.

internal import Base
internal import Memory

/// The checks of one diagnosis, in order.
public struct Diagnosis: Sendable {
    /// How a check came out.
    public enum Verdict: String, Sendable {
        case ok
        /// Worth knowing.
        case note
        /// It works, and may not under load, or for long.
        case warn
        /// It does not work.
        case fail
        /// Something that it needs failed before.
        case skipped
    }

    /// One check.
    public struct Check: Equatable, Sendable {
        public var name: String
        public var verdict: Verdict
        /// What was found, in a few lines at most.
        public var found: String
        /// What to do; empty: nothing.
        public var hint: String
        /// What it took; nil: not measured.
        public var time: Duration?

        public init(_ name: String, _ verdict: Verdict, _ found: String, hint: String = "", time: Duration? = nil) {
            self.name = name
            self.verdict = verdict
            self.found = found
            self.hint = hint
            self.time = time
        }
    }

    /// How it is printed.
    public enum Format: String, Sendable {
        case table, json
    }

    public private(set) var checks: [Check] = []

    public init() {}

    /// Adds a check; one that failed without a hint gets that of the table, if there is one.
    public mutating func add(_ check: Check) {
        var check = check
        if check.hint.isEmpty, check.verdict == .fail || check.verdict == .warn { check.hint = Hints.hint(for: check.found) ?? "" }
        checks.append(check)
    }

    public mutating func add(_ name: String, _ verdict: Verdict, _ found: String, hint: String = "", time: Duration? = nil) {
        add(Check(name, verdict, found, hint: hint, time: time))
    }

    /// Whether nothing failed.
    public var isGood: Bool { !checks.contains { $0.verdict == .fail } }

    /// The text to print.
    public func text(_ format: Format) -> String {
        switch format {
        case .table: table
        case .json: json
        }
    }

    private var table: String {
        let width = checks.reduce(0) { max($0, $1.name.count) }
        let isTimed = checks.contains { $0.time != nil }
        let margin = String(repeating: " ", count: 9 + (isTimed ? 12 : 0) + width + 2)
        var text = ""
        for check in checks {
            var line = Self.pad(check.verdict.rawValue, 9)
            if isTimed { line += Self.padLeft(check.time.map { "\(Self.milliseconds($0)) ms" } ?? "", 10) + "  " }
            line += Self.pad(check.name, width + 2)
            let found = check.found.split(separator: "\n", omittingEmptySubsequences: false).map(Self.plain)
            text += Self.trimmed(line + (found.first ?? "")) + "\n"
            for more in found.dropFirst() { text += margin + more + "\n" }
            if !check.hint.isEmpty { text += margin + "-> " + Self.plain(check.hint) + "\n" }
        }
        let failures = checks.count { $0.verdict == .fail }
        let warnings = checks.count { $0.verdict == .warn }
        return text + "\n\(failures) failed, \(warnings) to be looked at, \(checks.count { $0.verdict == .ok }) in order\n"
    }

    private var json: String {
        let list = checks.map { check in
            var members = [
                JSONMember("check", .string(check.name)), JSONMember("result", .string(check.verdict.rawValue)),
                JSONMember("found", .string(check.found)),
            ]
            if let time = check.time { members.append(JSONMember("time_ms", .number(Double(Self.microseconds(time)) / 1_000))) }
            if !check.hint.isEmpty { members.append(JSONMember("hint", .string(check.hint))) }
            return JSONValue.object(members)
        }
        var buffer = ByteBuffer()
        JSONValue.object([JSONMember("ok", .bool(isGood)), JSONMember("checks", .array(list))]).write(into: &buffer)
        return String(decoding: [UInt8](copying: buffer.span), as: UTF8.self) + "\n"
    }

    private static func microseconds(_ time: Duration) -> Int64 {
        time.components.seconds * 1_000_000 + time.components.attoseconds / 1_000_000_000_000
    }

    /// With one digit behind the point.
    public static func milliseconds(_ time: Duration) -> String {
        let tenths = (microseconds(time) + 50) / 100
        return "\(tenths / 10).\(tenths % 10)"
    }

    private static func pad(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(0, width - text.count))
    }

    private static func padLeft(_ text: String, _ width: Int) -> String {
        String(repeating: " ", count: max(0, width - text.count)) + text
    }

    private static func trimmed(_ line: String) -> String {
        var line = line
        while line.last == " " { line.removeLast() }
        return line
    }

    /// Without control characters, and such as turn the direction of text: texts come from other machines.
    public static func plain(_ text: some StringProtocol) -> String {
        var output = ""
        for scalar in text.unicodeScalars {
            output.unicodeScalars.append(isShown(scalar) ? scalar : "?")
        }
        return output
    }
}

extension Diagnosis {
    private static func isShown(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.value {
        case ..<0x20, 0x7f...0x9f, 0x200e...0x200f, 0x2028...0x202e, 0x2066...0x2069: false
        default: true
        }
    }

    /// A time in words, rounded down.
    public static func span(_ seconds: UInt64) -> String {
        switch seconds {
        case ..<120: "\(seconds) s"
        case ..<7_200: "\(seconds / 60) minutes"
        case ..<172_800: "\(seconds / 3_600) hours"
        default: "\(seconds / 86_400) days"
        }
    }

    /// How long before its end a certificate is to be renewed.
    static let renewalSeconds: Int64 = 14 * 86_400

    /// A certificate's time, all in seconds since 1970: what to say, and how good that is.
    public static func validity(notBefore: Int64, notAfter: Int64, now: Int64) -> (text: String, verdict: Verdict, hint: String) {
        let end = "valid until \(Timestamp.text(unixSeconds: UInt64(max(0, notAfter))))"
        if notAfter <= now { return ("\(end): expired \(span(UInt64(now - notAfter))) ago", .fail, "renew it, or set the clock of this machine") }
        if notBefore > now {
            return ("\(end): not valid for another \(span(UInt64(notBefore - now)))", .fail, "set the clock of this machine, if it is slow")
        }
        let left = span(UInt64(notAfter - now))
        return ("\(end) (\(left))", notAfter - now < renewalSeconds ? .warn : .ok, notAfter - now < renewalSeconds ? "renew it" : "")
    }
}
