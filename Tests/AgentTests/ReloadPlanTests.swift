// What a reload keeps, replaces, adds and removes, row by row.
import Base
import Config
import Testing

@testable import Agent

@Suite struct ReloadPlanTests {
    typealias Source = ReloadPlan.Source

    /// "e1" is an endpoint on port 1; "e1!" has another time limit, "e1~" another access log.
    private static func listener(_ text: String) -> ListenerConfig {
        let name = text.filter { $0.isLetter }
        let port = UInt16(text.filter { $0.isNumber })!
        var listener = ListenerConfig(endpointID: name, address: ServiceAddress(host: "localhost", port: port))
        if text.contains("!") { listener.timeout = .seconds(3) }
        if text.contains("~") { listener.accessLog.isDisabled = true }
        return listener
    }

    private static func config(_ text: String) -> AgentConfig {
        var config = AgentConfig()
        config.listeners = text.split(separator: " ").map { listener(String($0)) }
        return config
    }

    static let rows: [(String, String, [Source], [Int])] = [
        ("a1", "a1", [.kept(old: 0)], []),
        ("a1 b2", "b2 a1", [.kept(old: 1), .kept(old: 0)], []),
        ("a1", "a1 b2", [.kept(old: 0), .added], []),
        ("a1 b2", "b2", [.kept(old: 1)], [0]),
        ("a1 b2", "c3", [.added], [0, 1]),
        ("a1", "a2", [.replaces(old: 0)], []),
        ("a1", "a1!", [.replaces(old: 0)], []),
        ("a1", "a1~", [.keptWithOtherLog(old: 0)], []),
        ("a1~", "a1", [.keptWithOtherLog(old: 0)], []),
        ("a1", "a1~!", [.replaces(old: 0)], []),
        // Several listeners of one endpoint: the best matches win.
        ("a1 a1", "a1", [.kept(old: 0)], [1]),
        ("a1", "a1 a1", [.kept(old: 0), .added], []),
        ("a1 a2", "a3 a1", [.replaces(old: 1), .kept(old: 0)], []),
        ("a1 a2", "a2", [.kept(old: 1)], [0]),
        ("a1 a2 a3", "a4", [.replaces(old: 0)], [1, 2]),
        ("a1~ a1", "a1 a1", [.kept(old: 1), .keptWithOtherLog(old: 0)], []),
    ]

    @Test(arguments: rows)
    func row(old: String, new: String, sources: [Source], removed: [Int]) {
        let plan = ReloadPlan(from: Self.config(old), to: Self.config(new))
        #expect(plan.sources == sources)
        #expect(plan.removed == removed)
        #expect(plan.fixedKeys.isEmpty)
        #expect(plan.keptCount + plan.replacedCount + plan.addedCount == sources.count)
    }

    @Test func anotherServerReplacesAll() {
        let old = Self.config("a1 b2 c3")
        var new = Self.config("b2 a1~ d4")
        new.connect.url = ServerURL(host: "elsewhere", port: 1)
        let plan = ReloadPlan(from: old, to: new)
        #expect(plan.sources == [.replaces(old: 1), .replaces(old: 0), .added])
        #expect(plan.removed == [2])
        var transport = old
        transport.connect.transport = .mux
        #expect(ReloadPlan(from: old, to: transport).replacedCount == 3)
        var timeout = old
        timeout.connect.timeout = .seconds(1)
        #expect(ReloadPlan(from: old, to: timeout).keptCount == 3)
    }

    @Test func namesWhatNeedsARestart() {
        let old = Self.config("a1")
        var new = old
        new.ioBackend = .epoll
        #expect(ReloadPlan(from: old, to: new).fixedKeys == ["io_backend"])
    }
}
