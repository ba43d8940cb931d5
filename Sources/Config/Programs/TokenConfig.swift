// The token that an agent, or `forward`, shows to the server, and the tenant that it is of.

/// A token, or where it is.
public struct TokenConfig: Equatable, Sendable {
    /// The tenant; empty: none.
    public var tenantID = ""
    /// Empty: none.
    public var token = ""
    /// Read for each connection: who renews the token writes a new file. Empty: none.
    public var file = ""

    public init() {}

    static let settings: [Setting<TokenConfig>] = [
        Setting(
            "tenant_id", \.tenantID, check: { $0.isEmpty ? nil : TenantRule.id($0) },
            "The tenant whose endpoints are meant, of a server that has tenants."),
        Setting(
            "token", \.token, check: TokenRule.token, isSecret: true,
            """
            The token (JWT) to show to the server. Flags are seen by everybody on the machine: prefer the file, or token_file.
            """),
        Setting(
            "token_file", \.file, placeholder: "FILE",
            """
            A file with the token. It is read anew for each connection, so a token that is renewed there in time is used before \
            the old one ends. White space around it is not a part of it.
            """),
    ]

    func validate() throws(ConfigError) {
        if !token.isEmpty, !file.isEmpty { throw ConfigError("connect.token_file: connect.token is set, too") }
    }
}

/// Rules of the values above: what is wrong, or nil.
public enum TokenRule {
    /// A token goes into a header.
    @Sendable public static func token(_ text: String) -> String? {
        if text.utf8.count > 16_384 { return "is longer than 16384 bytes" }
        return text.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7f && $0 != UInt8(ascii: ",") } ? nil : "is no token"
    }
}
