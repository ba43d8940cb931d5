// Which endpoints a token opens: the list of the claim `piko.endpoints`. Names are compared byte for byte, as everywhere. A name
// that ends with `*` stands for all that begin with what is before it, and `*` alone for all.

/// A permission for endpoints.
public struct EndpointPermission: Equatable, Sendable {
    private enum Extent: Equatable, Sendable {
        case any
        case names(exact: [[UInt8]], prefixes: [[UInt8]])
    }

    private let extent: Extent

    /// The permission for every endpoint.
    public static let any = EndpointPermission(extent: .any)

    private init(extent: Extent) { self.extent = extent }

    /// The permission for the names; nil when one of them is empty or has a `*` elsewhere than at its end, where somebody
    /// may have meant something that it does not do. No names permit nothing.
    public init?(names: [[UInt8]]) {
        var exact: [[UInt8]] = []
        var prefixes: [[UInt8]] = []
        let star = UInt8(ascii: "*")
        for name in names {
            guard !name.isEmpty, !name.dropLast().contains(star) else { return nil }
            if name.last == star { prefixes.append(name.dropLast()) } else { exact.append(name) }
        }
        extent = .names(exact: exact, prefixes: prefixes)
    }

    /// The names as a token has them, for people; nil: every endpoint.
    public var names: [String]? {
        switch extent {
        case .any: nil
        case .names(let exact, let prefixes):
            exact.map { String(decoding: $0, as: UTF8.self) } + prefixes.map { String(decoding: $0, as: UTF8.self) + "*" }
        }
    }

    /// Whether it is for every endpoint because nothing limits it.
    public var isUnlimited: Bool { extent == .any }

    /// Whether the endpoint is among them.
    public func permits(_ endpoint: [UInt8]) -> Bool {
        switch extent {
        case .any: true
        case .names(let exact, let prefixes): exact.contains(endpoint) || prefixes.contains { Self.begins(endpoint, with: $0) }
        }
    }

    /// Behind a prefix only ASCII may follow. What else follows may change the letter before it (an accent after `e`), and so
    /// make a name that somebody takes for one with another beginning. An empty prefix has nothing before it.
    private static func begins(_ endpoint: [UInt8], with prefix: [UInt8]) -> Bool {
        endpoint.starts(with: prefix) && (prefix.isEmpty || endpoint.dropFirst(prefix.count).allSatisfy { $0 < 0x80 })
    }
}
