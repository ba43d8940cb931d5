// Which endpoint a request is for. The one place that decides it: check, routing, logs and metrics all use its result.

/// The rule that finds the endpoint in a request.
public enum EndpointName {
    /// The longest endpoint name that we take.
    public static let bytesMax = 255
    /// What stands between a tenant's name and an endpoint's, and so in neither: a slash.
    public static let separator = UInt8(ascii: "/")

    /// The place of the endpoint's name in the head's bytes: the value of `x-piko-endpoint` when that is present and not empty,
    /// else the first label of the host when the host is a name with a dot in it; nil when the request names no endpoint.
    /// A header that could be read as several names is refused.
    ///
    /// Names are compared byte for byte. A label is taken as the client sent it, too: DNS would let letters differ in
    /// case, but endpoint names don't, and a name changed here would no longer be the one that the other ports see.
    public static func endpoint(from head: Head, bytes: Span<UInt8>) throws(HTTPError) -> Range<Int>? {
        if head.contains(.xPikoEndpoint) {
            guard head.count(of: .xPikoEndpoint) == 1, let value = head.firstValue(of: .xPikoEndpoint) else {
                throw .malformed("more than one x-piko-endpoint field")
            }
            guard value.count <= bytesMax else { throw .malformed("endpoint id too long") }
            for index in value where bytes[index] == 0x2c || bytes[index] == 0x09 || bytes[index] == separator {
                throw .malformed("invalid endpoint id")
            }
            if !value.isEmpty { return value }
        }
        guard let range = head.hostRange, let name = HostName(bytes, range), name.kind == .name else { return nil }
        for index in name.host where bytes[index] == 0x2e {
            return index == name.host.lowerBound ? nil : name.host.lowerBound..<index
        }
        return nil
    }

    /// The place of the host's domain: what follows its first label. nil when the host is none of several labels.
    public static func domain(from head: Head, bytes: Span<UInt8>) -> Range<Int>? {
        guard let range = head.hostRange, let name = HostName(bytes, range), name.kind == .name else { return nil }
        for index in name.host where bytes[index] == 0x2e {
            return index + 1 == name.host.upperBound ? nil : index + 1..<name.host.upperBound
        }
        return nil
    }
}
