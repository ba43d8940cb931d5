// What lets a data connection in without its token: a small signed record, opaque to the agent. Whoever has the key can check it
// without asking anybody, so a data connection may land on any worker and, in a cluster, on any node.
//
//     0   version 1              1   expiry, u64 big-endian (seconds since 1970)
//     9   agent, 16 bytes        25  length of the endpoint's name, u8, and the name
//     …   length of the tenant's name, u8, and the name        …   code, 16 bytes
//
// Version 2 is for an agent whose token ends: before the code it has the time of that, u64, which is kept when a credential is
// made of it.
//
// The code is the beginning of an HMAC-SHA-256 over a purpose (so that a code made for something else is of no use here)
// and all bytes before it. This file lays the bytes out; who holds the key makes and checks the code.

public import Memory

/// A credential before it is signed, or after its code was found good.
public struct DirectCredential: Equatable, Sendable {
    /// Bytes of an agent's identifier.
    public static let agentBytes = 16
    /// Bytes of the code.
    public static let codeBytes = 16
    /// The longest credential in its text form.
    public static let textBytesMax = 1_024
    /// Bytes of the endpoint's and of the tenant's name.
    public static let nameBytesMax = 255

    private static let version: UInt8 = 1
    private static let limitedVersion: UInt8 = 2
    private static let purpose: StaticString = "piko direct credential 1\n"
    private static let fixedBytes = 1 + 8 + agentBytes + 1 + 1 + codeBytes

    /// When it ends to be good: seconds since 1970.
    public var expiry: UInt64
    /// Which agent's listener it was made for: random, kept while the listener lives.
    public var agent: [UInt8]
    /// The endpoint's name.
    public var endpoint: [UInt8]
    /// The tenant's name; empty: none.
    public var tenant: [UInt8]
    /// When the agent's token ends, and what was let in by it; nil: never.
    public var limit: UInt64?

    public init(expiry: UInt64, agent: [UInt8], endpoint: [UInt8], tenant: [UInt8] = [], limit: UInt64? = nil) {
        precondition(agent.count == Self.agentBytes && endpoint.count <= Self.nameBytesMax && tenant.count <= Self.nameBytesMax)
        self.expiry = expiry
        self.agent = agent
        self.endpoint = endpoint
        self.tenant = tenant
        self.limit = limit
    }

    /// Appends the credential in its text form. `code` gets the bytes to be signed and returns at least 16 bytes.
    public func write(into buffer: inout ByteBuffer, code: (Span<UInt8>) -> [UInt8]) {
        var bytes = ByteBuffer()
        bytes.append(Self.purpose)
        let start = bytes.count
        bytes.append(limit == nil ? Self.version : Self.limitedVersion)
        Self.append(expiry, to: &bytes)
        bytes.append(agent.span)
        bytes.append(UInt8(endpoint.count))
        bytes.append(endpoint.span)
        bytes.append(UInt8(tenant.count))
        bytes.append(tenant.span)
        if let limit { Self.append(limit, to: &bytes) }
        let signature = code(bytes.span)
        bytes.append(signature.span.extracting(first: Self.codeBytes))
        Base64.encode(bytes.span.extracting(start..<bytes.count), into: &buffer)
    }

    private static func append(_ number: UInt64, to bytes: inout ByteBuffer) {
        for shift in stride(from: 56, through: 0, by: -8) { bytes.append(UInt8(truncatingIfNeeded: number >> UInt64(shift))) }
    }

    private static func number(_ bytes: Span<UInt8>, at position: Int) -> UInt64 {
        var number: UInt64 = 0
        for index in position..<position + 8 { number = number << 8 | UInt64(bytes[index]) }
        return number
    }

    /// Reads the text form. `isValid` gets the code and the bytes that it must be of, and says whether it is. Nil when
    /// anything about it is wrong; whether its time is over is for the caller to see.
    public init?(_ text: Span<UInt8>, isValid: (_ code: Span<UInt8>, _ bytes: Span<UInt8>) -> Bool) {
        guard text.count <= Self.textBytesMax else { return nil }
        var bytes = ByteBuffer()
        bytes.append(Self.purpose)
        let start = bytes.count
        guard Base64.decode(text, into: &bytes) else { return nil }
        let all = bytes.span
        guard all.count >= start + Self.fixedBytes, all[start] == Self.version || all[start] == Self.limitedVersion else { return nil }
        let signed = all.count - Self.codeBytes
        guard isValid(all.extracting(signed..<all.count), all.extracting(0..<signed)) else { return nil }
        let expiry = Self.number(all, at: start + 1)
        var position = start + 9
        let agent = [UInt8](copying: all.extracting(position..<position + Self.agentBytes))
        position += Self.agentBytes
        guard let endpoint = Self.name(all, at: &position, end: signed), let tenant = Self.name(all, at: &position, end: signed)
        else { return nil }
        var limit: UInt64?
        if all[start] == Self.limitedVersion {
            guard position + 8 == signed else { return nil }
            limit = Self.number(all, at: position)
            position += 8
        }
        guard position == signed else { return nil }
        self.init(expiry: expiry, agent: agent, endpoint: endpoint, tenant: tenant, limit: limit)
    }

    private static func name(_ bytes: Span<UInt8>, at position: inout Int, end: Int) -> [UInt8]? {
        guard position < end, position + 1 + Int(bytes[position]) <= end else { return nil }
        let range = position + 1..<position + 1 + Int(bytes[position])
        position = range.upperBound
        return [UInt8](copying: bytes.extracting(range))
    }
}
