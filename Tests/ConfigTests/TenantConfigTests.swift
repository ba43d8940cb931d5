// Tenants in the server's configuration: from a file, as text for workers, and what is refused.

import Config
import Testing

@Suite struct TenantConfigTests {
    static let text = """
        upstream:
          tenants:
            - id: acme
              auth: {hmac_secret_key: secret, audience: a}
              proxy_auth: {jwks: {endpoint: "https://id.example.com/keys"}}
              domains: [acme.example.com, Acme.Test]
              limits: {max_tunnels: 1, max_endpoints: 2, max_streams: 3, max_request_rate: 4}
            - id: b-2.x_y
              auth: {hmac_secret_key: other}
        """

    @Test func takesTenantsFromAFile() throws {
        let config = try load(ServerConfig.self, "server --config.path f", Self.text)
        let tenants = config.upstream.tenants
        #expect(tenants.map(\.id) == ["acme", "b-2.x_y"])
        #expect(tenants[0].auth.hmacSecretKey == "secret" && tenants[0].auth.audience == "a" && tenants[0].domains == ["acme.example.com", "Acme.Test"])
        #expect(tenants[0].proxyAuth.jwks.endpoint == "https://id.example.com/keys" && !tenants[1].proxyAuth.isEnabled)
        let limits = tenants[0].limits
        #expect([limits.tunnelsMax, limits.endpointsMax, limits.streamsMax, limits.requestRateMax] == [1, 2, 3, 4])
        #expect(try ServerConfig(flattened: config.flattened) == config)
    }

    /// Of elements only what is not the default goes to workers: a few hundred tenants have room in one message.
    @Test func manyTenantsAreShort() throws {
        var config = ServerConfig()
        for index in 0..<TenantConfig.countMax {
            var tenant = TenantConfig()
            tenant.id = "tenant-\(index)"
            tenant.auth.hmacSecretKey = "a secret of 32 bytes, more or less"
            tenant.domains = ["\(tenant.id).example.com"]
            config.upstream.tenants.append(tenant)
        }
        try config.validate()
        #expect(config.flattened.count < 1_200)
        #expect(try ServerConfig(flattened: config.flattened) == config)
        config.upstream.tenants.append(TenantConfig())
        #expect(throws: ConfigError("upstream.tenants: are more than 256")) { try config.validate() }
    }

    /// What another version wrote: keys that this one lacks are left out, those of tenants are not.
    @Test func understandsWhatAnotherVersionWrote() throws {
        let config = try load(ServerConfig.self, "server --config.path f", Self.text)
        let strange = [("later.key", "1"), ("upstream.tenants.0.later", "1"), ("upstream.tenants.x.id", "1"), ("upstream.tenants.0", "1")]
        let understood = ServerConfig.understood(config.flattened + strange)
        #expect(understood.map(\.0) == config.flattened.map(\.0))
        #expect(try ServerConfig(flattened: understood) == config)
    }

    @Test(arguments: [
        ("- id: a", "upstream.tenants.0.auth: has no key: anybody could be tenant \"a\""),
        ("- id: a\n  auth: {audience: x}", "upstream.tenants.0.auth.audience: is set, but no key: anybody could use the port"),
        ("- auth: {hmac_secret_key: x}", "file.yaml:3:7: upstream.tenants.0.id is missing"),
        ("- id: a/b", "file.yaml:3:11: upstream.tenants.0.id: \"a/b\" is no tenant's name (1 to 63 letters, digits, \"-\", \"_\" and \".\")"),
        ("- id: \"\"", "file.yaml:3:11: upstream.tenants.0.id: \"\" is no tenant's name (1 to 63 letters, digits, \"-\", \"_\" and \".\")"),
        ("- {id: a, auth: {hmac_secret_key: x}}\n- {id: a, auth: {hmac_secret_key: y}}", "upstream.tenants.1.id: \"a\" is there twice"),
        ("- {id: a, auth: {hmac_secret_key: x}, domains: [x.y, X.Y]}", "upstream.tenants.0.domains: \"X.Y\" is there twice"),
        (
            "- {id: a, auth: {hmac_secret_key: x}, domains: [\"*.y\"]}",
            "file.yaml:3:53: upstream.tenants.0.domains: \"*.y\" is no domain (for example acme.example.com)"
        ),
        (
            "- {id: a, auth: {hmac_secret_key: x}, proxy_auth: {issuer: i}}",
            "upstream.tenants.0.proxy_auth.issuer: is set, but no key: anybody could use the port"
        ),
    ])
    func refuses(_ tenants: String, _ expected: String) {
        let indented = tenants.split(separator: "\n").map { "    \($0)" }.joined(separator: "\n")
        #expect(throws: ConfigError(expected)) {
            try load(ServerConfig.self, "server --config.path f", "upstream:\n  tenants:\n\(indented)\n")
        }
    }
}
