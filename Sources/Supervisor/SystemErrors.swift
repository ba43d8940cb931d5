// What the machine's refusals mean for a port.

import Glibc
import Reactor

extension SystemError {
    /// Another socket has the address.
    var isAddressInUse: Bool { code == EADDRINUSE }

    /// This machine has no such address, or not this family of addresses.
    var isAddressMissing: Bool { code == EADDRNOTAVAIL || code == EAFNOSUPPORT || code == EPROTONOSUPPORT }
}

/// The signals that end a node.
enum EndSignal {
    static let all = [SIGTERM, SIGINT]
    static let kill = SIGKILL
}

/// The signals that change a node.
enum ChangeSignal {
    static let reload = SIGHUP
    static let upgrade = SIGUSR2
}
