// Heads as they are passed on (RFC 9110 section 7.6): hop-by-hop fields end here, framing is written anew in one canonical
// form, everything else goes through byte for byte and in its order.
//
// Field lines that are kept lie side by side in the bytes mostly, so they are copied in runs, not one by one. That a line
// may be copied as it is rests on the parser's checks: a field line that it took can't be read in two ways.

public import Memory

/// What a written head says about its connection.
public enum ConnectionMode: Sendable {
    /// Nothing: an HTTP/1.1 connection stays open.
    case keepAlive
    /// `Connection: keep-alive`, for HTTP/1.0 clients that asked for it.
    case keepAliveNamed
    /// `Connection: close`
    case close
    /// `Connection: Upgrade`, and the Upgrade field as it came.
    case upgrade
}

/// How a request is changed on its way.
public struct RequestRewrite: Sendable {
    public var connection = ConnectionMode.keepAlive
    /// How the body will be sent: `none`, `length` or `chunked`.
    public var framing = BodyFraming.none
    /// The client's address as text, for X-Forwarded-For; empty: what says how the request came is passed on as it is.
    public var client: [UInt8] = []
    /// What becomes of what the request says about how it came.
    public var forwarding = Forwarding.append
    /// Whether the client came over TLS.
    public var isSecure = false
    /// Whether to say `x-piko-forward: true`.
    public var forward = false
    /// Whether `x-piko-authorization` goes along.
    public var keepsAuthorization = false
    /// Whether `x-piko-endpoint` goes along.
    public var keepsEndpoint = false
    /// A path without a slash at its end, put in front of the target's; `*` and the target of CONNECT have no path and
    /// stay as they are.
    public var targetPrefix: [UInt8] = []
    /// Whether `x-piko-node` and `x-piko-forward` go along as they came: to a process of ours, which judges them.
    public var keepsNode = false
    /// Field lines of ours that go along, each with its end.
    public var fields: [UInt8] = []
    /// What the request is known by; nil: what it says of that goes through as it came.
    public var trace: RequestTrace?

    public init() {}
}

/// How a response is changed on its way.
public struct ResponseRewrite: Sendable {
    public var connection = ConnectionMode.keepAlive
    /// How the body will be sent; with `none`, a Content-Length that only describes (HEAD, 304) is kept.
    public var framing = BodyFraming.none

    public init() {}
}

/// Writes heads that came from one side for the other side.
public enum HeadWriter {
    /// Writes the request of `head`, whose bytes are `bytes`. The target is written in origin form, whatever form it came
    /// in; a request without Host gets one (RFC 9112 section 3.2), empty if need be.
    public static func writeRequest(
        _ head: Head, _ bytes: Span<UInt8>, rewrite: RequestRewrite, into output: inout ByteBuffer
    ) {
        output.append(bytes.extracting(head.methodRange))
        output.append(0x20)
        writeTarget(head, bytes, prefix: rewrite.targetPrefix.span, into: &output)
        output.append(" HTTP/1.1\r\n")
        if !head.contains(.host) {
            output.append("Host: ")
            if let host = head.hostRange { output.append(bytes.extracting(host)) }
            output.append("\r\n")
        }
        copyFields(head, bytes, into: &output) { field in
            switch field.known {
            case .other: !field.isConnectionNamed
            case .contentLength, .xPikoCredential, .xPikoExpect, .xPikoTenant: false
            case .xPikoForward, .xPikoNode: rewrite.keepsNode
            case .xForwardedFor, .xForwardedProto, .xForwardedHost, .forwarded, .xRealIP:
                rewrite.client.isEmpty || rewrite.forwarding.keeps(field.known)
            case .xPikoAuthorization: rewrite.keepsAuthorization
            case .xPikoEndpoint: rewrite.keepsEndpoint
            case .upgrade: rewrite.connection == .upgrade
            case .expect: head.expectContinue
            case .traceparent, .tracestate, .xRequestID: !field.isConnectionNamed && rewrite.trace?.keeps(field.known) ?? true
            default: !field.isConnectionNamed && !field.known.isHopByHop
            }
        }
        if !rewrite.client.isEmpty { ForwardedFields.write(head, bytes, rewrite, into: &output) }
        output.append(rewrite.fields.span)
        rewrite.trace?.writeFields(into: &output)
        if rewrite.forward { output.append("x-piko-forward: true\r\n") }
        if head.acceptsTrailers { output.append("TE: trailers\r\n") }
        writeFraming(rewrite.framing, into: &output)
        writeConnection(rewrite.connection, alsoNaming: head.acceptsTrailers ? "TE" : "", into: &output)
        output.append("\r\n")
    }

