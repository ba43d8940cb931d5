// Fuzz driver of the YAML reader. The tests of Config compile this file too (by a symbolic link) and replay the corpus through
// `YAMLFuzz`.
//
// Input: the text. Any bytes give a tree, each of whose nodes has a place in the text, or an error with words and a place.

import Config

enum YAMLFuzz {
    /// What went wrong with this input; nil when nothing did.
    static func failure(of input: [UInt8]) -> String? {
        let lines = input.count { $0 == 0x0A || $0 == 0x0D } + 1
        do throws(YAMLError) {
            return failure(in: try YAML.read(input.span), lines: lines)
        } catch {
            if error.position.line < 1 || error.position.column < 1 || error.position.line > lines + 1 { return "an error at \(error.position)" }
            return error.message.isEmpty ? "an error without words" : nil
        }
    }

    private static func failure(in node: YAMLNode, lines: Int) -> String? {
        if node.position.line < 1 || node.position.line > lines + 1 { return "a node at \(node.position)" }
        switch node.content {
        case .scalar: return nil
        case .list(let nodes): return nodes.lazy.compactMap { failure(in: $0, lines: lines) }.first
        case .map(let entries):
            if Set(entries.map(\.key)).count != entries.count { return "a key twice" }
            return entries.lazy.compactMap { failure(in: $0.value, lines: lines) }.first
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
