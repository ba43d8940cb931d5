// What is written can be read again, and means the same.
import Config
import Testing

@Suite struct YAMLWriterTests {
    private static let start = TextPosition(line: 1, column: 1)

    private static func text(_ text: String) -> YAMLNode { YAMLNode(.scalar(text: text, isQuoted: true), at: start) }

    /// The value without places and quotes.
    private static func plain(_ node: YAMLNode) -> YAMLNode {
        switch node.content {
        case .scalar(let text, _): self.text(text)
        case .list(let items): YAMLNode(.list(items.map(plain)), at: start)
        case .map(let entries): YAMLNode(.map(entries.map { YAMLEntry(key: $0.key, at: start, value: plain($0.value)) }), at: start)
        }
    }

    @Test(arguments: [
        "a: b\n", "- a\n- - b\n  - c: d\n    e: [f, {g: h}]\n- {}\n- []\n", "a:\n  b:\n    c: []\n  d: {}\n", "'a b': ''\n'': x\n".replacing("''", with: "'-'"),
        "a: \"\\n\\t\\r\\\"\\\\\\x07\\x85\\u2028\\U0001F600 é\"\n", "a: ['true', 'no', '~', '1', '1.5', '0x1f', '1:30', '2026-11-22', '1e3', '', ' x', 'x ', '#', '- a', 'a: b']\n",
        "a: [':8000', '::', ':', '127.0.0.1:8000', '[::1]:80', 'http://a:80/b?c', '30s', '1m30s', '*', '&a', '!b', '%', '@', '`', '|', '>', '<<', '=', '---', '...']\n",
    ])
    func readsWhatItWrites(source: String) throws {
        let node = Self.plain(try YAML.read(Array(source.utf8).span))
        let written = YAML.write(node)
        #expect(Self.plain(try YAML.read(Array(written.utf8).span)) == node, "\(written)")
    }

    @Test func textsThatLookLikeSomethingElseAreQuoted() {
        let texts = ["true", "No", "123", "1.5", "1:30", "0xff", "2026-11-22", "1e3", "127.0.0.1:80", "", "a b", "~", "-a", "a:", "a1"]
        for item in texts { #expect(YAML.write(Self.text(item)) == "\"\(item)\"\n") }
        for item in ["a", "cafe", "30s", ":8000", "http://a:80/b", "/run/piko.sock", "my-endpoint", "a=b", "io_uring"] {
            #expect(YAML.write(Self.text(item)) == "\(item)\n")
        }
    }

    /// A configuration that is printed is a file that says the same.
    @Test func configurationsComeBack() throws {
        let server = try load(
            ServerConfig.self,
            "server --proxy.bind-addr 127.0.0.1:1 --log.subsystems a,true --server.control-socket /x --proxy.access-log.disable --grace-period 1h --server.workers 3")
        #expect(try load(ServerConfig.self, "server", YAML.write(server.yaml)) == server)
        let agent = try load(AgentConfig.self, "agent start", AgentConfigTests.text)
        #expect(try load(AgentConfig.self, "agent start", YAML.write(agent.yaml)) == agent)
        let forward = try load(ForwardConfig.self, "forward 3000 e")
        #expect(try load(ForwardConfig.self, "forward start", YAML.write(forward.yaml)) == forward)
    }
}
