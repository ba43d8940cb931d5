// What a person may have meant: the known name nearest to one that is not known.

/// Suggestions for misspelt names.
enum NearestName {
    /// "; did you mean "NAME"?", or nothing when no name is near.
    static func hint(for name: String, among names: [String], prefix: String = "") -> String {
        guard let nearest = find(name, among: names) else { return "" }
        return "; did you mean \"\(prefix)\(nearest)\"?"
    }

    /// The name that the fewest edits (an insertion, a deletion, a replacement, two letters swapped) make of `name`: at
    /// most a third of its length, at least one. The first in order wins among equals.
    static func find(_ name: String, among names: [String]) -> String? {
        let wanted = Array(name.utf8.prefix(nameBytesMax))
        let editsMax = max(1, wanted.count / 3)
        var best: (name: String, edits: Int)?
        for candidate in names {
            let letters = Array(candidate.utf8.prefix(nameBytesMax))
            if abs(letters.count - wanted.count) > editsMax { continue }
            let edits = distance(wanted, letters)
            if edits <= editsMax && edits < (best?.edits ?? Int.max) { best = (candidate, edits) }
        }
        return best?.name
    }

    /// Names are compared up to here, so that a long argument costs nothing.
    private static let nameBytesMax = 64

    /// The optimal string alignment distance.
    private static func distance(_ left: [UInt8], _ right: [UInt8]) -> Int {
        var beforePrevious: [Int] = []
        var previous = Array(0...right.count)
        for row in 0..<left.count {
            var current = [row + 1]
            for column in 0..<right.count {
                let replacement = previous[column] + (left[row] == right[column] ? 0 : 1)
                var edits = min(replacement, previous[column + 1] + 1, current[column] + 1)
                if row > 0 && column > 0 && left[row] == right[column - 1] && left[row - 1] == right[column] {
                    edits = min(edits, beforePrevious[column - 1] + 1)
                }
                current.append(edits)
            }
            beforePrevious = previous
            previous = current
        }
        return previous[right.count]
    }
}
