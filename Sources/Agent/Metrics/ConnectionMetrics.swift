// How the agent stands with its server, by endpoint: what tells whether a device out there can be reached.

/// The counters of one endpoint's connections to the server.
final class ConnectionMetrics {
    let endpoint: String
    /// Tunnels of the endpoint's listeners that stand: one for each listener, or `connect.redundancy`.
    fileprivate(set) var connected = 0
    /// Sessions that were made, and attempts that failed.
    private(set) var connects: UInt64 = 0
    private(set) var failures: UInt64 = 0

    init(endpoint: String) { self.endpoint = endpoint }

    /// An attempt to connect ended.
    func tried(succeeded: Bool) {
        if succeeded { connects &+= 1 } else { failures &+= 1 }
    }
}

/// A listener's part in the gauge.
struct ConnectionGauge {
    var metrics: ConnectionMetrics?
    private var isCounted = false

    init() {}

    /// The listener is connected, or is not.
    mutating func set(_ isConnected: Bool) {
        guard let metrics, isConnected != isCounted else { return }
        isCounted = isConnected
        metrics.connected += isConnected ? 1 : -1
    }
}
