// `piko server status …`: asks a server's admin port over HTTP and prints the answer, as YAML, JSON or a table.
internal import Base
internal import Config
internal import Crypto
internal import Memory
internal import Reactor
internal import Telemetry
internal import Wire

enum StatusCommand {
    /// Asks what the command is about, and prints the answer as it is wanted.
    static func run(_ invocation: Invocation) throws(CommandFailure) -> String {
        let environment = ProgramEnvironment.variables
        var config = try ConfigurationFile.load(StatusConfig.self, invocation, environment: environment)
        if config.token.isEmpty, let token = environment["PIKO_TOKEN"] { config.token = token }
        let path = try path(of: invocation)
        if config.watch > .zero { return try StatusWatch.run(invocation.command, path, config) }
        do throws(CommandFailure) {
            return text(of: try answer(invocation.command, path, config), config.output)
        } catch {
            throw CommandFailure("piko: \(config.url.settingText): \(error.message)")
        }
    }

    /// What the command prints.
    static func answer(_ command: Command, _ path: String, _ config: StatusConfig) throws(CommandFailure) -> JSONValue {
        if command == .serverStatusClusterSummary { return try ClusterSummary.ask(config) }
        return select(try get(path, config), config)
    }

    private static func path(of invocation: Invocation) throws(CommandFailure) -> String {
        switch invocation.command {
        case .serverStatusClusterNodes: return "/status/cluster/nodes"
        case .serverStatusClusterNode: return "/status/cluster/nodes/\(try name(invocation.arguments[0]))"
        case .serverStatusGossipNodes: return "/status/gossip/nodes"
        case .serverStatusGossipNode: return "/status/gossip/nodes/\(try name(invocation.arguments[0]))"
        case .serverStatusNode: return "/status/node"
        case .serverStatusWorkers: return "/status/workers"
        case .serverStatusUpstreamTunnels: return "/status/upstream/tunnels"
        case .serverStatusUpstreamTraffic: return "/status/upstream/traffic"
        case .serverStatusClusterSummary: return "/status/cluster/nodes"
        default: return "/status/upstream/endpoints"
        }
    }

    private static func name(_ text: String) throws(CommandFailure) -> String {
        let isPlain = !text.isEmpty && text.utf8.allSatisfy { byte in
            (48...57).contains(byte) || (97...122).contains(byte | 0x20) || "-._".utf8.contains(byte)
        }
        if !isPlain { throw CommandFailure("piko: \"\(text)\" is not a node's name") }
        return text
    }

    /// The nodes of the wanted status, by name.
    static func select(_ answer: JSONValue, _ config: StatusConfig) -> JSONValue {
        guard case .array(let nodes) = answer, nodes.allSatisfy({ $0["id"] != nil }) else { return answer }
        return .array(
            nodes.filter { config.status.isEmpty || $0["status"]?.string == config.status }
                .sorted { ($0["id"]?.string ?? "").utf8.lexicographicallyPrecedes(($1["id"]?.string ?? "").utf8) })
    }

    static func text(of answer: JSONValue, _ format: OutputFormat) -> String {
        switch format {
        case .yaml:
            // Endpoints are sorted by name; what a node is has an order of its own.
            return YAML.write(JSONAsYAML.convert(answer, isSorted: answer.isOfNumbers))
        case .json:
            var text = ByteBuffer()
            answer.write(into: &text)
            var bytes: [UInt8] = []
            for index in text.span.indices { bytes.append(text.span[index]) }
            return String(decoding: bytes, as: UTF8.self) + "\n"
        case .table: return StatusTable.write(answer, keys: "endpoint")
        }
    }

    /// The settings of TLS; nil: none is wanted.
    private static func secure(_ config: StatusConfig) throws(CommandFailure) -> TLSContext? {
        guard config.url.isSecure else { return nil }
        do {
            return try TLSClientFiles("server.tls", config.tls).read(FileContents.read).context()
        } catch {
            throw CommandFailure("\(error)")
        }
    }

