// Fuzz target of the YAML subset: any bytes give a tree or an error with a place in the text, never a crash.

internal import Config

/// The input is the text.
func fuzzYAML(_ input: [UInt8]) {
    do throws(YAMLError) {
        check(try YAML.read(input.span), lines: input.count { $0 == 0x0A || $0 == 0x0D } + 1)
    } catch {
        precondition(error.position.line >= 1 && error.position.column >= 1, "an error without a place")
        precondition(error.position.line <= input.count { $0 == 0x0A || $0 == 0x0D } + 2, "an error behind the text")
        precondition(!error.message.isEmpty, "an error without words")
    }
}

/// Every node has a place in the text, and no map has a key twice.
private func check(_ node: YAMLNode, lines: Int) {
    precondition(node.position.line >= 1 && node.position.line <= lines + 1, "a node outside the text")
    switch node.content {
    case .map(let entries):
        precondition(Set(entries.map(\.key)).count == entries.count, "a key twice")
        for entry in entries { check(entry.value, lines: lines) }
    case .list(let nodes):
        for element in nodes { check(element, lines: lines) }
    default: break
    }
}
