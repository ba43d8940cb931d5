// How severe a log line is. In Base because both the configuration (which lines are wanted) and the logger (which
// lines are written) speak of it, and neither imports the other.

/// The severity of a log line, least severe first.
public enum LogLevel: String, CaseIterable, Comparable, Sendable {
    case debug, info, warn, error

    /// Whether `left` is less severe than `right`.
    @inlinable
    public static func < (left: LogLevel, right: LogLevel) -> Bool { left.order < right.order }

    @inlinable
    var order: UInt8 {
        switch self {
        case .debug: 0
        case .info: 1
        case .warn: 2
        case .error: 3
        }
    }
}
