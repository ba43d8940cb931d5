// What the fuzzer drives and what `swift test` replays: one entry for each parser that reads bytes from outside.
//
// Each target takes any bytes and traps when a property fails. The main property is that of every parser here: however the
// bytes are cut into pieces, the outcome is the same. The others are written at the targets.

/// A parser under fuzzing. The raw value names its folder in Tests/Corpus.
public enum FuzzTarget: String, CaseIterable, Sendable {
    case head
    case chunked
    case websocket
    case yamux
    case yaml

    /// Runs one input.
    public func run(_ input: [UInt8]) {
        switch self {
        case .head: fuzzHead(input)
        case .chunked: fuzzChunked(input)
        case .websocket: fuzzWebSocket(input)
        case .yamux: fuzzYamux(input)
        case .yaml: fuzzYAML(input)
        }
    }
}

/// Cuts made of a few bytes of the input: the ends of pieces, rising, the last one `count`.
func pieceEnds(_ seed: Span<UInt8>, count: Int) -> [Int] {
    var ends: [Int] = []
    var end = 0
    for index in 0..<seed.count {
        end += Int(seed[index] % 64) + (seed[index] >= 0xF0 ? 997 : 0)
        if end >= count { break }
        ends.append(end)
    }
    ends.append(count)
    return ends
}
