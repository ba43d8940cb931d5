// The agents' sessions that said go-away a moment ago. A data connection that one of them had opened just before may come
// after its word, and would be taken for every next request while the agent waits for its end.

/// The last sessions that left, by their credentials' agent; bounded, the oldest forgotten first.
struct LeftAgents {
    /// So many leave within the time that a connection needs to come, at the most.
    static let countMax = 16_384

    private var known: Set<[UInt8]> = []
    private var inOrder: [[UInt8]] = []
    private var oldest = 0

    func contains(_ agent: [UInt8]) -> Bool { known.contains(agent) }

    mutating func insert(_ agent: [UInt8]) {
        guard known.insert(agent).inserted else { return }
        if inOrder.count < Self.countMax {
            inOrder.append(agent)
        } else {
            known.remove(inOrder[oldest])
            inOrder[oldest] = agent
            oldest = (oldest + 1) % Self.countMax
        }
    }
}
