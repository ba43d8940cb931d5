// Fuzz driver of the messages between a node's own processes, and of the bundle of what TLS needs. The tests of Control compile this
// file too (by a symbolic link) and replay the corpus through `ControlFuzz`.
//
// Input: a byte of what it is, then the bytes. Its two lowest bits: 0 the supervisor says it, 1 a worker, 2 a sibling, 3 it is a
// bundle. 4: the bytes are the type, the flags and the body, and the length is put in, which reaches deeper than random lengths do.
// What is read must be written as the same bytes and read as the same again, also for the receivers of before an upgrade; nobody
// else may say it, and it has neither a byte too few nor one too many.

import Control
import Memory

enum ControlFuzz {
    private static let parties: [ControlParty] = [.supervisor, .worker, .sibling]

    /// What went wrong with this input; nil when nothing did.
    static func failure(of input: [UInt8]) -> String? {
        guard let kind = input.first else { return nil }
        let rest = Array(input.dropFirst())
        if kind & 3 == 3 { return failureOfBundle(rest) }
        return failureOfMessage(kind & 4 == 0 ? rest : framed(rest), from: Int(kind & 3))
    }

    /// The message with these type, flags and body.
    private static func framed(_ short: [UInt8]) -> [UInt8] {
        guard short.count >= 2 else { return short }
        let length = short.count - 2
        return [short[0], 0, short[1], 0] + (0..<4).map { UInt8(truncatingIfNeeded: length >> (8 * $0)) } + short[2...]
    }

    private static func decoded(_ bytes: [UInt8], from sender: ControlParty) -> Result<ControlMessage, ControlError> {
        do throws(ControlError) { return .success(try ControlMessage.decode(bytes.span, from: sender)) } catch { return .failure(error) }
    }

    private static func encoded(_ message: ControlMessage, version: UInt32) -> [UInt8] {
        var buffer = ByteBuffer()
        message.encode(into: &buffer, version: version)
        return [UInt8](copying: buffer.span)
    }

    private static func failureOfMessage(_ bytes: [UInt8], from sender: Int) -> String? {
        guard case .success(let message) = decoded(bytes, from: parties[sender]) else { return nil }
        if !(0...ControlLimits.descriptorsMax).contains(message.descriptorCount) { return "\(message.descriptorCount) descriptors" }
        return failureOfOthers(message, bytes, from: sender) ?? failureOfLength(bytes, from: parties[sender])
            ?? failureOfVersions(message, bytes, from: parties[sender])
    }

    /// Each type has one sender, but for the greeting.
    private static func failureOfOthers(_ message: ControlMessage, _ bytes: [UInt8], from sender: Int) -> String? {
        var isGreeting = false
        if case .hello = message { isGreeting = true }
        for other in parties.indices where other != sender {
            let result = decoded(bytes, from: parties[other])
            let wanted: Result<ControlMessage, ControlError> = isGreeting ? .success(message) : .failure(.unexpectedType(UInt16(bytes[0])))
            if result != wanted { return "from another it is \(result)" }
        }
        return nil
    }

    private static func failureOfLength(_ bytes: [UInt8], from sender: ControlParty) -> String? {
        if decoded(Array(bytes.dropLast()), from: sender) != .failure(.truncated) { return "taken without its last byte" }
        guard bytes.count < ControlLimits.messageBytesMax else { return nil }
        return decoded(bytes + [0], from: sender) == .failure(.trailingBytes) ? nil : "taken with a byte behind it"
    }

    private static func failureOfVersions(_ message: ControlMessage, _ bytes: [UInt8], from sender: ControlParty) -> String? {
        var isWritten = false
        for version in ControlLimits.siblingVersionMin...ControlLimits.protocolVersion {
            let written = encoded(message, version: version)
            isWritten = isWritten || written == bytes
            let known = message.asKnown(in: version)
            guard decoded(written, from: sender) == .success(known) else { return "written for version \(version), it is another" }
        }
        return isWritten ? nil : "no version is written like that"
    }

    /// Entries lie one behind the other in all of the bytes, and written again they are the same bytes.
    private static func failureOfBundle(_ bytes: [UInt8]) -> String? {
        let found = try? CredentialBundle.entries(bytes.span)
        guard let found else { return nil }
        if found.count > CredentialBundle.entriesMax { return "\(found.count) entries" }
        var written = ByteBuffer()
        var end = 0
        for entry in found {
            let start = entry.range.lowerBound
            if start != end + CredentialBundle.entryBytes || entry.range.upperBound > bytes.count { return "an entry at \(entry.range)" }
            if (try? CredentialBundle.entries(bytes.span.extracting(0..<start - 1))) != nil { return "half an entry is taken" }
            CredentialBundle.append(entry.kind, port: entry.port, bytes.span.extracting(entry.range), to: &written)
            end = entry.range.upperBound
        }
        return [UInt8](copying: written.span) == bytes ? nil : "written, it is another"
    }
}

#if FUZZING
    @_cdecl("LLVMFuzzerTestOneInput")
    public func fuzzControl(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Int32 {
        if let failure = ControlFuzz.failure(of: Array(UnsafeBufferPointer(start: bytes, count: count))) { fatalError(failure) }
        return 0
    }
#endif

extension ControlMessage {
    /// The message as a receiver of that version gets it: before there were other nodes, or quotas.
    fileprivate func asKnown(in receiver: UInt32) -> ControlMessage {
        switch self {
        case .routes(let endpoint, let version, let lostFor, let entries, _) where receiver < ControlLimits.clusterVersion:
            .routes(endpoint: endpoint, version: version, lostFor: lostFor, entries: entries, remote: [])
        case .refused(let tunnel, _) where receiver < ControlLimits.quotaVersion: .refused(tunnel: tunnel)
        case .register(let tunnel, let endpoint, let kind, _) where receiver < ControlLimits.quotaVersion:
            .register(tunnel: tunnel, endpoint: endpoint, kind: kind)
        default: self
        }
    }
}
