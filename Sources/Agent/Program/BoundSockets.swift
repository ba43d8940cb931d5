// Listening sockets for an address as it was configured: all addresses of the machine, a literal, or a name. A program that
// starts waits for the name's look-up; one that runs goes on meanwhile.

internal import Base
internal import Config
internal import Glibc
internal import Reactor

/// Opens listening sockets.
struct BoundSockets {
    /// What is done with a socket; the address is the one that was asked for.
    typealias Use = (consuming OwnedDescriptor, SocketAddress) throws(SystemError) -> Void

    let loop: Loop
    let resolver: Resolver

    /// What asks for the sockets, as failures begin: the program, or the key of the configuration.
    let owner: String

    /// Binds what `bind` names and gives each socket to `use`. A name is looked up first; nothing else runs meanwhile.
    func open(_ bind: BindAddress, use: Use) throws(ProgramError) {
        if bind.host.isEmpty {
            try openAll(port: bind.port, use)
        } else {
            try open(try resolve(bind), of: bind, use)
        }
    }

    /// As `open`, while the loop runs: `completion` is called once, possibly from within this call. After a failure some
    /// sockets may have been given to `use`.
    func openLater(_ bind: BindAddress, use: @escaping Use, completion: @escaping (ProgramError?) -> Void) {
        func finish(_ body: () throws(ProgramError) -> Void) {
            do throws(ProgramError) {
                try body()
                completion(nil)
            } catch {
                completion(error)
            }
        }
        if bind.host.isEmpty {
            finish { () throws(ProgramError) in try openAll(port: bind.port, use) }
            return
        }
        resolver.resolve(host: bind.host, port: bind.port) { result in
            finish { () throws(ProgramError) in
                switch result {
                case .success(let found): try open(found, of: bind, use)
                case .failure(let error): throw cannot("listen on \(bind.settingText): \(error)")
                }
            }
        }
    }

    private func resolve(_ bind: BindAddress) throws(ProgramError) -> [SocketAddress] {
        var answer: Result<[SocketAddress], ResolveError>?
        resolver.resolve(host: bind.host, port: bind.port) { answer = $0 }
        while true {
            switch answer {
            case nil: loop.runTurn(until: .never)
            case .success(let found): return found
            case .failure(let error): throw cannot("listen on \(bind.settingText): \(error)")
            }
        }
    }

    /// All addresses, IPv6 and IPv4; IPv4 alone on a machine without IPv6.
    private func openAll(port: UInt16, _ use: Use) throws(ProgramError) {
        var failure: SystemError?
        for host in ["::", "0.0.0.0"] {
            guard let address = SocketAddress(address: host, port: port) else { continue }
            do {
                try use(try Listener.bind(address), address)
                return
            } catch {
                failure = error
                if !Self.meansAbsent(error) { break }
            }
        }
        throw cannot(failure?.description ?? "listen on :\(port): no address")
    }

    /// The addresses of a name. One that this machine does not have (IPv6 loopback where IPv6 is off) is passed over when
    /// another one is there. For port 0 only the first is used: each would get a port of its own. IPv4 comes first: who
    /// gives a port alone means 127.0.0.1 as much as ::1.
    private func open(_ found: [SocketAddress], of bind: BindAddress, _ use: Use) throws(ProgramError) {
        var opened = 0
        var failure: SystemError?
        let ordered = found.filter { !$0.host.contains(":") } + found.filter { $0.host.contains(":") }
        for address in ordered where opened == 0 || bind.port != 0 {
            do {
                try use(try Listener.bind(address, v6Only: true), address)
                opened += 1
            } catch {
                failure = error
                if !Self.meansAbsent(error) { throw cannot("\(error)") }
            }
        }
        if opened == 0 { throw cannot(failure?.description ?? "listen on \(bind.settingText): no address") }
    }

    private func cannot(_ what: String) -> ProgramError { ProgramError("\(owner): cannot \(what)") }

    /// Whether the machine does not have the address, or the whole family.
    private static func meansAbsent(_ error: SystemError) -> Bool {
        error.code == EAFNOSUPPORT || error.code == EADDRNOTAVAIL
    }
}
