// Which server a tunnel goes to, and to which one next.
import Testing

@testable import Agent

@Suite struct ServerPlacesTests {
    @Test(arguments: [0, 1, 2, 3, 1_000_003]) func eachTunnelHasAServerOfItsOwn(_ first: Int) {
        for servers in 1...8 {
            for tunnels in 1...servers {
                let places = ServerPlaces(servers: servers, tunnels: tunnels, first: first).places
                #expect(Set(places).count == tunnels && places.allSatisfy { (0..<servers).contains($0) })
                #expect(places[0] == first % servers)
            }
        }
    }

    @Test func goesThroughAllServers() {
        var places = ServerPlaces(servers: 3, tunnels: 1, first: 1)
        #expect((0..<6).map { _ in places.move(0) } == [2, 0, 1, 2, 0, 1])
    }

    @Test func neverTakesAnothersPlace() {
        var places = ServerPlaces(servers: 3, tunnels: 2, first: 0)
        #expect(places.move(0) == 2)
        #expect(places.move(1) == 0)
        #expect(places.move(0) == 1)
        #expect(places.places == [1, 0])
    }

    @Test func staysWhereThereIsNoOther() {
        var one = ServerPlaces(servers: 1, tunnels: 1, first: 5)
        #expect(one.move(0) == 0)
        var two = ServerPlaces(servers: 2, tunnels: 2, first: 1)
        #expect(two.move(0) == 1 && two.move(1) == 0)
    }
}
