// What a request is known by on its way, in logs of all who saw it: `traceparent` (W3C Trace Context level 1) and `x-request-id`.
//
// A request that brings a `traceparent` keeps it, and its `tracestate`, unchanged: we make no spans, so nothing of ours stands between
// the caller and the service. One without gets one; so does one whose `traceparent` is wrong or not the only one, and what stands in
// `tracestate` then belongs to nothing and ends here (section 4 there). The made one says `01`, sampled: our log line is the
// record, and services whose sampler follows its caller would write nothing down with `00`.
//
// Invariant: the numbers of a trace and of a caller are never zero where there are any.

import Memory

/// Where random numbers for identifiers come from: fast, seeded from the system's generator, and no secret.
public struct TraceNumbers: RandomNumberGenerator, Sendable {
    private var state: (UInt64, UInt64, UInt64, UInt64)

    /// Seeds it.
    public init(using generator: inout some RandomNumberGenerator) {
        state = (generator.next() | 1, generator.next(), generator.next(), generator.next())
    }

    /// Seeds it from the system's generator.
    public init() {
        var system = SystemRandomNumberGenerator()
        self.init(using: &system)
    }

    /// xoshiro256**, of Blackman and Vigna.
    public mutating func next() -> UInt64 {
        let product = state.1 &* 5
        let result = (product << 7 | product >> 57) &* 9
        let shifted = state.1 << 17
        state.2 ^= state.0
        state.3 ^= state.1
        state.1 ^= state.2
        state.0 ^= state.3
        state.2 ^= shifted
        state.3 = state.3 << 45 | state.3 >> 19
        return result
    }

    fileprivate mutating func nextNotZero() -> UInt64 {
        let number = next()
        return number == 0 ? 1 : number
    }
}

/// What one request is known by.
public struct RequestTrace: Equatable, Sendable {
    /// The trace's number, its higher half first; both zero: there is none.
    public private(set) var high: UInt64 = 0
    public private(set) var low: UInt64 = 0
    /// The caller's number, in a `traceparent` that we made.
    public private(set) var parent: UInt64 = 0
    /// Whether the request brought a `traceparent` that goes on.
    public private(set) var isBrought = false
    /// Whether what the request did not bring was made, and goes on with it.
    public private(set) var isComplete = false
    /// Where the request's own `x-request-id` lies in its head; nil: it has none that goes on.
    public private(set) var requestID: Range<Int>?

    /// The longest `x-request-id` that is taken from a client.
    public static let requestIDBytesMax = 128

    /// Nothing is known.
    public init() {}

    /// What the request brings.
    public init(_ head: borrowing Head, _ bytes: Span<UInt8>) {
        if let range = Self.onlyValue(.traceparent, head), let trace = TraceParent(bytes.extracting(range)) {
            (high, low) = (trace.high, trace.low)
            isBrought = true
        }
        if let range = Self.onlyValue(.xRequestID, head), Self.isSane(bytes.extracting(range)) { requestID = range }
    }

    /// Makes what the request did not bring.
    public mutating func complete(using numbers: inout TraceNumbers) {
        isComplete = true
        if isBrought { return }
        high = numbers.nextNotZero()
        low = numbers.nextNotZero()
        parent = numbers.nextNotZero()
    }

    /// Whether there is a trace.
    public var isKnown: Bool { high | low != 0 }

    /// The value of the only field of that name that Connection does not end here.
    private static func onlyValue(_ known: KnownHeader, _ head: borrowing Head) -> Range<Int>? {
        guard head.contains(known), head.count(of: known) == 1, let index = head.firstIndex(of: known),
            !head.isConnectionNamed(index)
        else { return nil }
        return head.fields[index].value
    }

    /// Visible ASCII, and not too much.
    private static func isSane(_ value: Span<UInt8>) -> Bool {
        guard !value.isEmpty, value.count <= requestIDBytesMax else { return false }
        for index in 0..<value.count where value[index] < 0x21 || value[index] > 0x7e { return false }
        return true
    }

    /// The trace's number as 32 digits.
    public var id: InlineArray<32, UInt8> {
        InlineArray { Self.digit($0 < 16 ? high : low, $0 & 15) }
    }

    /// Whether a field that came goes on as it came.
    func keeps(_ known: KnownHeader) -> Bool { known == .xRequestID ? requestID != nil : isBrought }

    /// Appends the lines of what was made.
    func writeFields(into output: inout ByteBuffer) {
        if !isBrought {
            output.append("traceparent: 00-")
            let id = self.id
            output.append(id.span)
            output.append("-")
            for index in 0..<16 { output.append(Self.digit(parent, index)) }
            output.append("-01\r\n")
        }
        if requestID == nil {
            output.append("x-request-id: ")
            let id = self.id
            output.append(id.span)
            output.append("\r\n")
        }
    }

    /// One of the 16 digits of a number, the highest first.
    private static func digit(_ number: UInt64, _ index: Int) -> UInt8 {
        let value = UInt8(truncatingIfNeeded: number &>> UInt64(60 - 4 * index)) & 15
        return value < 10 ? 48 + value : 87 + value
    }
}

/// The value of `traceparent` (W3C Trace Context level 1, section 3.2).
struct TraceParent: Equatable {
    private(set) var high: UInt64 = 0
    private(set) var low: UInt64 = 0

    /// Bytes of version 00, and the least of every later one.
    private static let bytes = 55

    /// Reads it; nil when it is not valid. Of a later version only what version 00 has is looked at.
    init?(_ value: Span<UInt8>) {
        guard value.count >= Self.bytes, value[2] == 0x2d, value[35] == 0x2d, value[52] == 0x2d,
            let version = Self.number(value, 0..<2), version != 0xff,
            value.count == Self.bytes || version > 0 && value[Self.bytes] == 0x2d,
            let high = Self.number(value, 3..<19), let low = Self.number(value, 19..<35), high | low != 0,
            let parent = Self.number(value, 36..<52), parent != 0, Self.number(value, 53..<55) != nil
        else { return nil }
        self.high = high
        self.low = low
    }

    /// Digits in lower case, at most 16 of them.
    private static func number(_ value: Span<UInt8>, _ range: Range<Int>) -> UInt64? {
        var number: UInt64 = 0
        for index in range {
            let byte = value[index]
            switch byte {
            case 0x30...0x39: number = number << 4 | UInt64(byte - 0x30)
            case 0x61...0x66: number = number << 4 | UInt64(byte - 0x57)
            default: return nil
            }
        }
        return number
    }
}
