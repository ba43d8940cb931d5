// The types that settings have: each reads itself from the text of a file or flag, and writes itself back.
//
// Invariant: for every value, `init(settingText: value.settingText)` gives the same value. The supervisor hands the
// configuration to its workers as text and relies on it.

internal import Base

/// A value that one key of a configuration can hold.
public protocol SettingValue: Equatable, Sendable {
    /// What help calls such a value: "DURATION".
    static var placeholder: String { get }
    /// Whether the value may be quoted in YAML. Numbers and truth values may not: in YAML a quoted one is a text.
    static var mayBeQuoted: Bool { get }
    /// Reads the value.
    init(settingText text: String) throws(SettingError)
    /// The value as it is written in a file.
    var settingText: String { get }
}

extension SettingValue {
    public static var mayBeQuoted: Bool { true }
}

extension String: SettingValue {
    public static var placeholder: String { "TEXT" }
    public init(settingText text: String) throws(SettingError) { self = text }
    public var settingText: String { self }
}

extension Bool: SettingValue {
    public static var placeholder: String { "BOOL" }
    public static var mayBeQuoted: Bool { false }

    public init(settingText text: String) throws(SettingError) {
        switch text {
        case "true", "True", "TRUE": self = true
        case "false", "False", "FALSE": self = false
        default: throw SettingError("is neither true nor false")
        }
    }

    public var settingText: String { self ? "true" : "false" }
}

extension Int: SettingValue {
    public static var placeholder: String { "NUMBER" }
    public static var mayBeQuoted: Bool { false }

    public init(settingText text: String) throws(SettingError) {
        let digits = text.utf8.first == UInt8(ascii: "-") ? text.utf8.dropFirst() : text.utf8[...]
        // Only one way to write a number: "010" is eight to some readers of YAML and ten to others.
        let isCanonical = !digits.isEmpty && digits.allSatisfy { $0 >= 48 && $0 <= 57 }
            && (digits.count == 1 || digits.first != 48)
        guard isCanonical, let number = Int(text) else { throw SettingError("is not a whole number") }
        self = number
    }

    public var settingText: String { String(self) }
}

/// A number with at most four digits after the point: "0.005".
extension Double: SettingValue {
    public static var placeholder: String { "NUMBER" }
    public static var mayBeQuoted: Bool { false }

    public init(settingText text: String) throws(SettingError) {
        let parts = text.utf8.split(separator: UInt8(ascii: "."), maxSplits: 1, omittingEmptySubsequences: false)
        let areDigits = parts.allSatisfy { !$0.isEmpty && $0.allSatisfy { $0 >= 48 && $0 <= 57 } }
        let isCanonical = areDigits && parts[0].count <= 9 && (parts[0].count == 1 || parts[0].first != 48)
            && (parts.count == 1 || parts[1].count <= 4)
        guard isCanonical, let number = Double(text) else {
            throw SettingError("is not a number with at most four digits after the point (for example 0.25)")
        }
        self = number
    }

    public var settingText: String {
        self == Double(Int(self)) ? String(Int(self)) : String(self)
    }
}

extension Duration: SettingValue {
    public static var placeholder: String { "DURATION" }

    public init(settingText text: String) throws(SettingError) {
        guard let duration = GoDuration.parse(text) else {
            throw SettingError("is not a duration (for example 30s, 1m30s)")
        }
        self = duration
    }

    public var settingText: String { GoDuration.format(self) }
}

/// A setting that is one of a few words.
protocol SettingWord: SettingValue, CaseIterable, RawRepresentable<String> {}

extension SettingWord {
    public static var placeholder: String { allCases.map(\.rawValue).joined(separator: "|") }

    public init(settingText text: String) throws(SettingError) {
        guard let word = Self(rawValue: text) else {
            let words = Self.allCases.map(\.rawValue)
            throw SettingError("is not one of \(words.dropLast().joined(separator: ", ")) and \(words.last ?? "")")
        }
        self = word
    }

    public var settingText: String { rawValue }
}

extension LogLevel: SettingWord {}
