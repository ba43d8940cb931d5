// The field names that the gateway acts on. Recognised once, while a head is parsed; everything after compares small numbers.

import Memory

/// A field name that means something to us; all others are `other`.
public enum KnownHeader: UInt8, Sendable, CaseIterable {
    case other
    case host, contentLength, transferEncoding, connection, upgrade, expect, te, trailer
    case keepAlive, proxyConnection, proxyAuthenticate, proxyAuthorization
    case date, server, contentType, origin, authorization, userAgent, referer
    case traceparent, tracestate, xRequestID
    case forwarded, xForwardedFor, xForwardedHost, xForwardedProto, xRealIP
    case xPikoEndpoint, xPikoAuthorization, xPikoForward, xPikoTenant, xPikoNode, xPikoExpect
    case xPikoTransport, xPikoPool, xPikoCredential
    case secWebSocketKey, secWebSocketVersion, secWebSocketAccept, secWebSocketProtocol, secWebSocketExtensions
    // Recognised because a trailer section may not carry them (RFC 9110 section 6.5.1).
    case cacheControl, contentEncoding, contentRange, cookie, setCookie, maxForwards, pragma, range, wwwAuthenticate

    /// The name in lower case; empty for `other`.
    public var name: StaticString {
        switch self {
        case .other: ""
        case .host: "host"
        case .contentLength: "content-length"
        case .transferEncoding: "transfer-encoding"
        case .connection: "connection"
        case .upgrade: "upgrade"
        case .expect: "expect"
        case .te: "te"
        case .trailer: "trailer"
        case .keepAlive: "keep-alive"
        case .proxyConnection: "proxy-connection"
        case .proxyAuthenticate: "proxy-authenticate"
        case .proxyAuthorization: "proxy-authorization"
        case .date: "date"
        case .server: "server"
        case .contentType: "content-type"
        case .origin: "origin"
        case .authorization: "authorization"
        case .userAgent: "user-agent"
        case .referer: "referer"
        case .traceparent: "traceparent"
        case .tracestate: "tracestate"
        case .xRequestID: "x-request-id"
        case .forwarded: "forwarded"
        case .xForwardedFor: "x-forwarded-for"
        case .xForwardedHost: "x-forwarded-host"
        case .xForwardedProto: "x-forwarded-proto"
        case .xRealIP: "x-real-ip"
        case .xPikoEndpoint: "x-piko-endpoint"
        case .xPikoAuthorization: "x-piko-authorization"
        case .xPikoForward: "x-piko-forward"
        case .xPikoTenant: "x-piko-tenant-id"
        case .xPikoNode: "x-piko-node"
        case .xPikoExpect: "x-piko-expect"
        case .xPikoTransport: "x-piko-transport"
        case .xPikoPool: "x-piko-pool"
        case .xPikoCredential: "x-piko-credential"
        case .secWebSocketKey: "sec-websocket-key"
        case .secWebSocketVersion: "sec-websocket-version"
        case .secWebSocketAccept: "sec-websocket-accept"
        case .secWebSocketProtocol: "sec-websocket-protocol"
        case .secWebSocketExtensions: "sec-websocket-extensions"
        case .cacheControl: "cache-control"
        case .contentEncoding: "content-encoding"
        case .contentRange: "content-range"
        case .cookie: "cookie"
        case .setCookie: "set-cookie"
        case .maxForwards: "max-forwards"
        case .pragma: "pragma"
        case .range: "range"
        case .wwwAuthenticate: "www-authenticate"
        }
    }

