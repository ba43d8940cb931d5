// Answers of the admin port as tables for people. A list of objects is a table with a column for each member; of an object the
// plain members are lines, and each list or object in it a table below them.
internal import Telemetry

enum StatusTable {
    /// The value as text. `name` is what the keys of a plain object are called.
    static func write(_ value: JSONValue, keys name: String) -> String {
        switch value {
        case .array(let elements): return table(elements)
        case .object(let members):
            let isPlain = members.allSatisfy { if case .integer = $0.value { true } else { false } }
            if isPlain { return counts(members, name) }
            var text = ""
            for member in members where !isNested(member.value) { text += "\(member.name): \(cell(member.value))\n" }
            for member in members where isNested(member.value) { text += "\n" + write(member.value, keys: name) }
            return text
        default: return cell(value) + "\n"
        }
    }

    private static func isNested(_ value: JSONValue) -> Bool {
        switch value {
        case .array, .object: true
        default: false
        }
    }

    private static func counts(_ members: [JSONMember], _ name: String) -> String {
        let sorted = members.sorted { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }
        return lines([[name.uppercased(), "LISTENERS"]] + sorted.map { [$0.name, cell($0.value)] })
    }

    private static func table(_ elements: [JSONValue]) -> String {
        guard case .object(let first)? = elements.first else { return "nothing\n" }
        let names = first.map(\.name)
        return lines(
            [names.map { $0.uppercased() }] + elements.map { element in names.map { cell(element[$0] ?? .null) } })
    }

    /// Columns as wide as their widest cell.
    private static func lines(_ rows: [[String]]) -> String {
        let widths = (rows.first ?? []).indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        return rows.map { row in
            var line = ""
            for (cell, width) in zip(row, widths) {
                line += cell + String(repeating: " ", count: width - cell.count + 2)
            }
            while line.last == " " { line.removeLast() }
            return line + "\n"
        }.joined()
    }

    /// A cell never has control characters: names come from other machines.
    private static func cell(_ value: JSONValue) -> String {
        switch value {
        case .null: ""
        case .bool(let truth): truth ? "yes" : "no"
        case .integer(let number): String(number)
        case .number(let number): String(number)
        case .string(let text): String(text.map { $0.isASCII && ($0.asciiValue ?? 0) < 0x20 ? "?" : $0 })
        case .array(let elements): "\(elements.count)"
        case .object(let members): "\(members.count)"
        }
    }
}
