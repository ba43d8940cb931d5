// JSON: what is read, what is refused, and that what is written reads back.

import Memory
import Telemetry
import Testing

private func parse(_ text: String) throws(JSONError) -> JSONValue {
    try JSONValue.parse(Array(text.utf8).span)
}

private func written(_ value: JSONValue) -> String {
    var buffer = ByteBuffer()
    value.write(into: &buffer)
    let span = buffer.span
    return String(decoding: (0..<span.count).map { span[$0] }, as: UTF8.self)
}

@Suite struct JSONTests {
    @Test(arguments: [
        ("null", JSONValue.null), (" true ", .bool(true)), ("false", .bool(false)), ("0", .integer(0)),
        ("-12", .integer(-12)), ("9223372036854775807", .integer(.max)), ("9223372036854775808", .number(9_223_372_036_854_775_808)),
        ("1.5e2", .number(150)), ("-0.25", .number(-0.25)), ("\"\"", .string("")), (#""a\"\\\/\b\f\n\r\té""#, .string("a\"\\/\u{8}\u{c}\n\r\té")),
        (#""\u00e9\ud83d\ude00""#, .string("é😀")), ("[]", .array([])), ("[1 , [ ]]", .array([.integer(1), .array([])])),
        ("{}", .object([])),
        (#"{"command":"info","a":{"b":[null]}}"#,
            .object([JSONMember("command", .string("info")), JSONMember("a", .object([JSONMember("b", .array([.null]))]))])),
    ])
    func reads(_ text: String, _ value: JSONValue) throws {
        #expect(try parse(text) == value)
        #expect(try parse(written(value)) == value)
    }

    @Test(arguments: [
        "", " ", "nul", "truex", "1 2", "01", "-", "1.", ".5", "1e", "+1", "[", "[1", "[1,]", "[,]", "{", "{\"a\"", "{\"a\":",
        "{\"a\":1", "{\"a\":1,}", "{a:1}", "{\"a\":1,\"a\":2}", "\"", "\"\u{1}\"", "\"\\x\"", "\"\\u12\"", "\"\\u12g4\"", "\"\\ud800\"",
        "\"\\ud800\\u0041\"", "\"\\udc00\"", "1e999", "\"\\", "{\"a\" 1}", "[1}",
    ])
    func refuses(_ text: String) {
        #expect(throws: JSONError.self) { try parse(text) }
    }

    @Test func isBounded() {
        let deep = String(repeating: "[", count: 33) + String(repeating: "]", count: 33)
        #expect(throws: JSONError.self) { try parse(deep) }
        #expect(throws: Never.self) { try parse(String(deep.dropFirst().dropLast())) }
        #expect(throws: JSONError.self) { try JSONValue.parse([UInt8](repeating: 32, count: JSONValue.bytesMax + 1).span) }
        #expect(throws: JSONError.self) { try JSONValue.parse([0x22, 0xff, 0x22].span) }
    }

    @Test func findsMembers() throws {
        let value = try parse(#"{"a":"x","n":3,"l":[1]}"#)
        #expect(value["a"]?.string == "x" && value["n"]?.integer == 3 && value["l"]?.array == [.integer(1)])
        #expect(value["z"] == nil && value["a"]?["b"] == nil)
    }
}
