// Reads the tree and holds it to the rules of its own layout: which module may import which, what a file must begin with, how
// long it may be, and what must not be left in it. A rule that fails names file and line.

import Foundation
import Testing

/// A source file of the repository.
struct SourceFile: CustomTestStringConvertible {
    /// From the repository's root.
    let path: String
    let lines: [Substring]

    var testDescription: String { path }
    /// "Sources/Wire/HTTP1/Head.swift" is of module "Wire".
    var module: String { path.split(separator: "/").dropFirst().first.map(String.init) ?? "" }
}

enum Tree {
    static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    /// Every file below the folders that has one of the extensions, or no extension when that is asked for with "".
    static func files(_ folders: [String], _ extensions: Set<String>) -> [SourceFile] {
        var found: [SourceFile] = []
        for folder in folders {
            let start = root.appendingPathComponent(folder)
            guard let paths = FileManager.default.enumerator(atPath: start.path) else { continue }
            for case let path as String in paths {
                let full = start.appendingPathComponent(path)
                guard !path.contains("__pycache__"), extensions.contains(full.pathExtension),
                    let text = try? String(contentsOf: full, encoding: .utf8)
                else { continue }
                found.append(SourceFile(path: "\(folder)/\(path)", lines: text.split(separator: "\n", omittingEmptySubsequences: false)))
            }
        }
        return found.sorted { $0.path < $1.path }
    }

    static let swift = files(["Sources", "Tests"], ["swift"])
    static let c = files(["Sources"], ["c", "h"])
    static let page = files(["Sources/CAssets/page"], ["html", "js", "css", "svg"])
    static let scripts = files(["script", ".ci", "Tests/Fuzz", "Tests/Autobahn"], [""]) + files(["Tests"], ["py"])
    static let all = swift + c + page + scripts
}

@Suite struct TidyTests {
    /// Which modules of ours each module may import. What is not listed here does not belong into the tree.
    static let imports: [String: Set<String>] = [
        "Base": [],
        "Memory": ["Base"],
        "Wire": ["Base", "Memory"],
        "Control": ["Base", "Memory"],
        "Config": ["Base"],
        "Telemetry": ["Base", "Memory"],
        "Reactor": ["CIOCore", "Base", "Memory"],
        "Crypto": ["CTLS", "Base"],
        "Gossip": ["Crypto", "Base"],
        "Authentication": ["Crypto", "Telemetry", "Memory", "Base"],
        "Transport": ["Reactor", "Wire", "Crypto", "Telemetry", "Base", "Memory"],
        "Supervisor": ["Reactor", "Gossip", "Authentication", "Crypto", "Control", "Config", "Telemetry", "Memory", "Base"],
        "Worker": ["CAssets", "Transport", "Reactor", "Wire", "Control", "Authentication", "Crypto", "Config", "Telemetry", "Memory", "Base"],
        "Agent": ["Transport", "Authentication", "Reactor", "Wire", "Crypto", "Config", "Telemetry", "Memory", "Base"],
        "CLI": ["Transport", "Reactor", "Wire", "Crypto", "Config", "Telemetry", "Memory", "Base"],
        "DemoService": ["Reactor", "Wire", "Memory", "Base"],
        "TestKit": ["Reactor", "Wire", "Control", "Memory", "Base"],
    ]

    /// Modules of the toolchain that a module of ours may import. Pure modules see neither a socket nor a clock.
    static let systemImports: [String: Set<String>] = [
        "Memory": ["Synchronization"],
        "Reactor": ["Glibc", "Synchronization"],
        "Supervisor": ["Glibc"], "Worker": ["Glibc"], "Agent": ["Glibc"], "CLI": ["Glibc"], "DemoService": ["Glibc"],
    ]

    /// Modules in which unsafe constructs may be marked and used.
    static let unsafeModules: Set<String> = ["Memory", "Reactor", "Crypto"]

    @Test(arguments: Tree.swift.filter { $0.path.hasPrefix("Sources/") })
    func importsPointOneWay(_ file: SourceFile) throws {
        let allowed = try #require(Self.imports[file.module], "module \(file.module) is not in the table of imports")
        let system = Self.systemImports[file.module] ?? []
        for (index, line) in file.lines.enumerated() {
            let words = line.split(separator: " ").map(String.init)
            guard let position = words.firstIndex(of: "import"), position <= 2, line.first?.isWhitespace == false, !line.hasPrefix("//"),
                position + 1 < words.count
            else { continue }
            let name = words.last!.split(separator: ".").first.map(String.init) ?? ""
            #expect(allowed.contains(name) || system.contains(name), "\(file.path):\(index + 1): \(file.module) may not import \(name)")
        }
    }

    @Test(arguments: Tree.swift.filter { $0.path.hasPrefix("Sources/") && !unsafeModules.contains($0.module) })
    func unsafeCodeStaysWhereItBelongs(_ file: SourceFile) {
        for (index, line) in file.lines.enumerated() where !line.drop(while: \.isWhitespace).hasPrefix("//") {
            for word in ["unsafe ", "@unsafe", "@safe", "UnsafeMutable", "UnsafePointer", "UnsafeRaw", "UnsafeBuffer", "nonisolated(unsafe)"]
            where line.contains(word) {
                Issue.record("\(file.path):\(index + 1): '\(word.trimmingCharacters(in: .whitespaces))' outside of the modules that may")
            }
        }
    }

    @Test(arguments: Tree.all)
    func opensWithWhatItIs(_ file: SourceFile) {
        var first = file.lines.first ?? ""
        if first.hasPrefix("#!") || first.hasPrefix("// swift-tools-version") { first = file.lines.dropFirst().first ?? "" }
        if file.path.hasSuffix("__init__.py") && file.lines.count <= 2 { return }
        let opens = ["// ", "/* ", "# ", "\"\"\"", "<!-- "].contains { first.hasPrefix($0) }
        #expect(opens, "\(file.path) does not open with a comment that says what it is")
    }

    @Test(arguments: Tree.all)
    func isShortEnough(_ file: SourceFile) {
        #expect(file.lines.count <= 701, "\(file.path) has \(file.lines.count) lines; 700 are the most")
    }

    @Test(arguments: Tree.all.filter { !$0.path.hasPrefix("Tests/TidyTests/") })
    func hasNoLeftovers(_ file: SourceFile) {
        let words = ["TODO", "FIXME", "XXX", "HACK", "fatalError(\"not", "fatalError(\"un", "/home/", "/Users/"]
        for (index, line) in file.lines.enumerated() {
            for word in words where line.contains(word) {
                Issue.record("\(file.path):\(index + 1): leftover '\(word)'")
            }
            if line.last == " " || line.last == "\t" || line.last == "\r" { Issue.record("\(file.path):\(index + 1): space at the end of the line") }
        }
        #expect(!file.path.hasSuffix("/Placeholder.swift"), "\(file.path) is left over")
    }

    /// A document that a comment sends its reader to must be there.
    @Test(arguments: Tree.all.filter { !$0.path.hasPrefix("Tests/TidyTests/") })
    func namesDocumentsThatExist(_ file: SourceFile) {
        for (index, line) in file.lines.enumerated() where line.contains(".md") {
            for match in line.matches(of: /[A-Za-z0-9_\/-]+\.md\b/) {
                let isThere = FileManager.default.fileExists(atPath: Tree.root.appendingPathComponent(String(match.output)).path)
                #expect(isThere, "\(file.path):\(index + 1): there is no \(match.output)")
            }
        }
    }

    @Test func treeWasFound() {
        #expect(Tree.swift.count > 50 && Tree.c.count > 5 && Tree.scripts.count > 10)
    }
}
