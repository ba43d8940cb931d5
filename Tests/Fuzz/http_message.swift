// Fuzz driver of HTTP/1.1: heads and chunked bodies. The tests of Wire compile this file too (by a symbolic link) and replay
// the corpus through `HTTPFuzz`.
//
// Input: a byte that says what follows (0 a request's head, 1 a response's, 2 a chunked body; 3, 4 and 5 the same under small
// limits); four bytes that cut; the bytes. They are read whole and in pieces, which must give the same. What we accept and write
// on must be read by ourselves as the same message again, and written again as it stands: a head that means one thing to us
// and another to the next reader is how requests are smuggled.

import Memory
import Wire

enum HTTPFuzz {
    /// What went wrong with this input; nil when nothing did.
    static func failure(of input: [UInt8]) -> String? {
        guard input.count > 5 else { return nil }
        let bytes = Array(input[5...])
        let arrivals = [cuts(input[1..<5], count: bytes.count), Array(0...bytes.count)]
        let isSmall = input[0] / 3 % 2 == 1
        let limits = isSmall ? HeadLimits(bytesMax: 160, fieldsMax: 4, targetBytesMax: 24) : HeadLimits()
        switch input[0] % 3 {
        case 0: return headFailure(bytes, kind: .request, limits: limits, arrivals)
        case 1: return headFailure(bytes, kind: .response, limits: limits, arrivals)
        default:
            let limits = isSmall ? ChunkLimits(extensionBytesMax: 8, trailerBytesMax: 32, trailersMax: 2) : ChunkLimits()
            return chunkFailure(bytes, limits: limits, arrivals)
        }
    }

    /// The ends of pieces, rising, the last one `count`.
    private static func cuts(_ seed: ArraySlice<UInt8>, count: Int) -> [Int] {
        var ends: [Int] = []
        var end = 0
        for byte in seed {
            end += Int(byte % 64) + (byte >= 0xF0 ? 997 : 0)
            if end >= count { break }
            ends.append(end)
        }
        return ends + [count]
    }

    // MARK: Heads

    private enum HeadOutcome: Equatable {
        case incomplete
        /// Every fact of the head, as numbers.
        case complete([Int])
        case refused(status: Int)
    }

    private static func headFailure(_ bytes: [UInt8], kind: HeadKind, limits: HeadLimits, _ arrivals: [[Int]]) -> String? {
        let whole = parseHead(bytes, kind: kind, limits: limits, ends: [bytes.count])
        for ends in arrivals {
            let cut = parseHead(bytes, kind: kind, limits: limits, ends: ends)
            if whole.outcome != cut.outcome { return "whole: \(whole.outcome), cut: \(cut.outcome)" }
        }
        guard case .complete = whole.outcome else { return nil }
        if whole.head.length > bytes.count { return "a head longer than its bytes" }
        return kind == .request ? requestFailure(whole.head, bytes) : responseFailure(whole.head, bytes)
    }

    private static func parseHead(
        _ bytes: [UInt8], kind: HeadKind, limits: HeadLimits, ends: [Int]
    ) -> (outcome: HeadOutcome, head: Head) {
        var parser = HeadParser(kind: kind, limits: limits)
        var head = Head()
        do throws(HTTPError) {
            for end in ends where try parser.parse(bytes.span.extracting(0..<end), into: &head) == .complete {
                return (.complete(facts(head)), head)
            }
            return (.incomplete, head)
        } catch {
            return (.refused(status: error.status), head)
        }
    }

    private static func facts(_ head: Head) -> [Int] {
        var result = [head.length, head.minorVersion, Int(head.method.rawValue), head.status, Int(head.contentLength ?? 1 << 62)]
        for range in [head.methodRange, head.target, head.originTarget, head.hostRange ?? -1 ..< -1, head.reason] {
            result += [range.lowerBound, range.upperBound]
        }
        let flags = [
            head.connectionClose, head.connectionKeepAlive, head.connectionUpgrade, head.isChunked, head.upgradePresent,
            head.expectContinue, head.acceptsTrailers, head.isPersistent,
        ]
        result += flags.map { $0 ? 1 : 0 }
        for field in head.fields {
            result += [field.name.lowerBound, field.name.count, field.value.lowerBound, field.value.count]
            result += [Int(field.known.rawValue), field.isConnectionNamed ? 1 : 0]
        }
        return result
    }

    private static func requestFailure(_ head: Head, _ bytes: [UInt8]) -> String? {
        guard let endpoint = try? EndpointName.endpoint(from: head, bytes: bytes.span) else { return nil }
        var rewrite = RequestRewrite()
        rewrite.framing = BodyFraming.request(head)
        rewrite.connection = head.upgradePresent ? .upgrade : .keepAlive
        rewrite.keepsEndpoint = true
        let once = written { HeadWriter.writeRequest(head, bytes.span, rewrite: rewrite, into: &$0) }
        let (again, problem) = readAgain(once, kind: .request)
        if let problem { return problem }
        if BodyFraming.request(again) != rewrite.framing { return "the framing changed" }
        if once[again.methodRange] != bytes[head.methodRange] { return "the method changed" }
        if again.count(of: .host) != 1 { return "\(again.count(of: .host)) Host fields written" }
        if again.upgradePresent != head.upgradePresent { return "an upgrade was lost or found" }
        let sameEndpoint = try? EndpointName.endpoint(from: again, bytes: once.span)
        if sameEndpoint.map({ $0.map { once[$0] } }) != endpoint.map({ bytes[$0] }) { return "the endpoint changed" }
        let twice = written { HeadWriter.writeRequest(again, once.span, rewrite: rewrite, into: &$0) }
        if twice != once { return "a request written twice differs" }
        return serviceFailure(head, bytes, rewrite)
    }