    static func get(_ path: String, _ config: StatusConfig) throws(CommandFailure) -> JSONValue {
        let url = config.url
        let query = config.forward.isEmpty ? "" : "?forward=\(config.forward)"
        let token = config.token.isEmpty ? "" : "Authorization: Bearer \(config.token)\r\n"
        let request = """
            GET \(url.pathPrefix)\(path)\(query) HTTP/1.1\r
            Host: \(url.authority)\r
            User-Agent: piko/\(BuildInfo.version)\r
            Accept: application/json\r
            \(token)Connection: close\r
            \r

            """
        let target = QuestionTarget.tcp(host: url.host, port: url.port, try secure(config))
        let bytes = try Questioner().ask(target, Array(request.utf8)) { bytes in
            // What is wrong is said below, once for all.
            (try? HTTPAnswer.decode(bytes, hasEnded: false)) != nil
        }
        guard let answer = try HTTPAnswer.decode(bytes.span, hasEnded: true) else {
            throw CommandFailure("the answer is cut short")
        }
        if answer.status == 404 { throw CommandFailure("status 404: there is no such node, or this is no server's admin port") }
        let value: JSONValue
        do throws(JSONError) {
            value = try JSONValue.parse(answer.body.span)
        } catch {
            throw CommandFailure("status \(answer.status), and the answer is not JSON; is this a server's admin port?")
        }
        guard answer.status == 200 else {
            throw CommandFailure("status \(answer.status): \(value["error"]?.string ?? "no reason given")")
        }
        return value
    }
}

/// A response to a GET, read whole.
struct HTTPAnswer: Equatable {
    var status: Int
    var body: [UInt8]

    /// The response at the start of the bytes, or nil while it is not whole. `hasEnded`: no more bytes will come.
    static func decode(_ bytes: Span<UInt8>, hasEnded: Bool) throws(CommandFailure) -> HTTPAnswer? {
        do throws(HTTPError) {
            var head = Head()
            var parser = HeadParser(kind: .response)
            guard try parser.parse(bytes, into: &head) == .complete else { return nil }
            let rest = bytes.extracting(head.length..<bytes.count)
            switch try BodyFraming.response(head, to: .get) {
            case .none:
                return HTTPAnswer(status: head.status, body: [])
            case .length(let length):
                guard UInt64(rest.count) >= length else { return nil }
                return HTTPAnswer(status: head.status, body: copy(rest.extracting(0..<Int(length))))
            case .chunked:
                return try decodeChunks(rest).map { HTTPAnswer(status: head.status, body: $0) }
            case .untilClose:
                return hasEnded ? HTTPAnswer(status: head.status, body: copy(rest)) : nil
            case .tunnel:
                throw HTTPError(status: 502, reason: "an upgrade that was not asked for")
            }
        } catch {
            throw CommandFailure("the answer is not HTTP: \(error.reason)")
        }
    }

    private static func decodeChunks(_ bytes: Span<UInt8>) throws(HTTPError) -> [UInt8]? {
        var decoder = ChunkedDecoder()
        var offset = 0
        var body: [UInt8] = []
        while true {
            switch try decoder.next(bytes, at: &offset) {
            case .needMore: return nil
            case .data(let range): body += copy(bytes.extracting(range))
            case .end: return body
            }
        }
    }

    private static func copy(_ bytes: Span<UInt8>) -> [UInt8] {
        var copy: [UInt8] = []
        copy.reserveCapacity(bytes.count)
        for index in bytes.indices { copy.append(bytes[index]) }
        return copy
    }
}

extension JSONValue {
    /// Whether it is an object of names with a number each.
    var isOfNumbers: Bool {
        guard case .object(let members) = self else { return false }
        return members.allSatisfy { if case .integer = $0.value { true } else { false } }
    }
}

/// JSON as it is printed for people.
enum JSONAsYAML {
    /// The value; `isSorted` puts the members of objects in the order of their names.
    static func convert(_ value: JSONValue, isSorted: Bool) -> YAMLNode {
        let start = TextPosition(line: 1, column: 1)
        let content: YAMLNode.Content =
            switch value {
            case .null: .scalar(text: "null", isQuoted: false)
            case .bool(let truth): .scalar(text: truth ? "true" : "false", isQuoted: false)
            case .integer(let number): .scalar(text: String(number), isQuoted: false)
            case .number(let number): .scalar(text: String(number), isQuoted: false)
            case .string(let text): .scalar(text: text, isQuoted: true)
            case .array(let elements): .list(elements.map { convert($0, isSorted: isSorted) })
            case .object(let members):
                .map(
                    (isSorted ? members.sorted { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) } : members)
                        .map { YAMLEntry(key: $0.name, at: start, value: convert($0.value, isSorted: isSorted)) })
            }
        return YAMLNode(content, at: start)
    }
}
