// The sessions that left a moment ago: known, and bounded.
import Testing

@testable import Worker

@Suite struct LeftAgentsTests {
    @Test func theOldestIsForgotten() {
        var left = LeftAgents()
        func agent(_ number: Int) -> [UInt8] { [UInt8(number >> 8), UInt8(number & 255)] }
        for number in 0..<LeftAgents.countMax {
            left.insert(agent(number))
            left.insert(agent(number))
        }
        #expect(left.contains(agent(0)) && left.contains(agent(LeftAgents.countMax - 1)) && !left.contains(agent(LeftAgents.countMax)))
        for number in LeftAgents.countMax..<LeftAgents.countMax * 5 / 2 { left.insert(agent(number)) }
        for number in 0..<LeftAgents.countMax * 5 / 2 {
            #expect(left.contains(agent(number)) == (number >= LeftAgents.countMax * 3 / 2))
        }
    }
}
