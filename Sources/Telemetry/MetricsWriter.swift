// Metrics with labels that are known only while the program runs, in the Prometheus text format.

public import Memory

/// Writes families of metrics one after the other.
public struct MetricsWriter: ~Copyable {
    /// What was written.
    public var text = ByteBuffer()
    private var name: StaticString = ""

    /// What a family's values mean.
    public enum Kind: Sendable {
        case counter
        case gauge
        case histogram
    }

    public init() {}

    /// Begins a family; its values follow. `isBegun`: in a text before this one, of which this one is the next piece.
    public mutating func family(_ name: StaticString, _ kind: Kind, _ help: StaticString, isBegun: Bool = false) {
        self.name = name
        if isBegun { return }
        text.append("# HELP " as StaticString)
        text.append(name)
        text.append(" " as StaticString)
        text.append(help)
        text.append("\n# TYPE " as StaticString)
        text.append(name)
        switch kind {
        case .counter: text.append(" counter\n" as StaticString)
        case .gauge: text.append(" gauge\n" as StaticString)
        case .histogram: text.append(" histogram\n" as StaticString)
        }
    }

    /// A histogram of durations. `bounds` are in nanoseconds; `counts` are of the buckets, of what is beyond, and the sum.
    public mutating func histogram(_ name: StaticString, _ help: StaticString, _ bounds: [UInt64], _ counts: [UInt64]) {
        precondition(counts.count == bounds.count + 2, "a count for each bucket, one beyond, and the sum")
        family(name, .histogram, help)
        MetricsText.histogram(name, bounds, counts, &text)
    }

    /// A value of the family. Labels' names are plain; their values may be anything.
    public mutating func value(_ value: UInt64, _ labels: [(name: String, value: String)] = []) {
        begin(labels)
        text.appendDecimal(value)
        text.append("\n" as StaticString)
    }

    /// Nanoseconds as a value in seconds.
    public mutating func seconds(_ nanoseconds: UInt64, _ labels: [(name: String, value: String)] = []) {
        begin(labels)
        MetricsText.seconds(nanoseconds, &text)
        text.append("\n" as StaticString)
    }

    private mutating func begin(_ labels: [(name: String, value: String)]) {
        text.append(name)
        if !labels.isEmpty {
            var mark = "{"
            for label in labels {
                text.append(mark)
                text.append(label.name)
                text.append("=\"" as StaticString)
                for byte in label.value.utf8 { escape(byte) }
                text.append("\"" as StaticString)
                mark = ","
            }
            text.append("}" as StaticString)
        }
        text.append(" " as StaticString)
    }

    /// A gauge of one value.
    public mutating func gauge(_ name: StaticString, _ help: StaticString, _ value: UInt64) {
        family(name, .gauge, help)
        self.value(value)
    }

    /// A counter of one value.
    public mutating func counter(_ name: StaticString, _ help: StaticString, _ value: UInt64) {
        family(name, .counter, help)
        self.value(value)
    }

    private mutating func escape(_ byte: UInt8) {
        switch byte {
        case UInt8(ascii: "\\"): text.append("\\\\" as StaticString)
        case UInt8(ascii: "\""): text.append("\\\"" as StaticString)
        case UInt8(ascii: "\n"): text.append("\\n" as StaticString)
        default: text.append(byte)
        }
    }
}
