// The front program: answers as it prints them, and what it says when there is none.
import Config
import Telemetry
import Testing

@testable import CLI

@Suite struct HTTPAnswerTests {
    /// A response, whether it is its end, and what comes out: status and body, "not whole", or the failure.
    static let rows: [(String, Bool, String)] = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", false, "200 {}"), ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", false, "not whole"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", true, "not whole"), ("HTTP/1.1 200 OK\r\n\r\n{}", false, "not whole"),
        ("HTTP/1.1 200 OK\r\n\r\n{}", true, "200 {}"), ("HTTP/1.1 200 OK\r\nContent-Len", true, "not whole"), ("", true, "not whole"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", false, "200 {}"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n", true, "not whole"),
        ("HTTP/1.1 204 No Content\r\n\r\n", false, "204 "), ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", false, "404 "),
    ]

    @Test(arguments: rows.indices)
    func decodes(row: Int) throws {
        let (text, hasEnded, meaning) = Self.rows[row]
        let answer = try HTTPAnswer.decode(Array(text.utf8).span, hasEnded: hasEnded)
        #expect((answer.map { "\($0.status) \(String(decoding: $0.body, as: UTF8.self))" } ?? "not whole") == meaning)
    }

    @Test(arguments: ["SSH-2.0-x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"])
    func refuses(text: String) {
        #expect(throws: CommandFailure.self) { try HTTPAnswer.decode(Array(text.utf8).span, hasEnded: true) }
    }
}

@Suite struct ControlAnswerTests {
    private func show(_ text: String, isSorted: Bool = false) -> String {
        do throws(CommandFailure) {
            return YAML.write(JSONAsYAML.convert(try ControlCommand.result(of: Array(text.utf8)), isSorted: isSorted))
        } catch { return error.message }
    }

    @Test func printsResultsAsYAML() {
        let answer = "{\"b\":[1,{\"d\":\"e\",\"c\":null}],\"a\":\"123\",\"f\":{},\"g\":true}\n"
        #expect(show(answer) == "b:\n  - 1\n  - d: e\n    c: null\na: \"123\"\nf: {}\ng: true\n")
        #expect(show(answer, isSorted: true) == "a: \"123\"\nb:\n  - 1\n  - c: null\n    d: e\nf: {}\ng: true\n")
        #expect(show("{}") == "{}\n")
    }

    @Test func printsErrors() {
        #expect(show("{\"error\":\"unknown command\"}") == "unknown command")
        #expect(show("[]") == "the answer is not an object")
        #expect(show("hello") == "the answer is not JSON; is this a server's control socket?")
        #expect(show("") == "the answer is not JSON; is this a server's control socket?")
    }
}

@Suite struct StatusTests {
    private static let nodes = """
        [{"id":"b","status":"active","proxy_addr":"10.0.0.2:8000","endpoints":2},{"id":"a","status":"left","proxy_addr":"","endpoints":0}]
        """

    private func show(_ text: String, _ output: OutputFormat, status: String = "") throws -> String {
        var config = StatusConfig()
        config.status = status
        return StatusCommand.text(of: StatusCommand.select(try JSONValue.parse(Array(text.utf8).span), config), output)
    }

    @Test func tablesOfNodes() throws {
        #expect(
            try show(Self.nodes, .table) == """
                ID  STATUS  PROXY_ADDR     ENDPOINTS
                a   left                   0
                b   active  10.0.0.2:8000  2

                """)
        #expect(try show(Self.nodes, .table, status: "draining") == "nothing\n")
        #expect(try show(Self.nodes, .json, status: "left") == "[{\"id\":\"a\",\"status\":\"left\",\"proxy_addr\":\"\",\"endpoints\":0}]\n")
        #expect(try show(Self.nodes, .yaml, status: "left") == "- id: a\n  status: left\n  proxy_addr: \"\"\n  endpoints: 0\n")
    }

    @Test func tablesOfEndpoints() throws {
        #expect(try show("{\"beta\":1,\"alpha\":30}", .table) == "ENDPOINT  LISTENERS\nalpha     30\nbeta      1\n")
        #expect(try show("{\"beta\":1,\"alpha\":30}", .yaml) == "alpha: 30\nbeta: 1\n")
        #expect(try show("{}", .table) == "ENDPOINT  LISTENERS\n")
        #expect(
            try show("{\"id\":\"a\",\"left\":false,\"endpoints\":{\"e\":1}}", .table)
                == "id: a\nleft: no\n\nENDPOINT  LISTENERS\ne         1\n")
        #expect(try show("[{\"key\":\"a\\u001b[31m\"}]", .table) == "KEY\na?[31m\n")
    }

    @Test func addsUpNodes() throws {
        func value(_ text: String) throws -> JSONValue { try JSONValue.parse(Array(text.utf8).span) }
        let nodes = try #require(
            try value(#"[{"id":"a","status":"active","endpoints":1,"upstreams":2},{"id":"b","status":"unreachable","endpoints":1,"upstreams":1}]"#).array)
        let numbers = try value(
            #"{"version":"1","requests":{"total":10,"in_flight":1,"from_nodes":3,"by_status":{"5xx":2}},"connections":{"proxy":3},"bytes":{"in":4,"out":5},"cpu_seconds":1.5,"memory_bytes":6}"#)
        let summary = ClusterSummary.combine(nodes, [numbers, nil])
        #expect(summary["nodes_active"] == .integer(1) && summary["nodes_answering"] == .integer(1) && summary["upstreams"] == .integer(3))
        #expect(summary["requests"] == .integer(7) && summary["errors"] == .integer(2) && summary["cpu_seconds"] == .number(1.5))
        #expect(summary["nodes"]?.array?[1]["requests"] == .null)
    }

    @Test func showsRates() throws {
        func value(_ text: String) throws -> JSONValue { try JSONValue.parse(Array(text.utf8).span) }
        let before = try value(#"[{"endpoint":"a","requests":10},{"endpoint":"b","requests":5}]"#)
        let now = try value(#"[{"endpoint":"b","requests":9},{"endpoint":"a","requests":3},{"endpoint":"c","requests":1}]"#)
        #expect(
            StatusRates.added(to: now, since: before, seconds: 2)
                == (try value(
                    #"[{"endpoint":"b","requests":9,"requests_per_second":2.0},{"endpoint":"a","requests":3},{"endpoint":"c","requests":1}]"#)))
    }
}
