// The YAML reader, row by row: what each form means, what is refused and where, and that its limits hold. That its
// meaning is also that of another reader is shown by compare_pyyaml beside this file.
import Config
import Foundation
import Testing

/// A value as text: scalars quoted, plain ones without a mark, quoted ones with a "!" before them.
private func show(_ node: YAMLNode) -> String {
    switch node.content {
    case .scalar(let text, let isQuoted): (isQuoted ? "!" : "") + "'\(text)'"
    case .list(let items): "[" + items.map(show).joined(separator: " ") + "]"
    case .map(let entries): "{" + entries.map { "\($0.key)=\(show($0.value))" }.joined(separator: " ") + "}"
    }
}

private func read(_ text: String, limits: YAMLLimits = YAMLLimits()) -> String {
    do {
        return show(try YAML.read(Array(text.utf8).span, limits: limits))
    } catch { return "\(error)" }
}

@Suite struct YAMLTests {
    /// A text and what it means.
    static let rows: [(String, String)] = [
        // Nothing at all.
        ("", "''"), ("\n\n", "''"), ("# only a comment", "''"), ("---\n", "''"), ("\u{FEFF}a: b\n", "{a='b'}"),
        // Maps.
        ("a: b\n", "{a='b'}"), ("a: b", "{a='b'}"), ("a:   b   \n", "{a='b'}"), ("a : b\n", "{a='b'}"),
        ("a:\n", "{a=''}"), ("a:", "{a=''}"), ("a: # c\nb: # c", "{a='' b=''}"), ("a: b c  d\n", "{a='b c  d'}"),
        ("a:\n  b: c\n  d: e\nf: g\n", "{a={b='c' d='e'} f='g'}"), ("a:\n b:\n  c:\n   d: e\n", "{a={b={c={d='e'}}}}"),
        ("  a: b\n  c: d\n", "{a='b' c='d'}"), ("a:\n  b\n", "{a='b'}"), ("a:\n  'b'\nc: d\n", "{a=!'b' c='d'}"),
        ("a: b # c\n# d\n\n  # e\nf: g # h", "{a='b' f='g'}"), ("---\na: b\n", "{a='b'}"), ("# x\n--- # y\na: b\n", "{a='b'}"),
        ("a: b\r\nc: d\r\n", "{a='b' c='d'}"), ("\"a b\": c\n'd': e\n", "{a b='c' d='e'}"), ("a b: c\n", "{a b='c'}"),
        ("-a: b\n?c: d\n:e: f\n", "{-a='b' ?c='d' :e='f'}"), ("ключ: значение\n", "{ключ='значение'}"),
        // Plain scalars.
        ("a: :8000\n", "{a=':8000'}"), ("a: http://b:80/c?d#e\n", "{a='http://b:80/c?d#e'}"), ("a: b#c\n", "{a='b#c'}"),
        ("a: b'c\"d\n", "{a='b'c\"d'}"), ("a: -1\n", "{a='-1'}"), ("a: b:c\n", "{a='b:c'}"), ("a: b, [c] {d}\n", "{a='b, [c] {d}'}"),
        // Quoted scalars.
        ("a: 'b: #c'\n", "{a=!'b: #c'}"), ("a: 'it''s'\n", "{a=!'it's'}"), ("a: ''\n", "{a=!''}"), ("a: \"\"\n", "{a=!''}"),
        ("a: 'b\\n'\n", "{a=!'b\\n'}"), ("a: \"b\\tc\\n\\\"\\\\\\/\\x41\\u00e9\\U0001F600\"\n", "{a=!'b\tc\n\"\\/A\u{E9}\u{1F600}'}"),
        ("a: \"\\a\\b\\v\\f\\r\\e\\N\\_\\L\\P\\ \"\n", "{a=!'\u{7}\u{8}\u{B}\u{C}\r\u{1B}\u{85}\u{A0}\u{2028}\u{2029} '}"),
        ("a: 'b' # c\n", "{a=!'b'}"), ("a: \"b\tc\"\n", "{a=!'b\tc'}"),
        // Lists.
        ("- a\n- b\n", "['a' 'b']"), ("-\n- a\n-", "['' 'a' '']"), ("a:\n- b\n- c\nd: e\n", "{a=['b' 'c'] d='e'}"),
        ("a:\n  - b\n  - c\n", "{a=['b' 'c']}"), ("- a: b\n  c: d\n- e: f\n", "[{a='b' c='d'} {e='f'}]"),
        ("- - a\n  - b\n- c\n", "[['a' 'b'] 'c']"), ("-\n  a: b\n-\n  - c\n", "[{a='b'} ['c']]"),
        ("-   a: b\n    c:\n    - d\n    e: f\n", "[{a='b' c=['d'] e='f'}]"), ("- # c\n  a\n", "['a']"),
        // Flow collections.
        ("a: []\nb: {}\n", "{a=[] b={}}"), ("a: [b, 'c', \"d\", [e], {f: g}]\n", "{a=['b' !'c' !'d' ['e'] {f='g'}]}"),
        ("a: [b, c,]\n", "{a=['b' 'c']}"), ("a: {b: c, d: [e], }\n", "{a={b='c' d=['e']}}"),
        ("a: [\n  b, # c\n\n  d\n]\ne: f\n", "{a=['b' 'd'] e='f'}"), ("{\"a\":\"b\",\"c\":[1,true,null],\"d\":{}}", "{a=!'b' c=['1' 'true' 'null'] d={}}"),
        ("[http://a:80/b, c d]", "['http://a:80/b' 'c d']"), ("{a:\n b}", "{a='b'}"),
        // Block scalars.
        ("a: |\n  b\n   c\n\n  d\ne: f\n", "{a=!'b\n c\n\nd\n' e='f'}"), ("a: |-\n  b\n\nc: d\n", "{a=!'b' c='d'}"),
        ("a: |+\n  b\n\nc: d\n", "{a=!'b\n\n' c='d'}"), ("a: |\n  b", "{a=!'b'}"), ("a: |2\n   b\n  c\n", "{a=!' b\nc\n'}"),
        ("a: |2-\n   b\n", "{a=!' b'}"), ("a: |-2\n   b\n", "{a=!' b'}"), ("a: >\n  b\n  c\n\n  d\n   e\n  f\n", "{a=!'b c\nd\n e\nf\n'}"),
        ("a: |\nb: c\n", "{a=!'' b='c'}"), ("a: |+\n\n\nb: c\n", "{a=!'\n\n' b='c'}"), ("a: | # c\n  # b\n", "{a=!'# b\n'}"),
        ("- |\n a\n- b\n", "[!'a\n' 'b']"), ("a:\n- |\n b\n", "{a=[!'b\n']}"), ("a: |\n  b\n# c\nd: e\n", "{a=!'b\n' d='e'}"),
        ("a: |\n  b\n  ---\n", "{a=!'b\n---\n'}"), ("a: |\n\n  b\n", "{a=!'\nb\n'}"), ("a: |\n  \tb\n", "{a=!'\tb\n'}"),
    ]

