// What a worker asks of its supervisor for the admin port, and where the answers go.

import Control
import Reactor

/// Questions that are open.
struct AdminQuestions {
    fileprivate var asking: [UInt64: AdminConnection] = [:]
    fileprivate var next: UInt64 = 1
}

extension Worker {
    private func question(of connection: AdminConnection, mark: UInt64 = 0) -> UInt64 {
        let request = questions.next | mark
        questions.next += 1
        questions.asking[request] = connection
        return request
    }

    /// Asks the supervisor for what only it knows.
    func askStatus(_ connection: AdminConnection, kind: StatusKind) -> UInt64 {
        let request = question(of: connection)
        control.send(.statusRequest(request: request, kind: kind))
        return request
    }

    func statusPage(_ request: UInt64, entries: [StatusEntry], isLast: Bool) {
        guard let connection = questions.asking[request] else { return }
        if isLast { questions.asking[request] = nil }
        connection.statusPage(entries, isLast: isLast)
    }

    /// Asks the supervisor for a document about the node or the cluster.
    func askReport(_ connection: AdminConnection, _ path: String) -> UInt64 {
        let request = question(of: connection)
        control.send(.reportRequest(request: request, path: path))
        return request
    }

    func reportPage(_ request: UInt64, _ status: UInt16, _ page: [UInt8], isLast: Bool) {
        guard let connection = questions.asking[request] else { return }
        if isLast { questions.asking[request] = nil }
        connection.reportPage(status, page, isLast: isLast)
    }

    /// Connections to admin ports have numbers of their own, beside those of connections to proxy ports.
    private static var adminDials: UInt64 { 1 << 63 }

    /// Whether a request is for a connection to another node's admin port.
    static func isDial(_ request: UInt64) -> Bool { request & adminDials != 0 }

    /// Asks the supervisor for a connection to another node's admin port.
    func dialAdmin(_ connection: AdminConnection, node: String) -> UInt64 {
        let request = question(of: connection, mark: Self.adminDials)
        control.send(.dialAdmin(request: request, node: node))
        return request
    }

    /// The connection came, or did not.
    func adminDialed(_ request: UInt64, _ descriptor: consuming OwnedDescriptor?, code: UInt32 = 0) {
        questions.asking.removeValue(forKey: request)?.dialed(descriptor, code: code)
    }

    func statusAbandoned(_ request: UInt64) { questions.asking[request] = nil }
}
