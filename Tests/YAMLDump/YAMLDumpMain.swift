// A tool for Tests/ConfigTests/compare_pyyaml: shows what our reader makes of YAML, so that another reader can be asked
// the same. One document a line, in hexadecimal, on standard input; for each one line of JSON on standard output:
// {"value": …} with scalars as strings, or {"error": "LINE:COLUMN: MESSAGE"}.
import Config

@main
enum YAMLDumpMain {
    static func main() {
        while let line = readLine() { print(answer(to: line)) }
    }

    static func answer(to line: String) -> String {
        let digits = Array(line.utf8)
        let document = stride(from: 0, to: digits.count - 1, by: 2).compactMap { index in
            UInt8(String(decoding: digits[index..<(index + 2)], as: UTF8.self), radix: 16)
        }
        do throws(YAMLError) {
            return "{\"value\": \(json(try YAML.read(document.span)))}"
        } catch {
            return "{\"error\": \(json(error.description))}"
        }
    }

    static func json(_ node: YAMLNode) -> String {
        switch node.content {
        case .scalar(let text, _): json(text)
        case .list(let items): "[" + items.map(json).joined(separator: ",") + "]"
        case .map(let entries): "{" + entries.map { json($0.key) + ":" + json($0.value) }.joined(separator: ",") + "}"
        }
    }

    static func json(_ text: String) -> String {
        var output = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"", "\\": output += "\\" + String(scalar)
            case _ where scalar.value < 0x20:
                let digits = String(scalar.value, radix: 16)
                output += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: output.unicodeScalars.append(scalar)
            }
        }
        return output + "\""
    }
}
