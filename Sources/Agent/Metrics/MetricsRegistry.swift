// The counters of all endpoints of the process. They outlive the listeners that count: an endpoint's go on over a reload.

/// Counters by endpoint.
final class MetricsRegistry {
    private(set) var endpoints: [EndpointMetrics] = []
    private(set) var connections: [ConnectionMetrics] = []

    /// The counters of an endpoint, which all its listeners share.
    func metrics(of endpoint: String) -> EndpointMetrics {
        if let known = endpoints.first(where: { $0.endpoint == endpoint }) { return known }
        let made = EndpointMetrics(endpoint: endpoint)
        endpoints.append(made)
        return made
    }

    /// The counters of an endpoint's connections to the server, which all its listeners share.
    func connections(of endpoint: String) -> ConnectionMetrics {
        if let known = connections.first(where: { $0.endpoint == endpoint }) { return known }
        let made = ConnectionMetrics(endpoint: endpoint)
        connections.append(made)
        return made
    }

    /// Forgets the endpoints that have no listener any more.
    func keep(only names: Set<String>) {
        endpoints.removeAll { !names.contains($0.endpoint) }
        connections.removeAll { !names.contains($0.endpoint) }
    }
}
