// The logger of a process: decides whether a line is wanted, makes it, and hands it to a sink.
//
// Why a sink of its own: this module touches no descriptor. The program's sink writes the line with one call that never
// waits; when the pipe is full the line is dropped and counted, and the event loop goes on.

public import Base

/// Where finished lines go.
open class LogSink {
    public init() {}

    /// Takes a finished line of at most `LogLimits.lineBytesMax` bytes; false when it had to be dropped.
    open func write(_ line: Span<UInt8>) -> Bool { true }
}

/// Which lines are wanted and how they look.
public struct LogSettings: Sendable {
    /// Lines below this level are not written.
    public var level: LogLevel
    /// Subsystems of which every line is written, by exact name. Unknown names are without effect.
    public var subsystems: [String]
    public var format: LogFormat

    public init(level: LogLevel = .info, subsystems: [String] = [], format: LogFormat = .json) {
        self.level = level
        self.subsystems = subsystems
        self.format = format
    }
}

/// Writes log lines. One for each process; not thread-safe. A line must not be logged while another's fields are added.
public final class Logger {
    private var level: LogLevel
    /// A bit for each subsystem that logs everything.
    private var verbose: UInt32
    private let clock: () -> UInt64
    private let sink: LogSink
    private var line: LogLine
    private var combined = CombinedLine()
    /// The worker whose lines these are.
    private let worker: UInt32?
    /// Where dropped lines are counted besides, once there are counters.
    public var counters: Counters?
    /// Lines that the sink did not take.
    public private(set) var dropped: UInt64 = 0

    /// `clock` gives nanoseconds since 1970. `worker`, if any, is added to each line.
    public init(settings: LogSettings, worker: UInt32? = nil, clock: @escaping () -> UInt64, sink: LogSink) {
        level = settings.level
        verbose = Logger.mask(settings.subsystems)
        self.worker = worker
        self.clock = clock
        self.sink = sink
        line = LogLine(format: settings.format)
    }

    /// Other lines are wanted from now on; their form stays.
    public func change(level: LogLevel, subsystems: [String]) {
        self.level = level
        verbose = Logger.mask(subsystems)
    }

    private static func mask(_ subsystems: [String]) -> UInt32 {
        var mask: UInt32 = 0
        for subsystem in Subsystem.allCases where subsystems.contains("\(subsystem.name)") {
            mask |= 1 << UInt32(subsystem.rawValue)
        }
        return mask
    }

    /// Whether a line would be written: for those who would have to gather much for it.
    public func isEnabled(_ level: LogLevel, _ subsystem: Subsystem) -> Bool {
        level >= self.level || verbose & (1 << UInt32(subsystem.rawValue)) != 0
    }

    /// Writes a line, if it is wanted; `fields` is called only then.
    public func log(
        _ level: LogLevel, _ subsystem: Subsystem, _ text: StaticString, _ fields: (inout LogLine) -> Void = { _ in }
    ) {
        guard isEnabled(level, subsystem) else { return }
        line.begin(level: level, unixNanoseconds: clock(), subsystem: subsystem.name, text: text)
        if let worker { line.field("worker", UInt64(worker)) }
        fields(&line)
        let sink = sink
        note(wasTaken: line.finish { sink.write($0) })
    }

    /// Writes a request's line in Apache's combined format, if it is wanted. What is not there is empty.
    public func combined(
        _ level: LogLevel, _ subsystem: Subsystem, _ entry: CombinedEntry, method: Span<UInt8>, target: Span<UInt8>,
        referer: Span<UInt8>, userAgent: Span<UInt8>
    ) {
        guard isEnabled(level, subsystem) else { return }
        var entry = entry
        entry.unixNanoseconds = clock()
        combined.fill(entry, method: method, target: target, referer: referer, userAgent: userAgent)
        note(wasTaken: combined.write(sink))
    }

    private func note(wasTaken: Bool) {
        if wasTaken { return }
        dropped += 1
        counters?.add(.logLinesDropped)
    }

    public func debug(_ subsystem: Subsystem, _ text: StaticString, _ fields: (inout LogLine) -> Void = { _ in }) {
        log(.debug, subsystem, text, fields)
    }

    public func info(_ subsystem: Subsystem, _ text: StaticString, _ fields: (inout LogLine) -> Void = { _ in }) {
        log(.info, subsystem, text, fields)
    }

    public func warn(_ subsystem: Subsystem, _ text: StaticString, _ fields: (inout LogLine) -> Void = { _ in }) {
        log(.warn, subsystem, text, fields)
    }

    public func error(_ subsystem: Subsystem, _ text: StaticString, _ fields: (inout LogLine) -> Void = { _ in }) {
        log(.error, subsystem, text, fields)
    }
}