    /// Writes the response of `head`, whose bytes are `bytes`.
    public static func writeResponse(
        _ head: Head, _ bytes: Span<UInt8>, rewrite: ResponseRewrite, into output: inout ByteBuffer
    ) {
        output.append("HTTP/1.1 ")
        output.appendDecimal(UInt64(head.status))
        output.append(0x20)
        output.append(bytes.extracting(head.reason))
        output.append("\r\n")
        copyFields(head, bytes, into: &output) { field in
            switch field.known {
            case .other: !field.isConnectionNamed
            // A word between nodes, which no service may say.
            case .contentLength, .xPikoNode: false
            case .upgrade: rewrite.connection == .upgrade
            default: !field.isConnectionNamed && !field.known.isHopByHop
            }
        }
        if rewrite.framing == .none, let length = head.contentLength, head.status >= 200, head.status != 204, !head.isChunked {
            writeFraming(.length(length), into: &output)
        } else {
            writeFraming(rewrite.framing, into: &output)
        }
        writeConnection(rewrite.connection, alsoNaming: "", into: &output)
        output.append("\r\n")
    }

    /// Copies the lines of the fields that `keeps` wants, in runs of neighbours.
    @inline(__always)
    private static func copyFields(
        _ head: Head, _ bytes: Span<UInt8>, into output: inout ByteBuffer, keeps: (HeaderField) -> Bool
    ) {
        guard let first = head.fields.first else { return }
        var runStart = first.name.lowerBound
        var position = runStart
        var isRunning = true
        for field in head.fields {
            position = field.name.lowerBound
            let isKept = keeps(field)
            if isKept == isRunning { continue }
            if isRunning { output.append(bytes.extracting(runStart..<position)) } else { runStart = position }
            isRunning = isKept
        }
        if isRunning { output.append(bytes.extracting(runStart..<head.length - 2)) }
    }

    /// Appends the target as `writeRequest` writes it.
    public static func writeTarget(_ head: Head, _ bytes: Span<UInt8>, into output: inout ByteBuffer) {
        writeTarget(head, bytes, prefix: Span(), into: &output)
    }

    private static func writeTarget(
        _ head: Head, _ bytes: Span<UInt8>, prefix: Span<UInt8>, into output: inout ByteBuffer
    ) {
        switch head.targetForm {
        case .origin:
            output.append(prefix)
            output.append(bytes.extracting(head.target))
        case .asterisk, .authority:
            output.append(bytes.extracting(head.target))
        case .absolute:
            let path = head.originTarget
            if path.isEmpty {
                // RFC 9112 section 3.2.4: OPTIONS for a server as a whole.
                if head.method == .options {
                    output.append("*")
                } else {
                    output.append(prefix)
                    output.append("/")
                }
                return
            }
            output.append(prefix)
            if bytes[path.lowerBound] != 0x2f { output.append(0x2f) }
            output.append(bytes.extracting(path))
        }
    }

    static func writeFraming(_ framing: BodyFraming, into output: inout ByteBuffer) {
        switch framing {
        case .none, .untilClose, .tunnel:
            break
        case .length(let length):
            output.append("Content-Length: ")
            output.appendDecimal(length)
            output.append("\r\n")
        case .chunked:
            output.append("Transfer-Encoding: chunked\r\n")
        }
    }

    /// Connection names TE when that is sent (RFC 9110 section 10.1.4).
    static func writeConnection(_ mode: ConnectionMode, alsoNaming option: StaticString, into output: inout ByteBuffer) {
        let isNaming = option.utf8CodeUnitCount > 0
        switch mode {
        case .keepAlive:
            if !isNaming { return }
            output.append("Connection: ")
        case .keepAliveNamed: output.append(isNaming ? "Connection: keep-alive, " : "Connection: keep-alive")
        case .close: output.append(isNaming ? "Connection: close, " : "Connection: close")
        case .upgrade: output.append(isNaming ? "Connection: Upgrade, " : "Connection: Upgrade")
        }
        output.append(option)
        output.append("\r\n")
    }
}
