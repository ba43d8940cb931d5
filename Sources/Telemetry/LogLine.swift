// One log line in the making: JSON for machines, or a plain form for a person at a terminal.
//
// Why bounded: a line is written with one `write` of at most 4,096 bytes, which a pipe takes whole, so that lines of several
// processes never mix. A value that is too long is cut and ends in "…"; a field without room is left out; either way the
// line says so with `cut`.
//
// Invariants: whatever the values are, a finished line is one line, and in the JSON form one valid JSON object.

public import Base
import Memory

/// How log lines look.
public enum LogFormat: Sendable {
    /// One JSON object a line.
    case json
    /// For a person: time, level, subsystem, text, then name=value.
    case human
}

/// Bounds of a line.
public enum LogLimits {
    /// A whole line with its newline: what a pipe takes in one piece.
    public static let lineBytesMax = 4_096
    /// A text value. Longer ones are cut.
    public static let fieldBytesMax = 1_024
    /// One object of headers, so that the request's leave room for the answer's.
    public static let headersBytesMax = 1_536
    /// What headers leave free for the fields behind them.
    static let headersReserveBytes = 160
    /// Objects in objects.
    public static let depthMax = 4
}

/// A line to which fields are added. The logger makes and writes it.
public struct LogLine: ~Copyable {
    private let format: LogFormat
    private var buffer = ByteBuffer()
    /// The text of the second of the last line.
    private var secondStamp: [UInt8] = []
    private var secondOfStamp: UInt64 = 0
    /// Objects that are open inside the line.
    private var depth = 0
    /// Objects that were begun without room for them: all until their end is skipped.
    private var skipped = 0
    /// Whether the innermost object has no field yet.
    private var isFirst = true
    private var isCut = false
    /// Where the line must end, all but its tail. Lower while headers are added.
    private var ceiling = LogLimits.lineBytesMax

    /// Bytes that a line needs beyond its fields: the mark, and the ends of all objects, and the newline.
    private static let tailBytes = 16 + LogLimits.depthMax

    init(format: LogFormat) { self.format = format }

    /// Begins a line. What was in it is gone.
    mutating func begin(level: LogLevel, unixNanoseconds: UInt64, subsystem: StaticString, text: StaticString) {
        buffer.removeAll()
        depth = 0
        skipped = 0
        isFirst = true
        isCut = false
        ceiling = LogLimits.lineBytesMax
        switch format {
        case .json:
            buffer.append(LogLine.beginning(level))
            stamp(unixNanoseconds)
            buffer.append("\"" as StaticString)
            isFirst = false
            field("subsystem", subsystem)
            field("msg", text)
        case .human:
            stamp(unixNanoseconds)
            buffer.append(" " as StaticString)
            buffer.append(LogLine.label(level))
            buffer.append(subsystem)
            buffer.append(": " as StaticString)
            buffer.append(text)
            isFirst = false
        }
    }

    /// Ends the line and gives its bytes, newline included, to `write`.
    mutating func finish(_ write: (Span<UInt8>) -> Bool) -> Bool {
        skipped = 0
        while depth > 0 { endObject() }
        if isCut { buffer.append(format == .json ? ",\"cut\":true" as StaticString : " cut=true" as StaticString) }
        if format == .json { buffer.append("}" as StaticString) }
        buffer.append("\n" as StaticString)
        return write(buffer.span)
    }

    /// Appends the time. A second's text serves all its lines.
    private mutating func stamp(_ unixNanoseconds: UInt64) {
        let (second, rest) = unixNanoseconds.quotientAndRemainder(dividingBy: 1_000_000_000)
        if second != secondOfStamp || secondStamp.isEmpty {
            var text = ByteBuffer()
            Timestamp.append(unixSeconds: second, into: &text)
            secondStamp = [UInt8](copying: text.span)
            secondOfStamp = second
        }
        let stamp = secondStamp
        buffer.append(stamp.span)
        Timestamp.appendMilliseconds(rest / 1_000_000, into: &buffer)
    }

    private static func beginning(_ level: LogLevel) -> StaticString {
        switch level {
        case .debug: "{\"level\":\"debug\",\"ts\":\""
        case .info: "{\"level\":\"info\",\"ts\":\""
        case .warn: "{\"level\":\"warn\",\"ts\":\""
        case .error: "{\"level\":\"error\",\"ts\":\""
        }
    }

    private static func label(_ level: LogLevel) -> StaticString {
        switch level {
        case .debug: "DEBUG "
        case .info: "INFO  "
        case .warn: "WARN  "
        case .error: "ERROR "
        }
    }

    // MARK: Fields

    /// Adds text. It may come from a stranger and hold anything.
    public mutating func field(_ name: StaticString, _ value: String) {
        field(name, value.utf8Span.span)
    }

    /// Adds a literal.
    public mutating func field(_ name: StaticString, _ value: StaticString) {
        guard hasRoom(name.utf8CodeUnitCount + value.utf8CodeUnitCount + 8) else { return }
        separate(name)
        quote()
        buffer.append(value)
        quote()
    }

    /// Adds text given as bytes; what is not UTF-8 is replaced.
    public mutating func field(_ name: StaticString, _ value: Span<UInt8>) {
        guard hasRoom(name.utf8CodeUnitCount + 32) else { return }
        separate(name)
        appendText(value)
    }

    /// Adds a number.
    public mutating func field(_ name: StaticString, _ value: Int) {
        guard hasRoom(name.utf8CodeUnitCount + 32) else { return }
        separate(name)
        if value < 0 { buffer.append("-" as StaticString) }
        buffer.appendDecimal(UInt64(value.magnitude))
    }

