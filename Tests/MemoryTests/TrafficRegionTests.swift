// The traffic of endpoints: places, the end of a full table, slots that change hands, and memory that is none.

import Memory
import Testing

private func memory(slots: Int) -> SharedRegion { SharedRegion(privateBytes: 64 + TrafficRegion.byteCount(slots: slots)) }

private func place(_ region: TrafficRegion, _ name: String, now: UInt64 = 1) -> TrafficPlace {
    let bytes = Array(name.utf8)
    return region.place(of: bytes.span, now: now)
}

private func names(_ region: TrafficRegion) -> [String] { region.read().map { String(decoding: $0.name, as: UTF8.self) } }

@Suite struct TrafficRegionTests {
    @Test func countsByEndpointAcrossProcesses() throws {
        let memory = memory(slots: 8)
        let mine = TrafficRegion(formatting: memory, at: 64, slots: 8)
        let other = try #require(TrafficRegion(opening: memory, at: 64))
        for region in [mine, other] {
            let first = place(region, "acme/web")
            #expect(region.isOwn(first))
            region.add(first, .status(204))
            region.add(first, .status(99))
            region.add(first, .bytesOut, 10)
            region.add(place(region, "b"), .status(502), 3)
        }
        let entries = other.read()
        #expect(names(mine) == ["acme/web", "b"])
        #expect(entries[0][.status2xx] == 2 && entries[0][.otherStatus] == 2 && entries[0].requests == 4 && entries[0][.bytesOut] == 20)
        #expect(entries[1][.status5xx] == 6 && entries[1].requests == 6)
    }

    @Test func countsTogetherWhatFindsNoPlace() {
        let region = TrafficRegion(formatting: memory(slots: 2), at: 0, slots: 2)
        for name in ["a", "b", "c", "d"] { region.add(place(region, name), .connections) }
        let long = place(region, String(repeating: "n", count: TrafficRegion.nameBytesMax + 1))
        region.add(long, .connections)
        #expect(!region.isOwn(long))
        #expect(names(region) == ["", "a", "b"])
        #expect(region.read()[0][.connections] == 3)
    }

    @Test func takesPlacesThatNobodyUsed() {
        let region = TrafficRegion(formatting: memory(slots: 1), at: 0, slots: 1)
        let old = place(region, "old", now: 100)
        region.add(old, .connections, 7)
        #expect(!region.isOwn(place(region, "new", now: 100 + TrafficRegion.keptSeconds)))
        region.touch(old, now: 200)
        #expect(!region.isOwn(place(region, "new", now: 101 + TrafficRegion.keptSeconds)))
        let new = place(region, "new", now: 201 + TrafficRegion.keptSeconds)
        #expect(region.isOwn(new) && !region.isOwn(old))
        region.add(new, .connections)
        #expect(region.read().filter { !$0.name.isEmpty }.map { $0[.connections] } == [1])
    }

    /// Fleets number their names.
    @Test(arguments: ["device-", "ep-", ""])
    func findsPlacesForNumberedNames(_ prefix: String) {
        let region = TrafficRegion(formatting: memory(slots: 1_024), at: 0, slots: 1_024)
        let own = (0..<1_000).count { region.isOwn(place(region, "\(prefix)\($0)")) }
        #expect(own > 980)
    }

    @Test func nobodyIsCalledAsAllOthers() {
        let region = TrafficRegion(formatting: memory(slots: 4), at: 0, slots: 4)
        let other = place(region, "other", now: 5)
        #expect(!region.isOwn(other) && region.isGood(other, now: 6) && !region.isGood(other, now: 60))
        #expect(region.isOwn(place(region, "acme/other")))
    }

    @Test func keepsLongNames() {
        let region = TrafficRegion(formatting: memory(slots: 4), at: 0, slots: 4)
        let name = String(repeating: "x", count: TrafficRegion.nameBytesMax - 1)
        for suffix in ["1", "2"] { region.add(place(region, name + suffix), .bytesIn, 1) }
        #expect(names(region) == [name + "1", name + "2"])
    }

    @Test func opensNothingElse() {
        let memory = SharedRegion(privateBytes: 4_096)
        #expect(TrafficRegion(opening: memory, at: 0) == nil)
        #expect(TrafficRegion(opening: memory, at: 4_096) == nil)
        #expect(TrafficRegion(opening: memory, at: 3) == nil)
        let region = SharedRegion(privateBytes: TrafficRegion.byteCount(slots: 16))
        _ = TrafficRegion(formatting: region, at: 0, slots: 16)
        #expect(TrafficRegion(opening: region, at: 0) != nil)
        #expect(TrafficRegion(opening: region, at: 8) == nil)
    }
}
