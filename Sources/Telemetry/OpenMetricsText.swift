// The metrics text as OpenMetrics 1.0 has it (https://openmetrics.io, what Prometheus asks for first): a family of counters is named
// without `_total`, bounds of buckets are written as floating-point numbers, buckets may have an exemplar, and the text has an end.

public import Memory

/// A request that stands for those of its bucket.
public struct Exemplar: Equatable, Sendable {
    /// The trace's number, its higher half and its lower.
    public var high: UInt64
    public var low: UInt64
    /// What was observed, in nanoseconds, and when: nanoseconds since 1970.
    public var nanoseconds: UInt64
    public var at: UInt64

    public init(high: UInt64, low: UInt64, nanoseconds: UInt64, at: UInt64) {
        self.high = high
        self.low = low
        self.nanoseconds = nanoseconds
        self.at = at
    }
}

/// The last request of each bucket of the time to the first byte.
public struct Exemplars: Sendable {
    private var buckets = [Exemplar?](repeating: nil, count: LatencyHistogram.bounds.count + 1)

    public init() {}

    /// Notes a request.
    public mutating func note(_ exemplar: Exemplar) {
        var bucket = 0
        while bucket < LatencyHistogram.bounds.count, exemplar.nanoseconds > LatencyHistogram.bounds[bucket] { bucket += 1 }
        buckets[bucket] = exemplar
    }

    subscript(_ bucket: Int) -> Exemplar? { buckets.indices.contains(bucket) ? buckets[bucket] : nil }
}

/// Turns one text into the other.
public enum OpenMetricsText {
    /// The media type of the text.
    public static let contentType: StaticString = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    private static let exemplified = Array("piko_proxy_time_to_first_byte_seconds_bucket{".utf8)
    private static let help = Array("# HELP ".utf8), type = Array("# TYPE ".utf8), counter = Array(" counter".utf8)
    private static let total = Array("_total".utf8), bound = Array("le=\"".utf8), bucketEnd = Array("_bucket".utf8)

    /// Appends the end, behind which nothing may come.
    public static func end(_ output: inout ByteBuffer) { output.append("# EOF\n" as StaticString) }

    /// Appends a text of whole families as OpenMetrics. They have a HELP line and a TYPE line behind it, as `MetricsText` and
    /// `MetricsWriter` write.
    public static func write(_ text: Span<UInt8>, _ exemplars: Exemplars, into output: inout ByteBuffer) {
        var start = 0
        var bucket = 0
        var heldHelp: Range<Int>?
        while start < text.count {
            var end = start
            while end < text.count, text[end] != UInt8(ascii: "\n") { end += 1 }
            let line = text.extracting(start..<end)
            if begins(line, help) {
                heldHelp = start..<end
            } else if begins(line, type) {
                let isCounter = ends(line, counter)
                if let heldHelp { family(text.extracting(heldHelp), isCounter, &output) }
                family(line, isCounter, &output)
                heldHelp = nil
            } else {
                let isExemplified = begins(line, exemplified)
                sample(line, &output)
                if isExemplified, let exemplar = exemplars[bucket] { append(exemplar, &output) }
                bucket = isExemplified ? bucket + 1 : 0
                output.append(UInt8(ascii: "\n"))
            }
            start = end + 1
        }
    }

    /// A line about a family: of counters without the end of the name.
    private static func family(_ line: Span<UInt8>, _ isCounter: Bool, _ output: inout ByteBuffer) {
        var end = help.count
        while end < line.count, line[end] != UInt8(ascii: " ") { end += 1 }
        let isCut = isCounter && ends(line.extracting(0..<end), total)
        output.append(line.extracting(0..<(isCut ? end - total.count : end)))
        output.append(line.extracting(end..<line.count))
        output.append(UInt8(ascii: "\n"))
    }

    /// A sample, with its bucket's bound as a floating-point number.
    private static func sample(_ line: Span<UInt8>, _ output: inout ByteBuffer) {
        guard isOfBucket(line), let place = place(of: bound, in: line) else { return output.append(line) }
        var end = place + bound.count
        var isWhole = true
        while end < line.count, line[end] != UInt8(ascii: "\"") {
            if !(48...57).contains(line[end]) { isWhole = false }
            end += 1
        }
        output.append(line.extracting(0..<end))
        if isWhole { output.append(".0" as StaticString) }
        output.append(line.extracting(end..<line.count))
    }

    private static func append(_ exemplar: Exemplar, _ output: inout ByteBuffer) {
        output.append(" # {trace_id=\"" as StaticString)
        for shift in stride(from: 124, through: 0, by: -4) {
            let digit = ((shift >= 64 ? exemplar.high : exemplar.low) >> UInt64(shift % 64)) & 15
            output.append(UInt8(digit < 10 ? 48 + digit : 87 + digit))
        }
        output.append("\"} " as StaticString)
        MetricsText.seconds(exemplar.nanoseconds, &output)
        output.append(" " as StaticString)
        MetricsText.seconds(exemplar.at, &output)
    }

    private static func begins(_ line: Span<UInt8>, _ text: [UInt8]) -> Bool {
        guard line.count >= text.count else { return false }
        for index in text.indices where line[index] != text[index] { return false }
        return true
    }

    private static func ends(_ line: Span<UInt8>, _ text: [UInt8]) -> Bool {
        line.count >= text.count && begins(line.extracting((line.count - text.count)..<line.count), text)
    }

    /// Whether the name, which has labels behind it, ends as those of buckets do.
    private static func isOfBucket(_ line: Span<UInt8>) -> Bool {
        for index in line.indices where line[index] == UInt8(ascii: "{") { return ends(line.extracting(0..<index), bucketEnd) }
        return false
    }

    /// Where the label of a bucket's bound is: behind the last brace or comma, for values may hold anything.
    private static func place(of text: [UInt8], in line: Span<UInt8>) -> Int? {
        var place = line.count - text.count
        while place > 0 {
            if line[place] == text[0], line[place - 1] == UInt8(ascii: "{") || line[place - 1] == UInt8(ascii: ","),
                begins(line.extracting(place..<line.count), text)
            {
                return place
            }
            place -= 1
        }
        return nil
    }
}
