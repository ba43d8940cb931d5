// Manual pages: every command, flag and key is on one of them, and nothing in them is a request by accident. `script/check-packages`
// has mandoc and man read them.
import Config
import Testing

@Suite struct ManualPageTests {
    private func page(_ name: String) throws -> String { try #require(ManualPage.make(name, date: "2026-11-27", version: "1.2.3")) }

    /// The text as a reader shows it, as far as the tests need it.
    private func plain(_ page: String) -> String {
        var text = page
        for (code, character) in [("\\-", "-"), ("\\(aq", "'"), ("\\(dq", "\""), ("\\(ti", "~"), ("\\fB", ""), ("\\fI", ""), ("\\fR", ""), ("\\&", ""), ("\\ ", " "), ("\\e", "\\")] {
            text = text.split(separator: code, omittingEmptySubsequences: false).joined(separator: character)
        }
        return text
    }

    @Test func names() {
        #expect(
            ManualPage.names == [
                "piko", "piko-server", "piko-agent", "piko-forward", "piko-bench", "piko-test", "piko-server.yaml", "piko-agent.yaml",
                "piko-forward.yaml",
            ])
        #expect(ManualPage.make("piko-nothing", date: "", version: "") == nil)
        #expect(ManualPage.section(of: "piko-server") == 1 && ManualPage.section(of: "piko-server.yaml") == 5)
    }

    @Test(arguments: ManualPage.names)
    func isWellFormed(name: String) throws {
        let page = try page(name)
        let requests: Set<Substring> = [".TH", ".SH", ".SS", ".TP", ".PP", ".RS", ".RE", ".EX", ".EE", ".br", ".nh", ".ad", ".\\\""]
        for (index, line) in page.split(separator: "\n", omittingEmptySubsequences: false).dropLast().enumerated() {
            #expect(!line.isEmpty && line.utf8.allSatisfy { $0 >= 0x20 && $0 < 0x7f }, "\(name):\(index + 1): \(line)")
            if line.hasPrefix(".") { #expect(requests.contains(line.prefix { $0 != " " }), "\(name):\(index + 1): \(line)") }
            #expect(!line.hasPrefix("'"))
            #expect(line.last != " ")
        }
        #expect(page.contains("\n.TH \(name.uppercased().split(separator: "-").joined(separator: "\\-")) \(ManualPage.section(of: name)) 2026-11-27 \"piko 1.2.3\" Piko\n"))
        for other in ManualPage.names where other != name { #expect(plain(page).contains("\(other)(\(ManualPage.section(of: other)))")) }
    }

    @Test func everyCommandAndFlagIsThere() throws {
        let overview = plain(try page("piko"))
        var commands: [(path: [String], spec: CommandSpec)] = [(["piko"], Commands.piko)]
        while let (path, spec) = commands.popLast() {
            let line = (path + spec.arguments.map(\.name)).joined(separator: " ")
            if path.count > 1 {
                #expect(overview.contains("\n.TP\n\(line)\n\(spec.summary.prefix(30))"), "\(line)")
                let name = "piko-\(path[1])"
                let page = ManualPage.names.contains(name) ? plain(try self.page(name)) : overview
                if path.count > 2 { #expect(page.contains("\n.SS \(line)\n"), "\(line)") }
                for flag in spec.flags { #expect(page.contains("\n.TP\n--\(flag.name)\(flag.isTruth ? "" : " " + flag.placeholder)\n"), "\(line): \(flag.name)") }
                for example in spec.examples { #expect(page.contains("\n.EX\n\(example.line)\n.EE\n"), "\(example.line)") }
            }
            for subcommand in spec.subcommands { commands.append((path + [subcommand.name], subcommand)) }
        }
    }

    private func expectKeys(_ keys: [SettingKey], _ prefix: String, in name: String) throws {
        let page = plain(try page(name))
        for key in keys {
            #expect(page.contains("\n.TP\n\(prefix)\(key.path): \(key.isList ? "[\(key.placeholder), ...]" : key.placeholder)\n"), "\(name): \(key.path)")
        }
    }

    @Test func everyKeyIsThere() throws {
        try expectKeys(ServerConfig.keys, "", in: "piko-server.yaml")
        try expectKeys(ServerConfig.schema.lists[0].elementKeys, "upstream.tenants[].", in: "piko-server.yaml")
        try expectKeys(AgentConfig.keys, "", in: "piko-agent.yaml")
        try expectKeys(AgentConfig.schema.lists[0].elementKeys, "listeners[].", in: "piko-agent.yaml")
        try expectKeys(ForwardConfig.keys, "", in: "piko-forward.yaml")
        try expectKeys(ForwardConfig.schema.lists[0].elementKeys, "ports[].", in: "piko-forward.yaml")
        let server = plain(try page("piko-server.yaml"))
        #expect(server.contains("The default is 30s."))
        #expect(server.split(whereSeparator: \.isWhitespace).contains("--io-backend."))
    }

    /// The files in the pages can be used.
    @Test func examplesCanBeUsed() throws {
        func example(_ name: String) throws -> ConfigFile {
            let page = plain(try page(name))
            let lines = page.split(separator: "\n", omittingEmptySubsequences: false).drop { $0 != ".EX" }.dropFirst().prefix { $0 != ".EE" }
            return ConfigFile(name: name, bytes: Array(lines.joined(separator: "\n").utf8))
        }
        let server = try ServerConfig(invocation("server"), file: example("piko-server.yaml"), environment: [:])
        #expect(server.upstream.auth.hmacSecretKeyFile == "/etc/piko/agents.key")
        let agent = try AgentConfig(invocation("agent start"), file: example("piko-agent.yaml"), environment: [:])
        #expect(agent.listeners.map(\.endpointID) == ["web", "database"])
        let forward = try ForwardConfig(invocation("forward start"), file: example("piko-forward.yaml"), environment: [:])
        #expect(forward.ports.map(\.endpointID) == ["database"])
    }
}