    /// The header whose name `bytes[range]` is, in any case of letters; with `foldingUnderscores`, `_` counts as `-`.
    init(_ bytes: Span<UInt8>, _ range: Range<Int>, foldingUnderscores: Bool = false) {
        func matches(_ candidate: KnownHeader) -> Bool {
            equalsIgnoringCase(bytes, range, candidate.name, foldingUnderscores: foldingUnderscores)
        }
        // By length first, so that most names are compared with one or two others, and seldom beyond a byte.
        switch range.count {
        case 2 where matches(.te): self = .te
        case 4 where matches(.host): self = .host
        case 4 where matches(.date): self = .date
        case 5 where matches(.range): self = .range
        case 6 where matches(.cookie): self = .cookie
        case 6 where matches(.origin): self = .origin
        case 6 where matches(.expect): self = .expect
        case 6 where matches(.server): self = .server
        case 6 where matches(.pragma): self = .pragma
        case 7 where matches(.upgrade): self = .upgrade
        case 7 where matches(.trailer): self = .trailer
        case 7 where matches(.referer): self = .referer
        case 9 where matches(.xRealIP): self = .xRealIP
        case 9 where matches(.forwarded): self = .forwarded
        case 10 where matches(.userAgent): self = .userAgent
        case 10 where matches(.connection): self = .connection
        case 10 where matches(.setCookie): self = .setCookie
        case 10 where matches(.keepAlive): self = .keepAlive
        case 10 where matches(.tracestate): self = .tracestate
        case 11 where matches(.xPikoNode): self = .xPikoNode
        case 11 where matches(.xPikoPool): self = .xPikoPool
        case 11 where matches(.traceparent): self = .traceparent
        case 12 where matches(.contentType): self = .contentType
        case 12 where matches(.maxForwards): self = .maxForwards
        case 12 where matches(.xRequestID): self = .xRequestID
        case 13 where matches(.xPikoExpect): self = .xPikoExpect
        case 13 where matches(.authorization): self = .authorization
        case 13 where matches(.cacheControl): self = .cacheControl
        case 13 where matches(.contentRange): self = .contentRange
        case 14 where matches(.contentLength): self = .contentLength
        case 14 where matches(.xPikoForward): self = .xPikoForward
        case 15 where matches(.xForwardedFor): self = .xForwardedFor
        case 15 where matches(.xPikoEndpoint): self = .xPikoEndpoint
        case 16 where matches(.contentEncoding): self = .contentEncoding
        case 16 where matches(.xForwardedHost): self = .xForwardedHost
        case 16 where matches(.xPikoTenant): self = .xPikoTenant
        case 16 where matches(.xPikoTransport): self = .xPikoTransport
        case 16 where matches(.proxyConnection): self = .proxyConnection
        case 16 where matches(.wwwAuthenticate): self = .wwwAuthenticate
        case 17 where matches(.transferEncoding): self = .transferEncoding
        case 17 where matches(.xForwardedProto): self = .xForwardedProto
        case 17 where matches(.xPikoCredential): self = .xPikoCredential
        case 17 where matches(.secWebSocketKey): self = .secWebSocketKey
        case 18 where matches(.proxyAuthenticate): self = .proxyAuthenticate
        case 19 where matches(.proxyAuthorization): self = .proxyAuthorization
        case 20 where matches(.xPikoAuthorization): self = .xPikoAuthorization
        case 20 where matches(.secWebSocketAccept): self = .secWebSocketAccept
        case 21 where matches(.secWebSocketVersion): self = .secWebSocketVersion
        case 22 where matches(.secWebSocketProtocol): self = .secWebSocketProtocol
        case 24 where matches(.secWebSocketExtensions): self = .secWebSocketExtensions
        default: self = .other
        }
    }

    /// Whether this concerns one connection only and is never passed on as it came (RFC 9110 section 7.6.1). `Trailer` is
    /// not among them: it describes the trailers, which we pass on.
    var isHopByHop: Bool {
        switch self {
        case .connection, .keepAlive, .proxyConnection, .proxyAuthenticate, .proxyAuthorization, .te, .transferEncoding, .upgrade:
            true
        default: false
        }
    }

    /// Whether a sender can't have this dropped by naming it in Connection: what we route, authorise and frame by, and what
    /// tells services who the client is, must reach them whatever a client writes there.
    var isProtected: Bool {
        switch self {
        case .host, .contentLength, .authorization, .forwarded, .xForwardedFor, .xForwardedHost, .xForwardedProto, .xRealIP,
            .xPikoEndpoint, .xPikoAuthorization, .xPikoForward, .xPikoTenant, .xPikoNode, .xPikoExpect, .xPikoTransport, .xPikoPool,
            .xPikoCredential, .cacheControl, .expect, .date,
            .trailer, .contentType, .contentEncoding, .contentRange:
            true
        default: false
        }
    }

    /// Whether a service that maps `_` to `-` (CGI and its heirs) would be deceived by the name with underscores.
    var isSensitiveToUnderscore: Bool { isProtected || isHopByHop }

    /// Whether a trailer section may not carry this: framing, routing, authentication, request modifiers and content
    /// description (RFC 9110 section 6.5.1), and everything that we ourselves act on.
    var isForbiddenInTrailer: Bool {
        switch self {
        case .other, .date, .server, .userAgent, .referer, .traceparent, .tracestate, .xRequestID: false
        default: true
        }
    }
}
