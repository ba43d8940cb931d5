// Addresses between nodes: what this one tells others of itself, and what the texts that others tell mean.

import Base
import Config
import Control
import Gossip
import Reactor

/// What a node tells others of its ports.
struct AdvertisedAddresses: Equatable {
    var gossip: String
    var proxy: String
    var admin: String

    init(_ config: ServerConfig, gossip: SocketAddress, ports: ListenerTable) {
        self.init(config, gossip: [gossip], proxy: ports.addresses(.proxy), admin: ports.addresses(.admin), machine: SocketAddress.ofMachine)
    }

    /// From what is configured, where the ports are bound, and the machine's addresses.
    init(
        _ config: ServerConfig, gossip: [SocketAddress], proxy: [SocketAddress], admin: [SocketAddress], machine: [SocketAddress]
    ) {
        self.gossip = Self.text(config.cluster.gossip.advertiseAddress, gossip, machine)
        self.proxy = Self.text(config.proxy.advertiseAddress, proxy, machine)
        self.admin = Self.text(config.admin.advertiseAddress, admin, machine)
    }

    private static func text(_ configured: AdvertiseAddress, _ bound: [SocketAddress], _ machine: [SocketAddress]) -> String {
        let own = bound.first { !$0.isUnspecified && !$0.isLoopback } ?? bound.first
        let port = configured.port != 0 ? configured.port : own?.port ?? 0
        if !configured.host.isEmpty { return AdvertiseAddress(host: configured.host, port: port).settingText }
        guard var address = own else { return "" }
        if address.isUnspecified { address = best(machine) ?? address }
        address.port = port
        return address.description
    }

    /// The address of the machine that others most likely reach: one of a network of its own first, IPv4 before IPv6.
    static func best(_ machine: [SocketAddress]) -> SocketAddress? {
        let reachable = machine.filter { !$0.isLoopback && !$0.isLinkLocal && !$0.isUnspecified }
        return reachable.first { $0.isPrivate && $0.isIPv4 } ?? reachable.first { $0.isIPv4 } ?? reachable.first
            ?? machine.first { $0.isLoopback && $0.isIPv4 }
    }
}

/// What texts of addresses mean. A name is looked up when it is needed, and again after a while, by itself as long as it is in use;
/// meanwhile, and before the first answer, what was known is used.
final class AddressBook {
    private struct Entry {
        var address: SocketAddress?
        var isLookedUp = false
        var freshUntil: Instant
    }

    /// How long what was found is good, and that nothing was; and how often the names in use are looked at.
    struct Times {
        var name = Duration.seconds(30)
        var failure = Duration.seconds(5)
        var repetition = Duration.seconds(10)
    }

    /// Asks for the addresses of a name; nil: there are none to be had.
    typealias LookUp = (_ host: String, _ port: UInt16, _ done: @escaping ([SocketAddress]?) -> Void) -> Void

    private let loop: Loop
    private let times: Times
    private let resolve: LookUp
    private var entries: [String: Entry] = [:]
    private var timer: CallbackTimer?
    /// The texts that are in use.
    var inUse: () -> [String] = { [] }
    /// Told when a text means something else than before.
    var changed: (String) -> Void = { _ in }

    /// Three for each node, and then some.
    private static let entriesMax = 16_384

    init(_ loop: Loop, times: Times = Times(), resolve: LookUp? = nil) {
        self.loop = loop
        self.times = times
        let resolver = Resolver(loop)
        self.resolve = resolve ?? { host, port, done in resolver.resolve(host: host, port: port) { done(try? $0.get()) } }
    }

    /// Looks up the names in use again and again from now on.
    func start() {
        let timer = CallbackTimer(loop) { [unowned self] in repeatLookUps() }
        timer.schedule(after: times.repetition)
        self.timer = timer
    }

    func stop() {
        timer?.cancel()
        timer = nil
    }

    private func repeatLookUps() {
        for text in inUse() where !text.isEmpty { _ = address(text) }
        timer?.schedule(after: times.repetition)
    }

    /// What the text means, as far as it is known.
    func address(_ text: String) -> SocketAddress? {
        if let entry = entries[text] {
            if !entry.isLookedUp, entry.freshUntil < loop.now { lookUp(text) }
            return entry.address
        }
        if entries.count >= Self.entriesMax { entries.removeAll() }
        if let literal = SocketAddress(text: text) {
            entries[text] = Entry(address: literal, freshUntil: .never)
            return literal
        }
        entries[text] = Entry(address: nil, freshUntil: loop.now)
        lookUp(text)
        return entries[text]?.address
    }

    private func lookUp(_ text: String) {
        guard let advertised = try? AdvertiseAddress(settingText: text), !advertised.host.isEmpty, advertised.port != 0 else {
            entries[text]?.freshUntil = .never
            return
        }
        entries[text]?.isLookedUp = true
        resolve(advertised.host, advertised.port) { [weak self] answer in
            guard let self, var entry = entries[text] else { return }
            let before = entry.address
            entry.isLookedUp = false
            entry.freshUntil = loop.now + (answer == nil ? times.failure : times.name)
            if let found = answer, !found.contains(where: { $0 == before }) { entry.address = found.first }
            entries[text] = entry
            if entry.address != before { changed(text) }
        }
    }
}
