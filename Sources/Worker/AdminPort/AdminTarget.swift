// What a request on the admin port is for: a route, and whether another node is to answer it (`?forward=NODE`).

/// A document about the cluster, one of the fixed pages, or a file of the page for people.
enum AdminRoute: Equatable {
    case health
    case ready
    case metrics
    case endpoints
    /// What the supervisor knows: the path below `/status/`.
    case report(String)
    /// A file of the page, and where it is.
    case page(AdminPage)
    case pageMoved

    /// Whether it is part of the page for people, which each node has itself.
    var isOfPage: Bool {
        switch self {
        case .page, .pageMoved: true
        default: false
        }
    }

    /// Whether everybody may ask: what watches the node has no token, and the page has nothing to hide before it is given one.
    var isOpen: Bool {
        switch self {
        case .health, .ready, .page, .pageMoved: true
        case .metrics, .endpoints, .report: false
        }
    }

    init?(path: String) {
        switch path {
        case "/health": self = .health
        case "/ready": self = .ready
        case "/metrics": self = .metrics
        case "/status/upstream/endpoints": self = .endpoints
        case "/status/cluster/nodes", "/status/gossip/nodes", "/status/node", "/status/workers", "/status/upstream/tunnels",
            "/status/upstream/traffic":
            self = .report(String(path.dropFirst("/status/".count)))
        case "/debug/loops", "/debug/connections": self = .report(String(path.dropFirst()))
        case "/ui": self = .pageMoved
        default:
            if let page = AdminPage(path: path) {
                self = .page(page)
                return
            }
            let parts = path.split(separator: "/", omittingEmptySubsequences: false)
            guard parts.count == 5, parts[0].isEmpty, parts[1] == "status", parts[2] == "cluster" || parts[2] == "gossip",
                parts[3] == "nodes", Self.isName(parts[4])
            else { return nil }
            self = .report("\(parts[2])/nodes/\(parts[4])")
        }
    }

    /// Nodes' names are plain; nothing in them needs to be written otherwise in a path.
    static func isName(_ text: some StringProtocol) -> Bool {
        (1...128).contains(text.utf8.count)
            && text.utf8.allSatisfy { byte in
                (48...57).contains(byte) || (97...122).contains(byte | 0x20) || "-._".utf8.contains(byte)
            }
    }
}

/// The target of a request on the admin port.
struct AdminTarget: Equatable {
    var path: String
    /// The node that is to answer; nil: this one. Empty when what is there is no node's name.
    var forward: String?

    /// From a target's path and query.
    init(_ text: String) {
        guard let mark = text.firstIndex(of: "?") else {
            path = text
            return
        }
        path = String(text[..<mark])
        for pair in text[text.index(after: mark)...].split(separator: "&") {
            let name = pair.prefix { $0 != "=" }
            guard name == "forward", forward == nil else { continue }
            let value = pair.dropFirst(name.count + 1)
            if !value.isEmpty { forward = AdminRoute.isName(value) ? String(value) : "" }
        }
    }
}
