// `piko server status …`: asks a server's admin port over HTTP and prints the answer as YAML.
internal import Base
internal import Config
internal import Memory
internal import Telemetry
internal import Wire

enum StatusCommand {
    /// The endpoints of a server and how many listeners each has, sorted by name.
    static func run(_ invocation: Invocation) throws(CommandFailure) -> String {
        let config = try ConfigurationFile.load(StatusConfig.self, invocation, environment: [:])
        let path = "/status/upstream/endpoints"
        do throws(CommandFailure) {
            return YAML.write(JSONAsYAML.convert(try get(path, from: config.url), isSorted: true))
        } catch {
            throw CommandFailure("piko: \(config.url.settingText): \(error.message)")
        }
    }

    private static func get(_ path: String, from url: ServerURL) throws(CommandFailure) -> JSONValue {
        let request = """
            GET \(url.pathPrefix)\(path) HTTP/1.1\r
            Host: \(url.authority)\r
            User-Agent: piko/\(BuildInfo.version)\r
            Accept: application/json\r
            Connection: close\r
            \r

            """
        let bytes = try Questioner().ask(.tcp(host: url.host, port: url.port), Array(request.utf8)) { bytes in
            // What is wrong is said below, once for all.
            (try? HTTPAnswer.decode(bytes, hasEnded: false)) != nil
        }
        guard let answer = try HTTPAnswer.decode(bytes.span, hasEnded: true) else {
            throw CommandFailure("the answer is cut short")
        }
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
