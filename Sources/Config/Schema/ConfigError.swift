// What a person is told when a configuration is wrong.

/// Why a configuration can't be used. The message names the file and place, or the flag, where there is one.
public struct ConfigError: Error, Equatable, Sendable, CustomStringConvertible {
    public var message: String

    public init(_ message: String) { self.message = message }

    /// "config: MESSAGE", the line that programs print before they exit with status 1.
    public var description: String { "config: \(message)" }
}

/// Why a text is not a value of a type: the end of a sentence that starts with the text, such as
/// "is not a duration (for example 30s, 1m30s)".
public struct SettingError: Error, Equatable, Sendable {
    public var message: String

    public init(_ message: String) { self.message = message }
}