    @Test(arguments: rows.indices)
    func means(row: Int) {
        let (text, meaning) = Self.rows[row]
        #expect(read(text) == meaning, "\(text)")
    }

    /// A text and the place and start of the message with which it is refused.
    static let refusals: [(String, String)] = [
        // Full YAML that is not of the subset.
        ("a: &b c\n", "1:4: anchors"), ("&a b: c\n", "1:1: anchors"), ("a: *b\n", "1:4: aliases"), ("a: !t b\n", "1:4: tags"),
        ("a: !!str b\n", "1:4: tags"), ("<<: a\n", "1:1: merge keys"), ("a: {<<: b}\n", "1:5: merge keys"),
        ("? a\n: b\n", "1:1: complex keys"), ("%YAML 1.2\n---\na: b\n", "1:1: directives"), ("a: b\n---\nc: d\n", "2:1: a second document"),
        ("a: b\n...\n", "2:1: the end mark"), ("a: [b,\n---\n", "2:1: a second document"), ("--- a: b\n", "1:5: nothing may follow"),
        ("a: 'b\n  c'\n", "1:4: the quote is not closed"), ("a: b\n  c\n", "2:3: unexpected indentation"),
        ("[a]: b\n", "1:4: a \":\""), ("a: [b: c]\n", "1:6: a \": \""), ("a: {b}\n", "1:6: expected \"key: value\""),
        // Tabs.
        ("\ta: b\n", "1:1: a tab"), ("a:\n\tb: c\n", "2:1: a tab"), ("a:\tb\n", "1:3: a tab"), ("a: b\tc\n", "1:5: a tab"),
        ("a: 'b'\t# c\n", "1:7: a tab"), ("-\ta\n", "1:2: a tab"), ("a: [\n\tb]\n", "2:1: a tab"), ("a: |\n\tb\n", "2:1: a tab"),
        // Structure.
        ("a: b\na: c\n", "2:1: the key \"a\" comes twice"), ("a: {b: c, b: d}\n", "1:11: the key \"b\" comes twice"),
        ("'a': b\na: c\n", "2:1: the key \"a\" comes twice"), ("a\n", "1:1: expected \"key: value\""), ("a:b\n", "1:1: expected \"key: value\""),
        ("'a'\n", "1:1: expected \"key: value\""), ("a: b\nc\n", "2:1: expected \"key: value\""), ("a: b: c\n", "1:5: a \": \""),
        ("a: - b\n", "1:4: a list starts"), ("a: b\n- c\n", "2:1: expected \"key: value\", not a list's item"),
        ("- a\nb: c\n", "2:1: expected \"- \""), ("a:\n    b: c\n  d: e\n", "3:3: this line is indented"),
        (" a: b\nc: d\n", "2:1: this line is indented less"), ("a: b\n  c: d\n", "2:3: unexpected indentation"), (": a\n", "1:1: a key is missing"),
        ("'': a\n", "1:1: a key must not be empty"), ("a: 'b' c\n", "1:8: the value has ended"), ("a: 'b'#c\n", "1:7: a comment needs a space"),
        ("a: 'b': c\n", "1:7: a \":\""), ("a: b:\n", "1:5: a \": \""), ("- - a\n b\n", "2:2: this line is indented"),
        // Characters that mean something else.
        ("a: @b\n", "1:4: a value can't start with \"@\""), ("a: `b\n", "1:4: a value can't"), ("a: %b\n", "1:4: a value can't"),
        ("a: ]\n", "1:4: a value can't"), ("a: ? b\n", "1:4: a value can't"), ("a: : b\n", "1:4: a value can't"), ("a: [:b]\n", "1:5: a value can't"),
        ("a: ,\n", "1:4: a value can't"), ("[- a]", "1:2: a list's item"), ("[a?b]", "1:3: expected \",\""), ("[,]", "1:2: a value can't"),
        // Flow collections.
        ("a: [b\n", "2:1: the text ends"), ("a: {b: c\n", "2:1: the text ends"), ("a: [b c: d]\n", "1:8: a \": \""), ("a: [b\n c]\n", "2:2: expected \",\""),
        ("a: [b] c\n", "1:8: the value has ended"), ("a: {b: }\n", "1:8: the value of \"b\""), ("a: [b,#c\nd]\n", "1:7: a value can't"),
        ("[a, b", "1:6: the text ends"), ("[", "1:2: the text ends"), ("{", "1:2: the text ends"), ("{a", "1:3: expected"), ("{a:", "1:4: the text ends"),
        // Quoted scalars.
        ("a: \"b\n", "1:4: the quote"), ("a: 'b", "1:4: the quote"), ("a: \"\\q\"\n", "1:5: unknown escape"), ("a: \"\\x4\"\n", "1:5: the escape needs 2"),
        ("a: \"\\ud800\"\n", "1:5: the escape names"), ("a: \"\\U00110000\"\n", "1:5: the escape names"), ("a: \"\\0\"\n", "1:5: unknown"),
        ("a: \"\\x00\"\n", "1:5: the escape names"), ("a: \"\\", "1:5: unknown escape"), ("a: \"\\u12", "1:5: the escape needs 4"),
        // Block scalars.
        ("a: |x\n", "1:5: expected the line's end"), ("a: |0\n", "1:5: expected"), ("a: |--\n", "1:6: expected"), ("a: |12\n", "1:6: expected"),
        ("a: |#c\n", "1:5: expected"), ("a: |\n    \n  b\n", "3:3: a blank line above"), ("a: |\n    b\n  c\n", "3:3: unexpected indentation"),
        ("|\n a\n", "1:1: expected \"key: value\""), ("a: |3\n  b\n", "2:3: unexpected indentation"),
        // Bytes.
        ("a: \u{0}\n", "1:4: control characters"), ("a: \u{7F}\n", "1:4: control characters"), ("a: \u{85}\n", "1:4: control characters"),
        ("a: é\u{2028}\n", "1:5: line and paragraph"), ("a: \u{FEFF}\n", "1:4: a byte order mark"), ("a: \u{FFFE}\n", "1:4: U+FFFE"),
        ("a: b\rc: d\n", "1:5: a carriage return"), ("é: [ü, ö\n", "2:1: the text ends"), ("é: 'ü' ö\n", "1:8: the value has ended"),
    ]

