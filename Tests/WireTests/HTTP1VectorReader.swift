// Reads the test cases of llhttp, which are Markdown: a comment with the type, an `http` block with the input, a `log` block
// with the events that llhttp reports. They are not part of this repository; see `directory`.

import Foundation
import Testing

/// One message as llhttp reports it, or as our parser does.
struct VectorMessage: Equatable, CustomStringConvertible {
    var method = ""
    var target = ""
    var status = ""
    var fields: [[String]] = []
    var body = ""
    var isComplete = false

    var description: String { "[\(method)\(status) \(target) \(fields) body=\(body.debugDescription) complete=\(isComplete)]" }
}

/// One case of theirs.
struct VectorCase: CustomTestStringConvertible {
    var file = ""
    var title = ""
    /// Such as `request` or `response-lenient-headers`.
    var type = ""
    var skipsBody = false
    var input: [UInt8] = []
    /// The messages whose heads llhttp took whole.
    var messages: [VectorMessage] = []
    /// The reason of its error, if it reports one that concerns the bytes.
    var error: String?

    var key: String { "\(file): \(title)" }
    var isLenient: Bool { type.contains("-lenient-") }
    var testDescription: String { key }
}

enum VectorReader {
    /// Where the vectors are: `PIKO_HTTP_VECTORS`, or `../shared/vectors/llhttp` beside the package; nil when they are not there.
    static var directory: String? {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        let places: [String?] = [
            ProcessInfo.processInfo.environment["PIKO_HTTP_VECTORS"],
            root.deletingLastPathComponent().appendingPathComponent("shared/vectors/llhttp").path,
        ]
        return places.compactMap { $0 }.first { FileManager.default.fileExists(atPath: $0 + "/request") }
    }

    /// All cases, in the order of the files.
    static func cases(in directory: String) throws -> [VectorCase] {
        var result: [VectorCase] = []
        for folder in ["request", "response"] {
            for name in try FileManager.default.contentsOfDirectory(atPath: "\(directory)/\(folder)").sorted() where name.hasSuffix(".md") {
                let text = try String(contentsOfFile: "\(directory)/\(folder)/\(name)", encoding: .utf8)
                result += cases(text, file: "\(folder)/\(name.dropLast(3))")
            }
        }
        return result
    }

    private static func cases(_ text: String, file: String) -> [VectorCase] {
        var result: [VectorCase] = []
        var current = VectorCase(file: file)
        var headings = [String](repeating: "", count: 5)
        var block: (kind: Substring, lines: [Substring])?
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            if line.hasPrefix("```") {
                if let ended = block {
                    if ended.kind == "http" { current.input = input(ended.lines, keepsFragments: current.title.contains("Fragment")) }
                    if ended.kind == "log" {
                        readLog(ended.lines, into: &current)
                        result.append(current)
                    }
                    block = nil
                } else {
                    block = (line.dropFirst(3), [])
                }
            } else if block != nil {
                block!.lines.append(line)
            } else if line.hasPrefix("<!-- meta=") {
                current = VectorCase(file: file)
                current.title = headings.filter { !$0.isEmpty }.joined(separator: " / ")
                let parts = line.split(separator: "\"")
                if let index = parts.firstIndex(of: "type") { current.type = String(parts[index + 2]) }
                current.skipsBody = line.contains("skipBody")
            } else if let level = line.firstIndex(where: { $0 != "#" }).map({ line.distance(from: line.startIndex, to: $0) }), level > 1,
                level < 5
            {
                headings[level] = line.dropFirst(level).trimmingCharacters(in: .whitespaces)
                for deeper in level + 1..<5 { headings[deeper] = "" }
            }
        }
        return result
    }

    /// The bytes that a block stands for: lines end with CRLF, a backslash at the end of a line joins it with the next. Many
    /// of their targets have a fragment, for which alone we refuse a request; elsewhere than in the case about fragments it
    /// is made part of the query, so that we are seen to refuse or take the request for what the case is about.
    private static func input(_ lines: [Substring], keepsFragments: Bool) -> [UInt8] {
        let joined = lines.joined(separator: "\n").replacingOccurrences(of: "\\\n", with: "").replacingOccurrences(of: "\n", with: "\r\n")
        var source = Array(joined.utf8)[...]
        var result: [UInt8] = []
        while let byte = source.popFirst() {
            guard byte == 0x5c, let next = source.first else {
                result.append(byte == 0x23 && !keepsFragments ? 0x2a : byte)
                continue
            }
            if let control = [0x72: 0x0d, 0x6e: 0x0a, 0x74: 0x09, 0x66: 0x0c][next] {
                result.append(UInt8(control))
                source.removeFirst()
            } else if next == 0x78 {
                let digits = source.dropFirst().prefix { Character(UnicodeScalar($0)).isHexDigit }
                // As in their runner, a character above ASCII becomes UTF-8; their offsets count its bytes.
                let scalar = UnicodeScalar(UInt8(String(decoding: digits, as: UTF8.self), radix: 16)!)
                result += Array(String(scalar).utf8)
                source = source.dropFirst(1 + digits.count)
            } else {
                result.append(byte)
            }
        }
        return result
    }

    /// Draws messages and errors from the events. Spans are read from the input by their offsets; spans of one kind that
    /// follow each other are one.
    private static func readLog(_ lines: [Substring], into result: inout VectorCase) {
        var message = VectorMessage()
        var isHeadComplete = false
        var name = ""
        var value = ""
        for line in lines {
            var words = line.split(separator: " ", maxSplits: 2).map(String.init)
            guard words.count >= 2, let offset = Int(words[0].dropFirst(4)) else { continue }
            if words[1].hasPrefix("len=") {
                let length = Int(words[1].dropFirst(4))!
                let bytes = latin1(result.input[offset..<offset + length])
                switch words[2].prefix(while: { $0 != "=" }) {
                case "span[method]": message.method += bytes
                case "span[url]": message.target += bytes
                case "span[body]": message.body += bytes
                case "span[header_field]": name += bytes
                case "span[header_value]": value += bytes
                default: break
                }
                continue
            }
            words = line.split(separator: " ").map(String.init)
            switch words.dropFirst().prefix(2).joined(separator: " ") {
            case "message begin":
                if isHeadComplete { result.messages.append(message) }
                message = VectorMessage()
                isHeadComplete = false
            case "header_value complete":
                if !isHeadComplete { message.fields.append([name, value.trimmingCharacters(in: CharacterSet(charactersIn: " \t"))]) }
                name = ""
                value = ""
            case "headers complete":
                isHeadComplete = true
                if words[3].hasPrefix("status=") { message.status = String(words[3].dropFirst(7)) }
            case "message complete":
                message.isComplete = true
            default:
                // Not errors of the input: 5 is data after the last message, 22 and 23 are upgrades, where llhttp stops.
                if words[1] == "error", !["code=5", "code=22", "code=23"].contains(words[2]) {
                    result.error = words.dropFirst(3).joined(separator: " ")
                }
            }
        }
        if isHeadComplete { result.messages.append(message) }
    }

    static func latin1(_ bytes: ArraySlice<UInt8>) -> String {
        String(String.UnicodeScalarView(bytes.map { UnicodeScalar($0) }))
    }
}
