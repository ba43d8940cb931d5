// The bundle of certificates and keys: forth and back, cut at every place, and what is no bundle.
import Control
import Memory
import Testing

@Suite struct CredentialBundleTests {
    private func bundle() -> [UInt8] {
        var buffer = ByteBuffer()
        CredentialBundle.makeRoom(100, in: &buffer)
        let key: [UInt8] = [1, 2, 3]
        let long = [UInt8](repeating: 7, count: 70_000)
        CredentialBundle.append(.ticketKey, key.span, to: &buffer)
        CredentialBundle.append(.certificate, port: .proxy, long.span, to: &buffer)
        CredentialBundle.append(.key, port: .proxy, key.span, to: &buffer)
        CredentialBundle.append(.nodeAuthorities, Span(), to: &buffer)
        return [UInt8](copying: buffer.span)
    }

    @Test func comesBackAsItWas() throws {
        let bytes = bundle()
        let entries = try CredentialBundle.entries(bytes.span)
        #expect(entries.map(\.kind) == [.ticketKey, .certificate, .key, .nodeAuthorities])
        #expect(entries.map(\.port) == [nil, .proxy, .proxy, nil])
        #expect(entries.map(\.range.count) == [3, 70_000, 3, 0])
        #expect(entries[0].range == 6..<9)
        #expect(failure([]) == nil)
    }

    @Test func refusesWhatIsCut() {
        let whole = bundle()
        let ends = [0, 9, 9 + 70_006, 9 + 70_006 + 9, whole.count]
        for length in Array(0..<40) + Array(70_000..<whole.count) {
            let part = Array(whole.prefix(length))
            #expect((failure(part) == nil) == ends.contains(length), "\(length)")
        }
    }

    private func failure(_ bytes: [UInt8]) -> ControlError? {
        do {
            _ = try CredentialBundle.entries(bytes.span)
            return nil
        } catch {
            return error
        }
    }

    @Test func refusesWhatItDoesNotKnow() {
        #expect(failure([0, 0, 0, 0, 0, 0]) == .invalidValue)
        #expect(failure([1, 9, 0, 0, 0, 0]) == .invalidValue)
        #expect(failure([1, 1, 255, 255, 255, 255]) == .truncated)
    }
}
