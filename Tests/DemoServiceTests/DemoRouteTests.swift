// Which answer a target gets.
import Testing

@testable import DemoService

@Suite struct DemoRouteTests {
    @Test(
        arguments: [
            ("/", .describe), ("/hello?x=/echo", .describe), ("/echo", .echo), ("/echo?x", .echo),
            ("/bytes/0", .bytes(0, isChunked: false)),
            ("/bytes/1073741824", .bytes(1_073_741_824, isChunked: false)), ("/bytes/7?chunked", .bytes(7, isChunked: true)),
            ("/bytes/", .describe), ("/bytes/-1", .describe), ("/bytes/12345678901234567890", .describe), ("/slow/250", .slow(250)),
            ("/slow/9999999999", .describe), ("/events", .events), ("/ws", .webSocket), ("/ws/", .describe),
        ] as [(String, DemoRoute)])
    func route(target: String, route: DemoRoute) {
        let found = DemoRoute(target: target.utf8Span.span)
        #expect(found == route)
    }
}
