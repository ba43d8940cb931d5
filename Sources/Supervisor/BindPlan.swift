// What a configured address means: which sockets to make for it, in which order to try.
//
// ":8000" is all addresses: one socket for IPv6 that takes IPv4 as well, or, on a machine without IPv6, one for IPv4. A name
// means every address that it resolves to; those that this machine does not have are left out as long as one is left.

import Config
import Reactor

/// The sockets for one bind address.
enum BindPlan: Equatable {
    /// The first that can be made: the others are for machines that lack what the first needs.
    case firstOf([SocketAddress])
    /// All of them.
    case allOf([SocketAddress])
    /// The name has to be looked up first; then all of its addresses.
    case lookUp(host: String)

    init(_ address: BindAddress) {
        if address.host.isEmpty {
            let candidates = ["::", "0.0.0.0"].compactMap { SocketAddress(address: $0, port: address.port) }
            self = .firstOf(candidates)
        } else if let literal = SocketAddress(address: address.host, port: address.port) {
            self = .allOf([literal])
        } else {
            self = .lookUp(host: address.host)
        }
    }

    /// The addresses without those that are there twice, in order.
    static func distinct(_ addresses: [SocketAddress]) -> [SocketAddress] {
        var seen: Set<SocketAddress> = []
        return addresses.filter { seen.insert($0).inserted }
    }
}
