// What a request on the admin port is for, by its target.

import Memory
import Testing

@testable import Worker

@Suite struct AdminTargetTests {
    /// A target, its path and the node that is to answer: "-" for none.
    static let targets: [(String, String, String)] = [
        ("/ready", "/ready", "-"), ("/ready?", "/ready", "-"), ("/ready?forward=", "/ready", "-"),
        ("/metrics?forward=node-1", "/metrics", "node-1"), ("/metrics?a=b&forward=n.2_x&c", "/metrics", "n.2_x"),
        ("/metrics?forward=a&forward=b", "/metrics", "a"), ("/metrics?forwards=a", "/metrics", "-"),
        ("/metrics?forward=a/b", "/metrics", ""), ("/metrics?forward=a%20b", "/metrics", ""),
        ("/metrics?forward=127.0.0.1:22", "/metrics", ""), ("/metrics?forward", "/metrics", "-"), ("", "", "-"),
    ]

    @Test(arguments: targets)
    func isRead(_ row: (String, String, String)) {
        let target = AdminTarget(row.0)
        #expect(target.path == row.1)
        #expect(target.forward ?? "-" == row.2)
    }

    /// A path and its route: nil for none.
    static let routes: [(String, AdminRoute?)] = [
        ("/health", .health), ("/ready", .ready), ("/metrics", .metrics), ("/status/upstream/endpoints", .endpoints),
        ("/status/cluster/nodes", .report("cluster/nodes")), ("/status/gossip/nodes", .report("gossip/nodes")),
        ("/status/cluster/nodes/local", .report("cluster/nodes/local")),
        ("/status/gossip/nodes/Node_1.b-c", .report("gossip/nodes/Node_1.b-c")), ("/status/cluster/nodes/", nil),
        ("/status/cluster/nodes/a/b", nil), ("/status/cluster/nodes/..%2f..%2fetc", nil), ("/status/other/nodes/a", nil),
        ("//health", nil), ("/health/", nil), ("status/cluster/nodes/a", nil), ("/status/cluster/nodes/a b", nil), ("", nil),
        ("/status/cluster/nodes/" + String(repeating: "a", count: 128), .report("cluster/nodes/" + String(repeating: "a", count: 128))),
        ("/status/cluster/nodes/" + String(repeating: "a", count: 129), nil),
        ("/ui", .pageMoved), ("/ui/", .page(.index)), ("/ui/app.js", .page(.app)), ("/ui/tables.js", .page(.tables)),
        ("/ui/style.css", .page(.style)), ("/ui/icon.svg", .page(.icon)), ("/ui/index.html", nil), ("/ui//app.js", nil), ("/uiapp.js", nil),
        ("/ui/../metrics", nil), ("/ui/App.js", nil),
    ]

    @Test(arguments: routes.indices)
    func hasARoute(row: Int) { #expect(AdminRoute(path: Self.routes[row].0) == Self.routes[row].1) }

    @Test(arguments: AdminPage.allCases)
    func pageIsInTheProgram(_ page: AdminPage) {
        var text = ByteBuffer()
        page.append(to: &text)
        #expect(text.count > 200)
        #expect(text.count < 32_768)
    }
}