    /// What a service gets: our fields once, nothing that is between the client and us.
    private static func serviceFailure(_ head: Head, _ bytes: [UInt8], _ base: RequestRewrite) -> String? {
        var rewrite = base
        rewrite.keepsEndpoint = false
        rewrite.client = Array("127.0.0.1".utf8)
        rewrite.forward = true
        let output = written { HeadWriter.writeRequest(head, bytes.span, rewrite: rewrite, into: &$0) }
        let (seen, problem) = readAgain(output, kind: .request)
        if let problem { return problem }
        if seen.count(of: .xForwardedFor) != 1 || seen.count(of: .xPikoForward) != 1 { return "not one of each field of ours" }
        let internals: [KnownHeader] = [
            .xPikoAuthorization, .xPikoNode, .xPikoEndpoint, .keepAlive, .proxyAuthorization, .proxyConnection,
        ]
        return internals.contains(where: seen.contains) ? "an internal or hop-by-hop field leaks" : nil
    }

    private static func responseFailure(_ head: Head, _ bytes: [UInt8]) -> String? {
        for method in [Method.get, .head, .connect] {
            guard let framing = try? BodyFraming.response(head, to: method) else { continue }
            var rewrite = ResponseRewrite()
            rewrite.framing = framing
            rewrite.connection = head.status == 101 ? .upgrade : framing == .untilClose ? .close : .keepAlive
            let once = written { HeadWriter.writeResponse(head, bytes.span, rewrite: rewrite, into: &$0) }
            let (again, problem) = readAgain(once, kind: .response)
            if let problem { return problem }
            if again.status != head.status { return "the status changed" }
            guard let framingAgain = try? BodyFraming.response(again, to: method), framingAgain == framing else {
                return "the framing changed"
            }
            let twice = written { HeadWriter.writeResponse(again, once.span, rewrite: rewrite, into: &$0) }
            if twice != once { return "a response written twice differs" }
        }
        return nil
    }

    private static func readAgain(_ bytes: [UInt8], kind: HeadKind) -> (Head, String?) {
        let limits = HeadLimits(bytesMax: 1 << 20, fieldsMax: 1000, targetBytesMax: 1 << 16)
        let (outcome, head) = parseHead(bytes, kind: kind, limits: limits, ends: [bytes.count])
        guard case .complete = outcome, head.length == bytes.count else {
            return (head, "a head that we wrote ends early, or not at all, or is refused: \(outcome)")
        }
        return (head, nil)
    }

    private static func written(_ body: (inout ByteBuffer) -> Void) -> [UInt8] {
        var output = ByteBuffer()
        body(&output)
        return copy(output.span)
    }

    // MARK: Chunked bodies

    private struct ChunkOutcome: Equatable {
        var data: [UInt8] = []
        var trailers: [UInt8] = []
        /// The bytes taken when the body ended; nil when it did not end.
        var taken: Int?
        var status = 0
    }

    private static func chunkFailure(_ bytes: [UInt8], limits: ChunkLimits, _ arrivals: [[Int]]) -> String? {
        let whole = decode(bytes, limits: limits, ends: [bytes.count])
        for ends in arrivals where decode(bytes, limits: limits, ends: ends) != whole { return "cuts matter" }
        if whole.taken == nil { return nil }
        // What was decoded, encoded again, decodes to the same.
        let encoded = written { output in
            if !whole.data.isEmpty {
                ChunkedEncoder.writeHeader(size: whole.data.count, into: &output)
                output.append(whole.data.span)
                ChunkedEncoder.writeChunkEnd(into: &output)
            }
            ChunkedEncoder.writeEnd(trailers: whole.trailers.span, into: &output)
        }
        let again = decode(encoded, limits: limits, ends: [encoded.count])
        let isSame = again.data == whole.data && again.trailers == whole.trailers && again.taken == encoded.count
        return isSame ? nil : "not the same body after encoding"
    }

    private static func decode(_ bytes: [UInt8], limits: ChunkLimits, ends: [Int]) -> ChunkOutcome {
        var decoder = ChunkedDecoder(limits: limits)
        var outcome = ChunkOutcome()
        var offset = 0
        do throws(HTTPError) {
            for end in ends {
                let available = bytes.span.extracting(0..<end)
                arrival: while true {
                    switch try decoder.next(available, at: &offset) {
                    case .needMore: break arrival
                    case .data(let range): outcome.data += bytes[range]
                    case .end:
                        outcome.taken = offset
                        outcome.trailers = copy(decoder.trailers.span)
                        return outcome
                    }
                }
            }
        } catch {
            outcome.status = error.status
        }
        return outcome
    }

    private static func copy(_ span: Span<UInt8>) -> [UInt8] { span.indices.map { span[$0] } }
}

#if FUZZING
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzHTTPMessage(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Int32 {
    if let failure = HTTPFuzz.failure(of: Array(UnsafeBufferPointer(start: bytes, count: count))) {
        fatalError(failure)
    }
    return 0
}
#endif
