// What the tests of HTTP/1 share: feeding a parser whole, byte by byte and split at every offset, and reading results.

import Memory
import Testing
import Wire

/// The bytes of a text, one for each scalar below 256, so that rows may hold any byte.
func latin1(_ text: String) -> [UInt8] { text.unicodeScalars.map { UInt8($0.value) } }

/// The text of a buffer, one scalar for each byte.
func text(_ buffer: borrowing ByteBuffer) -> String { text(buffer.span, 0..<buffer.count) }

/// The text of a range, one scalar for each byte.
func text(_ bytes: Span<UInt8>, _ range: Range<Int>) -> String {
    var result = String.UnicodeScalarView()
    for index in range { result.append(UnicodeScalar(bytes[index])) }
    return String(result)
}

/// How the bytes of a row arrive: the ends of the pieces that have come so far.
func arrivals(_ count: Int) -> [[Int]] {
    var result = [[count], Array(0...count)]
    for split in 0..<count { result.append([split, count]) }
    return result
}

/// What became of a head.
enum HeadOutcome: Equatable, CustomStringConvertible {
    case complete(Head)
    case incomplete
    case refused(Int, String)

    static func == (left: HeadOutcome, right: HeadOutcome) -> Bool { left.description == right.description }

    var description: String {
        switch self {
        case .complete(let head): "complete \(head)"
        case .incomplete: "incomplete"
        case .refused(let status, let reason): "refused \(status) \(reason)"
        }
    }

    var head: Head? { if case .complete(let head) = self { head } else { nil } }
    var status: Int? { if case .refused(let status, _) = self { status } else { nil } }
}

/// Parses a head that arrives in pieces, with one parser and one head value used again for every arrival.
func parseHead(_ bytes: [UInt8], kind: HeadKind, limits: HeadLimits = HeadLimits(), arrival: [Int]) -> HeadOutcome {
    var parser = HeadParser(kind: kind, limits: limits)
    var head = Head()
    do throws(HTTPError) {
        for end in arrival where try parser.parse(bytes.span.extracting(0..<end), into: &head) == .complete {
            return .complete(head)
        }
        return .incomplete
    } catch {
        return .refused(error.status, "\(error.reason)")
    }
}

/// Parses a head in every way in which it can arrive, and expects the same outcome each time.
func parseHead(_ text: String, kind: HeadKind = .request, limits: HeadLimits = HeadLimits()) -> HeadOutcome {
    let bytes = latin1(text)
    let whole = parseHead(bytes, kind: kind, limits: limits, arrival: [bytes.count])
    for arrival in arrivals(bytes.count) {
        let outcome = parseHead(bytes, kind: kind, limits: limits, arrival: arrival)
        #expect(outcome == whole, "arrival \(arrival) of \(text.debugDescription)")
    }
    return whole
}