    @Test(arguments: refusals.indices)
    func refuses(row: Int) {
        let (text, message) = Self.refusals[row]
        let answer = read(text)
        #expect(answer.hasPrefix(message), "\(text.debugDescription): \(answer)")
    }

    @Test(arguments: [
        [0x61, 0x3A, 0x20, 0x80], [0x61, 0xC0, 0xAF], [0x61, 0xE0, 0x80, 0x80], [0x61, 0xED, 0xA0, 0x80],
        [0x61, 0xF4, 0x90, 0x80, 0x80], [0x61, 0xF8, 0x88, 0x80, 0x80, 0x80], [0x61, 0xC3], [0x61, 0xE2, 0x82], [0x61, 0xF0, 0x9F, 0x98],
        [0x61, 0xE2, 0x28, 0xA1], [0xFF, 0xFE],
    ] as [[UInt8]])
    func refusesWhatIsNotUTF8(bytes: [UInt8]) {
        #expect(throws: YAMLError.self) { try YAML.read(bytes.span) }
    }

    @Test func limitsHold() {
        var limits = YAMLLimits()
        limits.textBytesMax = 64
        limits.depthMax = 3
        limits.nodesMax = 8
        limits.keyBytesMax = 8
        #expect(read(String(repeating: "#", count: 64), limits: limits) == "''")
        #expect(read(String(repeating: "#", count: 65), limits: limits).hasPrefix("1:1: the text is longer than 64 bytes"))
        #expect(read("[[[]]]", limits: limits) == "[[[]]]")
        #expect(read("[[[[]]]]", limits: limits).hasPrefix("1:4: maps and lists are nested more than 3 deep"))
        #expect(read("- - - - a", limits: limits).hasPrefix("1:7: maps and lists are nested"))
        #expect(read("a:\n b:\n  c:\n   d: e", limits: limits).hasPrefix("4:4: maps and lists are nested"))
        #expect(read("[a,b,c,d,e,f,g]", limits: limits).hasPrefix("["))
        #expect(read("[a,b,c,d,e,f,g,h]", limits: limits).hasPrefix("1:16: the text holds more than 8 values"))
        #expect(read("-\n-\n-\n-\n-\n-\n-\n-\n", limits: limits).contains("more than 8 values"))
        #expect(read("12345678: a", limits: limits) == "{12345678='a'}")
        #expect(read("123456789: a", limits: limits).hasPrefix("1:1: a key is longer than 8 bytes"))
        #expect(read(String(repeating: "[", count: 100_000)).contains("nested more than 32 deep"))
        #expect(read(String(repeating: "a: {", count: 10)).hasPrefix("1:"))
    }

