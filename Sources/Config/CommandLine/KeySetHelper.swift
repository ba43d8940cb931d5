// What the supervisor and `piko` agree on about fetching a key set: `piko fetch-key-set URL MILLISECONDS USER` is not for people. It
// becomes the user (`-`: nobody else), fetches, and writes to descriptor 3 one byte, which says what follows: the document, or why
// there is none.

/// The words between the two programs.
public enum KeySetHelper {
    public static let word = "fetch-key-set"
    public static let found = UInt8(ascii: "K")
    public static let failed = UInt8(ascii: "E")
    /// The largest document.
    public static let bytesMax = 262_144
}

/// An http or https URL to fetch from: with a query, unlike those of servers.
public struct FetchURL: Equatable, Sendable {
    public let server: ServerURL
    /// The path and the query, as they stand in the request.
    public let target: String

    /// Nil for anything but a plain http or https URL.
    public init?(_ text: String) {
        guard let scheme = ["http://", "https://"].first(where: text.hasPrefix), text.utf8.count <= 2_048 else { return nil }
        let rest = text.dropFirst(scheme.count)
        let authority = rest.prefix { $0 != "/" && $0 != "?" }
        let target = rest.dropFirst(authority.count)
        guard let server = try? ServerURL(settingText: scheme + authority), target.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f && $0 != 0x23 })
        else { return nil }
        self.server = server
        self.target = target.hasPrefix("/") ? String(target) : "/\(target)"
    }
}
