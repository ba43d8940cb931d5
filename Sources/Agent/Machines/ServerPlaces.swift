// Which of the agent's servers the tunnels of one listener go to: pure, numbers of servers in and out.
//
// Each tunnel goes to a server of its own, so that a node that dies takes one of them and not both. A tunnel whose server fails it, or
// sends it away, moves on to the next one that no other tunnel of the listener has; where there is none, it stays. It does not come
// back by itself: all nodes of a cluster are as good as each other. Each listener begins at a server of its own choice, so that the
// agents of a fleet, which have the same list, don't all go to its first.

/// The places of one listener's tunnels.
struct ServerPlaces {
    private let serverCount: Int
    /// For each tunnel, its server.
    private(set) var places: [Int]

    /// `tunnels` is at most `servers`; `first` may be any number.
    init(servers: Int, tunnels: Int, first: Int) {
        precondition(tunnels >= 1 && tunnels <= servers, "each tunnel needs a server of its own")
        serverCount = servers
        places = (0..<tunnels).map { (first % servers + servers + $0) % servers }
    }

    /// The tunnel's server is of no use now: the server that it goes to next.
    mutating func move(_ tunnel: Int) -> Int {
        for step in 1..<max(serverCount, 2) {
            let next = (places[tunnel] + step) % serverCount
            guard !places.contains(next) else { continue }
            places[tunnel] = next
            break
        }
        return places[tunnel]
    }
}
