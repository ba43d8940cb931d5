// docs/configuration.md says what the tables of keys say, and the examples beside it are files that can be used.
//
// With PIKO_WRITE_DOCS=1 in the environment the tables in the document are written anew instead.
import Config
import Foundation
import Testing

@Suite struct DocumentationTests {
    private static let path = repositoryRoot.appending(path: "docs/configuration.md")

    private static func table(_ keys: [SettingKey], lists: [(path: String, help: String)] = [], hasFlags: Bool = true) -> String {
        var lines = ["| key | value | default | |", "|---|---|---|---|"]
        for list in lists { lines.append("| `\(list.path)` | list of maps | | \(cell(list.help)) |") }
        for key in keys {
            let fallback = key.isRequired ? "required" : key.defaultTexts.joined().isEmpty ? "" : "`\(key.defaultTexts.joined(separator: ", "))`"
            let derived = key.path.replacingOccurrences(of: "_", with: "-")
            let flag = hasFlags && key.flag != derived ? " The flag is `--\(key.flag)`." : ""
            let value = key.isList ? "list of `\(key.placeholder)`" : "`\(cell(key.placeholder))`"
            lines.append("| `\(key.path)` | \(value) | \(fallback) | \(cell(key.help))\(flag) |")
        }
        return lines.joined(separator: "\n")
    }

    private static func cell(_ text: String) -> String { text.replacingOccurrences(of: "|", with: "\\|") }

    /// The document with every table between its marks as it should be.
    private static func regenerated(_ document: String) -> String {
        let tables: [String: String] = [
            "server": table(ServerConfig.keys),
            "agent": table(AgentConfig.keys, lists: AgentConfig.schema.lists.map { ($0.path, $0.help) }),
            "listeners": table(AgentConfig.schema.lists[0].elementKeys, hasFlags: false),
            "forward": table(ForwardConfig.keys, lists: ForwardConfig.schema.lists.map { ($0.path, $0.help) }),
            "ports": table(ForwardConfig.schema.lists[0].elementKeys, hasFlags: false),
        ]
        var output: [Substring] = []
        var isInTable = false
        for line in document.split(separator: "\n", omittingEmptySubsequences: false) {
            if line == "<!-- end -->" { isInTable = false }
            if !isInTable { output.append(line) }
            guard line.hasPrefix("<!-- keys of ") else { continue }
            let name = line.dropFirst("<!-- keys of ".count).prefix { $0.isLetter }
            output.append((tables[String(name)] ?? "no such table")[...])
            isInTable = true
        }
        return output.joined(separator: "\n")
    }

    @Test func documentAgreesWithTheTables() throws {
        let document = try String(contentsOf: Self.path, encoding: .utf8)
        let wanted = Self.regenerated(document)
        if ProcessInfo.processInfo.environment["PIKO_WRITE_DOCS"] == "1" {
            try wanted.write(to: Self.path, atomically: true, encoding: .utf8)
        } else {
            #expect(document == wanted, "run PIKO_WRITE_DOCS=1 swift test --filter DocumentationTests")
        }
    }

    private func example(_ name: String) throws -> ConfigFile {
        ConfigFile(name: name, bytes: [UInt8](try Data(contentsOf: repositoryRoot.appending(path: "docs/examples/\(name)"))))
    }

    @Test func examplesCanBeUsed() throws {
        let server = try ServerConfig(invocation("server"), file: example("server.yaml"), environment: [:])
        #expect(server.admin.bindAddress == BindAddress(host: "127.0.0.1", port: 8002))
        #expect(server.proxy.accessLog.requestHeaders.blockList.count == 3)
        let agent = try AgentConfig(invocation("agent start --config.expand-env"), file: example("agent.yaml"), environment: [:])
        #expect(agent.listeners.map(\.endpointID) == ["web", "database"])
        #expect(agent.connect.url == ServerURL(host: "localhost", port: 8001))
        let elsewhere = try AgentConfig(
            invocation("agent start --config.expand-env"), file: example("agent.yaml"),
            environment: ["PIKO_UPSTREAM_URL": "http://piko.example.com:8001"])
        #expect(elsewhere.connect.url == ServerURL(host: "piko.example.com", port: 8001))
        let forward = try ForwardConfig(invocation("forward start"), file: example("forward.yaml"), environment: [:])
        #expect(forward.ports.map(\.endpointID) == ["database", "ssh"])
    }

    /// A file of the Debian packages, and the same with every key that it only shows: one that stands behind a "#" without a space.
    private func packaged(_ name: String) throws -> (asInstalled: ConfigFile, inFull: ConfigFile) {
        let text = try String(contentsOf: repositoryRoot.appending(path: "packaging/debian/\(name)"), encoding: .utf8)
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false).map { line in
            let margin = line.prefix { $0 == " " }
            let rest = line.dropFirst(margin.count)
            return rest.hasPrefix("#") && rest.dropFirst().first.map { $0 != " " } == true ? margin + rest.dropFirst() : line[...]
        }
        return (ConfigFile(name: name, bytes: Array(text.utf8)), ConfigFile(name: name, bytes: Array(lines.joined(separator: "\n").utf8)))
    }

    /// What Debian installs can be used as it is, and with all that is shown in it; what is shown as a default is one.
    @Test func filesOfPackagesCanBeUsed() throws {
        let (server, serverInFull) = try packaged("server.yaml")
        #expect(
            ServerConfig.differences(try ServerConfig(invocation("server"), file: server, environment: [:]), ServerConfig())
                == ["admin.bind_addr", "cluster.gossip.bind_addr", "proxy.bind_addr", "upstream.bind_addr"])
        #expect(
            ServerConfig.differences(try ServerConfig(invocation("server"), file: serverInFull, environment: [:]), ServerConfig())
                == [
                    "admin.bind_addr", "cluster.gossip.bind_addr", "cluster.gossip.secret_key_files", "cluster.join", "proxy.bind_addr",
                    "proxy.tls.cert", "proxy.tls.key", "trusted_proxies", "upstream.auth.hmac_secret_key_file", "upstream.bind_addr", "upstream.tls.cert", "upstream.tls.key",
                ])
        let (agent, agentInFull) = try packaged("agent.yaml")
        #expect(throws: ConfigError.self) { try AgentConfig(invocation("agent start"), file: agent, environment: [:]) }
        let asInstalled = try AgentConfig(invocation("agent http e 1"), file: agent, environment: [:])
        #expect(AgentConfig.differences(asInstalled, try AgentConfig(invocation("agent http e 1"), file: nil, environment: [:])).isEmpty)
        let inFull = try AgentConfig(invocation("agent start"), file: agentInFull, environment: [:])
        #expect(inFull.listeners.map(\.endpointID) == ["web", "database"])
        var others = inFull
        others.listeners = []
        #expect(
            AgentConfig.differences(others, AgentConfig())
                == ["connect.proxy_url", "connect.tls.root_cas", "connect.token_file", "server.bind_addr", "server.enabled"])
    }
}
