// What a reload does to the listeners: pure, from two configurations to what is kept, replaced, added and removed.
//
// A listener has no name of its own, and several may have one endpoint. So those that are equal in all but their access log
// (which changes in place) are the same listener wherever they stand in the file. Of the rest, one of the same endpoint is what
// the old one became. When the server or the transport changed, nothing is the same, and what was is replaced.

internal import Config

/// From the running configuration to the next.
struct ReloadPlan: Equatable {
    /// Where a listener of the new configuration comes from; `old` is an index in the old one.
    enum Source: Equatable {
        /// It stays as it is.
        case kept(old: Int)
        /// It stays, and logs its requests in another way.
        case keptWithOtherLog(old: Int)
        /// It connects, and then the old one drains.
        case replaces(old: Int)
        case added
    }

    /// One for each listener of the new configuration.
    var sources: [Source]
    /// Indices of old listeners that have no successor.
    var removed: [Int]
    /// Keys that have another value, which needs a restart to take effect.
    var fixedKeys: [String]

    /// `provesConnect`: whatever concerns the way to the server is tried by new tunnels, also what connections to come would have used
    /// by themselves (the token, a proxy).
    init(from old: AgentConfig, to new: AgentConfig, provesConnect: Bool = false) {
        var isSameServer = old.connect.servers == new.connect.servers && old.connect.redundancy == new.connect.redundancy
            && old.connect.transport == new.connect.transport && old.connect.tls == new.connect.tls
        if provesConnect, old.connect.token != new.connect.token || old.connect.proxy != new.connect.proxy { isSameServer = false }
        var isTaken = Array(repeating: false, count: old.listeners.count)
        var found: [Source?] = Array(repeating: nil, count: new.listeners.count)

        func match(_ isMatch: (ListenerConfig, ListenerConfig) -> Bool, _ source: (Int) -> Source) {
            for (index, listener) in new.listeners.enumerated() where found[index] == nil {
                guard let position = old.listeners.indices.first(where: { !isTaken[$0] && isMatch(old.listeners[$0], listener) })
                else { continue }
                isTaken[position] = true
                found[index] = source(position)
            }
        }
        // The best matches first, whatever their order.
        match(==) { isSameServer ? .kept(old: $0) : .replaces(old: $0) }
        match(Self.isEqualButLog) { isSameServer ? .keptWithOtherLog(old: $0) : .replaces(old: $0) }
        match({ $0.endpointID == $1.endpointID }) { .replaces(old: $0) }

        sources = found.map { $0 ?? .added }
        removed = isTaken.indices.filter { !isTaken[$0] }
        fixedKeys = old.ioBackend == new.ioBackend ? [] : ["io_backend"]
    }

    private static func isEqualButLog(_ one: ListenerConfig, _ other: ListenerConfig) -> Bool {
        var one = one
        one.accessLog = other.accessLog
        return one == other
    }

    /// How many listeners stay, in whichever way.
    var keptCount: Int {
        sources.count {
            switch $0 {
            case .kept, .keptWithOtherLog: true
            case .replaces, .added: false
            }
        }
    }

    var replacedCount: Int {
        sources.count { if case .replaces = $0 { true } else { false } }
    }

    var addedCount: Int { sources.count { $0 == .added } }
}
