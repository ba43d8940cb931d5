// Fuzz driver of what says who a client is: headers of the PROXY protocol, and the fields of requests that proxies add. The tests of
// Wire compile this file too (by a symbolic link) and replay the corpus through `ProxyFuzz`.
//
// Input: 'F' and the fields of a request, or a header. A header must be read the same whole and in every prefix, and what is
// written of it must be read as the same. A client must be one of the addresses that somebody trusted wrote.

import Base
import Memory
import Wire

enum ProxyFuzz {
    /// What went wrong with this input; nil when nothing did.
    static func failure(of input: [UInt8]) -> String? {
        input.first == UInt8(ascii: "F") ? fields(Array(input.dropFirst())) : header(input)
    }

    private static func header(_ bytes: [UInt8]) -> String? {
        var whole: ProxyHeader.Progress?
        do throws(ProxyHeaderError) {
            whole = try ProxyHeader.parse(bytes.span)
        } catch {
            whole = nil
        }
        var first: ProxyHeader.Progress?
        for length in 0...min(bytes.count, 128) {
            do throws(ProxyHeaderError) {
                let progress = try ProxyHeader.parse(bytes.span.extracting(0..<length))
                if case .complete = progress {
                    first = progress
                    break
                }
            } catch {
                return whole == nil ? nil : "refused at \(length) and taken whole"
            }
        }
        if let first, first != whole { return "by pieces it is another" }
        guard case .complete(let header, let length) = whole else { return nil }
        if length > bytes.count || length > ProxyHeader.bytesMax { return "\(length) of \(bytes.count) bytes" }
        if (header.source == nil) != (header.destination == nil) { return "one end alone" }
        for version in [ProxyVersion.one, .two] {
            var buffer = ByteBuffer()
            header.write(version, into: &buffer)
            let again = try? buffer.withSpan(0..<buffer.count) { bytes in try ProxyHeader.parse(bytes) }
            if again != .complete(header, length: buffer.count) { return "written, it is another" }
        }
        return nil
    }

    private static func fields(_ fields: [UInt8]) -> String? {
        let request = Array("GET / HTTP/1.1\r\nHost: a\r\n".utf8) + fields + Array("\r\n\r\n".utf8)
        var parser = HeadParser(kind: .request)
        var head = Head()
        guard case .complete? = try? parser.parse(request.span, into: &head) else { return nil }
        let peer = IPAddress(ipv4: 0x0a00_0001)
        let trusted = AddressBlocks(checked: ["10.0.0.0/8", "fd00::/8"])
        var asked: [IPAddress] = []
        let client = head.client(request.span, peer: peer) { address in
            asked.append(address)
            return trusted.contains(address)
        }
        if let client, asked.last != client { return "a client that was not judged" }
        if asked.dropLast().contains(where: { !trusted.contains($0) }) { return "went on behind somebody who is not trusted" }
        for forwarding in [Forwarding.append, .replace, .extend] {
            var rewrite = RequestRewrite()
            rewrite.client = Array("2001:db8::7".utf8)
            rewrite.forwarding = forwarding
            var output = ByteBuffer()
            HeadWriter.writeRequest(head, request.span, rewrite: rewrite, into: &output)
            // A head that had as many lines as may be has more of them now.
            var again = HeadParser(kind: .request, limits: HeadLimits(fieldsMax: HeadLimits().fieldsMax + 4))
            var written = Head()
            let bytes = [UInt8](copying: output.span)
            guard case .complete? = try? again.parse(bytes.span, into: &written) else { return "what is written is refused" }
            if written.count(of: .xForwardedFor) != 1 { return "X-Forwarded-For more than once" }
            if forwarding != .append, !written.contains(.xForwardedProto) { return "no X-Forwarded-Proto" }
        }
        return nil
    }
}

#if FUZZING
    @_cdecl("LLVMFuzzerTestOneInput")
    public func fuzzProxyHeader(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Int32 {
        if let failure = ProxyFuzz.failure(of: Array(UnsafeBufferPointer(start: bytes, count: count))) {
            fatalError(failure)
        }
        return 0
    }
#endif
