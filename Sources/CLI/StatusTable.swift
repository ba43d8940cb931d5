// Answers of the admin port as tables for people. A list of objects is a table with a column for each member; of an object the
// plain members are lines, and each list or object in it a table below them.
internal import Telemetry

enum StatusTable {
    /// The value as text. `name` is what the keys of a plain object are called.
    static func write(_ value: JSONValue, keys name: String) -> String {
        switch value {
        case .array(let elements): return table(elements)
        case .object(let members):
            if value.isOfNumbers { return counts(members, name) }
            var text = ""
            for member in members where !isTable(member) { text += "\(member.name): \(plain(member.value))\n" }
            for member in members where isTable(member) { text += "\n" + write(member.value, keys: name) }
            return text
        default: return cell(value) + "\n"
        }
    }

    /// What gets a table of its own: a list of objects, and an object with the number of listeners of each endpoint.
    private static func isTable(_ member: JSONMember) -> Bool {
        switch member.value {
        case .array(let elements): elements.isEmpty || elements.contains { if case .object = $0 { true } else { false } }
        case .object: member.name == "endpoints"
        default: false
        }
    }

    /// A value on one line.
    private static func plain(_ value: JSONValue) -> String {
        switch value {
        case .object(let members): members.map { "\($0.name) \(plain($0.value))" }.joined(separator: ", ")
        case .array(let elements): elements.map(plain).joined(separator: " ")
        default: cell(value)
        }
    }

    private static func counts(_ members: [JSONMember], _ name: String) -> String {
        let sorted = members.sorted { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }
        return lines([[name.uppercased(), "LISTENERS"]] + sorted.map { [Diagnosis.plain($0.name), cell($0.value)] })
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
        case .number(let number): rounded(number)
        case .string(let text): Diagnosis.plain(text)
        case .array(let elements): "\(elements.count)"
        case .object(let members): "\(members.count)"
        }
    }

    /// At most three places behind the point.
    private static func rounded(_ number: Double) -> String {
        abs(number) < 1e12 ? "\((number * 1_000).rounded() / 1_000)" : "\(number)"
    }
}
