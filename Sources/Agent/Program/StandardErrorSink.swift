// Where the log goes: the inherited stderr, line by line, without ever waiting for whoever reads it.

internal import Reactor
internal import Telemetry

/// Lines to stderr; those that it does not take at once are dropped.
final class StandardErrorSink: LogSink {
    override func write(_ line: Span<UInt8>) -> Bool { InheritedOutput.writeReady(descriptor: 2, bytes: line) }
}