    /// Adds a number.
    public mutating func field(_ name: StaticString, _ value: UInt64) {
        guard hasRoom(name.utf8CodeUnitCount + 32) else { return }
        separate(name)
        buffer.appendDecimal(value)
    }

    /// Adds a truth value.
    public mutating func field(_ name: StaticString, _ value: Bool) {
        guard hasRoom(name.utf8CodeUnitCount + 16) else { return }
        separate(name)
        buffer.append(value ? "true" as StaticString : "false" as StaticString)
    }

    /// Adds a duration as Go writes it.
    public mutating func field(_ name: StaticString, _ value: Duration) {
        field(name, GoDuration.text(value))
    }

    /// Adds an address.
    public mutating func field(_ name: StaticString, _ value: IPAddress) {
        if let text = value.shortText { field(name, text) } else { field(name, value.description) }
    }

    private mutating func field(_ name: StaticString, _ value: ShortText) {
        guard format == .json else { return field(name, value.span) }
        guard hasRoom(name.utf8CodeUnitCount + ShortText.bytesMax + 8) else { return }
        separate(name)
        quote()
        buffer.append(value.span)
        quote()
    }

    /// Adds a list of texts.
    public mutating func field(_ name: StaticString, _ values: [String]) {
        guard hasRoom(name.utf8CodeUnitCount + 32) else { return }
        separate(name)
        buffer.append("[" as StaticString)
        for (index, value) in values.enumerated() {
            guard hasRoom(32) else { break }
            if index > 0 { buffer.append("," as StaticString) }
            appendText(value.utf8Span.span)
        }
        buffer.append("]" as StaticString)
    }

    /// Begins an object: fields until `endObject` are in it. At most `LogLimits.depthMax` deep.
    public mutating func beginObject(_ name: StaticString) {
        if skipped > 0 || depth == LogLimits.depthMax || !hasRoom(name.utf8CodeUnitCount + 32) {
            skipped += 1
            return
        }
        separate(name)
        buffer.append("{" as StaticString)
        depth += 1
        isFirst = true
    }

    /// Ends the innermost object.
    public mutating func endObject() {
        if skipped > 0 {
            skipped -= 1
            return
        }
        precondition(depth > 0, "endObject without beginObject")
        buffer.append("}" as StaticString)
        depth -= 1
        isFirst = false
    }

    // MARK: Parts of a field, also for headers

    /// Whether a field of so many bytes fits; if not, the line is marked.
    mutating func hasRoom(_ length: Int) -> Bool {
        if skipped == 0 && buffer.count + length + LogLine.tailBytes <= ceiling { return true }
        isCut = true
        return false
    }

    private mutating func separate(_ name: StaticString) {
        beginField()
        buffer.append(name)
        endName()
    }

    private mutating func beginField() {
        switch (format, isFirst) {
        case (.json, false): buffer.append(",\"" as StaticString)
        case (.json, true): quote()
        case (.human, false): buffer.append(UInt8(ascii: " "))
        case (.human, true): break
        }
        isFirst = false
    }

    private mutating func endName() {
        buffer.append(format == .json ? "\":" as StaticString : "=" as StaticString)
    }

    private mutating func quote() {
        if format == .json { buffer.append(UInt8(ascii: "\"")) }
    }

    /// Bounds what headers take until `endHeaders`.
    mutating func beginHeaders() {
        ceiling = min(LogLimits.lineBytesMax - LogLimits.headersReserveBytes, buffer.count + LogLimits.headersBytesMax)
    }

    mutating func endHeaders() { ceiling = LogLimits.lineBytesMax }

    /// Begins a list whose name is a header's: `content-type` as `Content-Type`.
    mutating func beginList(header name: Span<UInt8>) {
        beginField()
        let start = buffer.count
        if TextEscape.append(name, max: min(room, 256), into: &buffer) < name.count { isCut = true }
        // A name has nothing that is escaped (RFC 9110 section 5.1); if it had, the escape's letters would not matter.
        var text = buffer.mutableSpan
        var isStart = true
        for index in start..<text.count {
            let byte = HeaderFilter.lowercased(text[index])
            text[index] = isStart && byte >= 97 && byte <= 122 ? byte - 32 : byte
            isStart = byte == 0x2d
        }
        endName()
        if format == .json { buffer.append("[" as StaticString) }
    }

    /// Adds to a list; false when there was no room.
    mutating func listItem(_ value: Span<UInt8>, isFirst: Bool) -> Bool {
        guard hasRoom(32) else { return false }
        if !isFirst { buffer.append("," as StaticString) }
        appendText(value)
        return true
    }

    mutating func endList() {
        if format == .json { buffer.append("]" as StaticString) }
    }

    /// What a value may take, its quotes and mark not counted.
    private var room: Int { max(0, ceiling - LogLine.tailBytes - buffer.count - 8) }

    private mutating func appendText(_ value: Span<UInt8>) {
        let isBare = format == .human && LogLine.isPlainWord(value)
        if !isBare { buffer.append(UInt8(ascii: "\"")) }
        let taken = TextEscape.append(value, max: min(LogLimits.fieldBytesMax, room), into: &buffer)
        if taken < value.count {
            buffer.append("\u{2026}" as StaticString)
            isCut = true
        }
        if !isBare { buffer.append(UInt8(ascii: "\"")) }
    }

    /// Whether a value reads well without quotes.
    private static func isPlainWord(_ value: Span<UInt8>) -> Bool {
        if value.isEmpty { return false }
        for index in 0..<value.count {
            switch value[index] {
            case 0x21, 0x23...0x3c, 0x3e...0x5b, 0x5d...0x7e: continue
            default: return false
            }
        }
        return true
    }
}
