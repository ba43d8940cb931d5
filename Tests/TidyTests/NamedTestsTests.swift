// Documents that say which test holds them to their word: each test that they name is there.

import Foundation
import Testing

@Suite struct NamedTestsTests {
    /// The documents, and how many tests each names at least.
    static let documents = [("docs/security.md", 50), ("docs/limits.md", 25)]

    /// Every function of every test.
    static let functions: Set<Substring> = {
        var names: Set<Substring> = []
        for file in Tree.files(["Tests"], ["swift", "py"]) {
            for line in file.lines {
                for match in line.matches(of: /\b(?:def|func) ([A-Za-z0-9_]+)\(/) { names.insert(match.output.1) }
            }
        }
        return names
    }()

    @Test(arguments: documents) func namesTestsThatExist(_ document: String, _ least: Int) throws {
        let text = try String(contentsOf: Tree.root.appendingPathComponent(document), encoding: .utf8)
        var count = 0
        for line in text.split(separator: "\n") where line.hasPrefix("|") {
            // In the last column, and anywhere where it can only be one.
            let last = line.split(separator: "|").last ?? ""
            let names = last.matches(of: /`([a-z][A-Za-z0-9_]+)`/).map(\.output.1) + line.matches(of: /`(test_[a-z0-9_]+)`/).map(\.output.1)
            for name in Set(names) {
                count += 1
                #expect(Self.functions.contains(name), "\(document): there is no test \(name)")
            }
        }
        #expect(count >= least, "\(document) names \(count) tests")
    }
}