    /// One line of a megabyte must not cost the square of its length.
    @Test(.timeLimit(.minutes(1))) func longLinesAreCheap() {
        let items = "[" + String(repeating: "a,", count: 60_000) + "a" + String(repeating: " ", count: 900_000) + "]"
        #expect(read(items).hasPrefix("['a' 'a'"))
    }

    @Test func scalarsKnowTheirPlace() throws {
        let root = try YAML.read(Array("é: [a, 'ü', b]\nc:\n  - d\n".utf8).span)
        guard case .map(let entries) = root.content, case .list(let flow) = entries[0].value.content,
            case .list(let block) = entries[1].value.content
        else { Issue.record("not the structure"); return }
        #expect(flow.map(\.position) == [5, 8, 13].map { TextPosition(line: 1, column: $0) })
        #expect(entries[1].position == TextPosition(line: 2, column: 1))
        #expect(block[0].position == TextPosition(line: 3, column: 5))
    }

    /// Every file of the corpus, and every beginning of it, is read or refused.
    @Test func corpusDoesNotHarm() throws {
        let folder = repositoryRoot.appending(path: "Tests/Corpus/yaml")
        let names = try FileManager.default.contentsOfDirectory(atPath: folder.path)
        #expect(names.count >= 10)
        for name in names {
            let bytes = [UInt8](try Data(contentsOf: folder.appending(path: name)))
            for length in 0...min(bytes.count, 4096) { _ = try? YAML.read(Array(bytes.prefix(length)).span) }
            _ = try? YAML.read(bytes.span)
        }
    }
}

/// The folder that holds Package.swift.
let repositoryRoot = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()
