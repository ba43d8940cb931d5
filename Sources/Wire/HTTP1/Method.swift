// Request methods (RFC 9110 section 9). Names are case-sensitive: `get` is some other method.

import Memory

/// The method of a request.
public enum Method: UInt8, Sendable, CaseIterable {
    case get, head, post, put, delete, connect, options, trace, patch
    /// Any other token; its name is in the head's bytes.
    case other

    /// The name on the wire; empty for `other`.
    public var name: StaticString {
        switch self {
        case .get: "GET"
        case .head: "HEAD"
        case .post: "POST"
        case .put: "PUT"
        case .delete: "DELETE"
        case .connect: "CONNECT"
        case .options: "OPTIONS"
        case .trace: "TRACE"
        case .patch: "PATCH"
        case .other: ""
        }
    }

    /// Whether sending the request twice means the same as sending it once (RFC 9110 section 9.2.2).
    public var isIdempotent: Bool {
        switch self {
        case .get, .head, .options, .trace, .put, .delete: true
        case .post, .connect, .patch, .other: false
        }
    }

    /// The method that `bytes[range]` names.
    init(_ bytes: Span<UInt8>, _ range: Range<Int>) {
        switch range.count {
        case 3 where equals(bytes, range, "GET"): self = .get
        case 3 where equals(bytes, range, "PUT"): self = .put
        case 4 where equals(bytes, range, "HEAD"): self = .head
        case 4 where equals(bytes, range, "POST"): self = .post
        case 5 where equals(bytes, range, "PATCH"): self = .patch
        case 5 where equals(bytes, range, "TRACE"): self = .trace
        case 6 where equals(bytes, range, "DELETE"): self = .delete
        case 7 where equals(bytes, range, "CONNECT"): self = .connect
        case 7 where equals(bytes, range, "OPTIONS"): self = .options
        default: self = .other
        }
    }
}
