// Fuzz driver of the YAML subset. The tests of Config compile this file too (by a symbolic link) and replay the corpus
// through `YAMLFuzz`.
//
// Input: the text. Any bytes give a tree or an error with a place in the text, never a crash; and a tree, written for
// people and read again, is the same tree.

import Config

enum YAMLFuzz {
    /// What went wrong with this input; nil when nothing did.
    static func failure(of input: [UInt8]) -> String? {
        let lines = input.count { $0 == 0x0A } + 1
        do throws(YAMLError) {
            let node = try YAML.read(input.span)
            return problem(in: node, lines: lines) ?? problemOfWriting(node)
        } catch {
            if error.position.line < 1 || error.position.column < 1 { return "an error without a place: \(error)" }
            if error.position.line > lines { return "an error behind the text: \(error)" }
            return error.message.isEmpty ? "an error without words" : nil
        }
    }

    /// Every value has a place in the text, and no map has a key twice.
    private static func problem(in node: YAMLNode, lines: Int) -> String? {
        if node.position.line < 1 || node.position.line > lines || node.position.column < 1 { return "a value outside the text" }
        switch node.content {
        case .map(let entries):
            if Set(entries.map(\.key)).count != entries.count { return "a key twice" }
            return entries.lazy.compactMap { problem(in: $0.value, lines: lines) }.first
        case .list(let items): return items.lazy.compactMap { problem(in: $0, lines: lines) }.first
        case .scalar: return nil
        }
    }

    /// What is written must be read as the same.
    private static func problemOfWriting(_ node: YAMLNode) -> String? {
        // Escapes may make a key longer than the reader takes, and a text alone is not of the subset.
        guard hasShortKeys(node) else { return nil }
        if case .scalar = node.content { return nil }
        let text = YAML.write(plain(node))
        do throws(YAMLError) {
            return plain(try YAML.read(Array(text.utf8).span)) == plain(node) ? nil : "written, it is another: \(text)"
        } catch {
            return "we refuse what we wrote: \(error): \(text)"
        }
    }

    private static func hasShortKeys(_ node: YAMLNode) -> Bool {
        switch node.content {
        case .map(let entries): entries.allSatisfy { $0.key.utf8.count <= 40 && hasShortKeys($0.value) }
        case .list(let items): items.allSatisfy(hasShortKeys)
        case .scalar: true
        }
    }

    /// The tree without places, and with every scalar marked as a text.
    private static func plain(_ node: YAMLNode) -> YAMLNode {
        let start = TextPosition(line: 1, column: 1)
        switch node.content {
        case .map(let entries):
            return YAMLNode(.map(entries.map { YAMLEntry(key: $0.key, at: start, value: plain($0.value)) }), at: start)
        case .list(let items): return YAMLNode(.list(items.map(plain)), at: start)
        case .scalar(let text, _): return YAMLNode(.scalar(text: text, isQuoted: true), at: start)
        }
    }
}

#if FUZZING
    @_cdecl("LLVMFuzzerTestOneInput")
    public func fuzzYAML(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Int32 {
        if let failure = YAMLFuzz.failure(of: Array(UnsafeBufferPointer(start: bytes, count: count))) {
            fatalError(failure)
        }
        return 0
    }
#endif
