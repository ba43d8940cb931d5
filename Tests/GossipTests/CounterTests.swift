// The names of the machine's counters, as metrics show them.

import Testing

@testable import Gossip

@Suite struct CounterTests {
    @Test(arguments: [
        (GossipCounter.packetsIn, "packets_in"), (.packetBytesOut, "packet_bytes_out"), (.droppedReplay, "dropped_replay"),
        (.suspicions, "suspicions"),
    ])
    func names(_ counter: GossipCounter, _ name: String) { #expect(counter.name == name) }
}
