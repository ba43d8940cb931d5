// One TLS connection on a non-blocking socket that somebody else owns and watches.

internal import CTLS

/// How far a call came.
public enum TLSProgress: Equatable, Sendable {
    /// Done; of reading and writing so many bytes, at least one.
    case done(Int)
    /// To be called again when the socket is readable, or writable (writing: with the same bytes in front).
    case wantsRead, wantsWrite
    /// The peer said that nothing more comes.
    case ended
    /// The peer's bytes ended without its having said so: some may be missing.
    case truncated
    case reset
    /// The session is broken; `TLSSession.failure` says why.
    case failed
    /// The same: the client speaks HTTP without TLS.
    case plainHTTP
}

/// A TLS connection.
@safe
public final class TLSSession {
    let core: OpaquePointer
    /// Outlives the session.
    private let context: TLSContext

    /// A session over a connected socket, which must stay open until the session is gone. `name`: the server's host name or
    /// address, for clients: the server must prove to have it. `early`: what was read from the socket before. Nil: there is no
    /// memory.
    public init?(_ context: TLSContext, descriptor: Int32, name: String? = nil, early: Span<UInt8> = Span()) {
        self.context = context
        let made = unsafe early.withUnsafeBufferPointer { early in
            guard let name else { return unsafe ctls_session_create(context.core, descriptor, nil, early.baseAddress, early.count) }
            return unsafe name.withCString {
                unsafe ctls_session_create(context.core, descriptor, $0, early.baseAddress, early.count)
            }
        }
        guard let made = unsafe made else { return nil }
        unsafe core = made
    }

    deinit { unsafe ctls_session_free(core) }

    /// Goes on with the handshake.
    public func handshake() -> TLSProgress { Self.progress(Int(unsafe ctls_session_handshake(core))) }

    /// Reads into the bytes, which are not empty.
    public func read(into bytes: inout MutableSpan<UInt8>) -> TLSProgress {
        unsafe bytes.withUnsafeMutableBufferPointer { buffer in
            Self.progress(unsafe ctls_session_read(core, buffer.baseAddress, buffer.count))
        }
    }

    /// Writes a part of the bytes, of which there is at least one.
    public func write(_ bytes: Span<UInt8>) -> TLSProgress {
        unsafe bytes.withUnsafeBufferPointer { buffer in
            Self.progress(unsafe ctls_session_write(core, buffer.baseAddress, buffer.count))
        }
    }

    /// Tells the peer that nothing more comes. Reading goes on.
    public func finish() -> TLSProgress { Self.progress(Int(unsafe ctls_session_finish(core))) }

    /// Whether bytes wait in here, of which the socket says nothing.
    public var hasWaiting: Bool { unsafe ctls_session_has_waiting(core) }

    /// Why the session is broken, for people.
    public var failure: String { unsafe String(cString: ctls_session_text(core)) }

    /// "TLSv1.2" or "TLSv1.3".
    public var version: String { unsafe String(cString: ctls_session_version(core)) }

    public var cipher: String { unsafe String(cString: ctls_session_cipher(core)) }

    /// The protocol that was agreed upon (ALPN); "" when the client named none.
    public var agreedProtocol: String {
        var name: UnsafePointer<UInt8>?
        var length: UInt32 = 0
        unsafe ctls_session_protocol(core, &name, &length)
        return unsafe String(decoding: UnsafeBufferPointer(start: name, count: Int(length)), as: UTF8.self)
    }

    /// The host that the client asked for.
    public var host: String? { unsafe ctls_session_host(core).map { unsafe String(cString: $0) } }

    public var isResumed: Bool { unsafe ctls_session_is_resumed(core) }

    /// Whether the kernel makes the records that are sent.
    public var sendsInKernel: Bool { unsafe ctls_session_sends_in_kernel(core) }

    private static func progress(_ result: Int) -> TLSProgress {
        if result >= 0 { return .done(result) }
        switch Int32(result) {
        case CTLS_WANTS_READ.rawValue: return .wantsRead
        case CTLS_WANTS_WRITE.rawValue: return .wantsWrite
        case CTLS_ENDED.rawValue: return .ended
        case CTLS_TRUNCATED.rawValue: return .truncated
        case CTLS_RESET.rawValue: return .reset
        case CTLS_PLAIN_HTTP.rawValue: return .plainHTTP
        default: return .failed
        }
    }
}
