// Which worker gets the next connection: one of those with the fewest open ones, each in turn.
//
// A worker's load is what it says it has open, and what was passed to it that it has not received yet. The first comes from
// shared memory, which a worker that went wild could fill with anything: then it gets more or fewer connections than the
// others, and nothing worse.

import Control

/// The connections of a worker, as far as the choice needs them.
struct WorkerLoad: Equatable {
    /// Connections handed to it by the supervisor in its life.
    var passed: UInt64
    /// Connections that it received from the supervisor, by its own count.
    var received: UInt64
    /// Connections that it has open, by its own count; those moved to it by siblings are among them.
    var open: UInt64

    /// Connections that it has to serve.
    var connections: UInt64 {
        let waiting = passed >= received ? passed - received : 0
        let open = min(open, UInt64(UInt32.max))
        return open + min(waiting, UInt64(UInt32.max))
    }
}

/// How many connections a worker is given. One that ran out of descriptors could not even take the next message, so it is not
/// given more than it has room for, and what it opens by itself has its share. The admin port has a share of its own: a
/// full node still says how it is.
struct WorkerRoom: Equatable {
    /// Connections of clients and agents.
    let connectionsMax: UInt64
    /// The same with those to the admin port.
    let connectionsMaxWithAdmin: UInt64

    /// For processes that may have so many descriptors.
    init(descriptors: Int) {
        let limit = UInt64(max(8, min(descriptors, 65_536)))
        let reserve = min(limit / 4, max(64, limit / 16))
        connectionsMax = limit - reserve
        connectionsMaxWithAdmin = limit - reserve / 2
    }

    func hasRoom(_ connections: UInt64, for listener: ListenerKind) -> Bool {
        connections < (listener == .admin ? connectionsMaxWithAdmin : connectionsMax)
    }
}

/// Chooses among workers. The turn is kept between calls.
struct WorkerChoice {
    private var turn = 0
    /// Of this call; kept for its memory.
    private var loads: [UInt64?] = []

    /// How much more than the least loaded one a worker may have and still get its turn: clients that come one after the other
    /// reach all workers, and so all agents, and not always the one that has a connection less.
    private static func slack(_ least: UInt64) -> UInt64 { 3 + least / 16 }

    /// The index of the worker to take; nil when there is none. `load` is asked once for each; nil: not that one.
    mutating func next(count: Int, load: (Int) -> UInt64?) -> Int? {
        guard count > 0 else { return nil }
        loads.removeAll(keepingCapacity: true)
        var least = UInt64.max
        for index in 0..<count {
            let connections = load(index)
            loads.append(connections)
            if let connections { least = min(least, connections) }
        }
        for step in 1...count {
            let index = (turn + step) % count
            guard let connections = loads[index], connections - least <= Self.slack(least) else { continue }
            turn = index
            return index
        }
        return nil
    }
}
