// The counter slabs that workers write, each to one worker at a time. Slab 0 is the supervisor's own.

/// Which slabs are free.
struct SlabPool {
    private var isTaken: [Bool]

    /// Of a region with so many slabs.
    init(slabs: Int) {
        isTaken = Array(repeating: false, count: slabs)
        isTaken[0] = true
    }

    /// How many slabs a node with so many workers has: enough for several generations of more workers than there are now.
    static func count(workers: Int) -> Int { 1 + max(128, workers * 8) }

    /// A free slab; nil when there is none.
    mutating func take() -> Int? {
        guard let free = isTaken.firstIndex(of: false) else { return nil }
        isTaken[free] = true
        return free
    }

    /// Takes a certain slab; false when it is taken or there is none of that number.
    mutating func take(_ slab: Int) -> Bool {
        guard isTaken.indices.contains(slab), !isTaken[slab] else { return false }
        isTaken[slab] = true
        return true
    }

    mutating func free(_ slab: Int) { isTaken[slab] = false }
}
