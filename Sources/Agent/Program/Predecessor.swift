// The process whose place this one is to take: told how it goes, and heard when the place is free.

internal import Base
internal import Glibc
internal import Memory
internal import Reactor

/// What was found at the start of a process that another one started to take its place.
struct Inheritance {
    let note: HandoverNote

    /// What the environment says; the variable is gone from it afterwards. nil: nobody's place is to be taken.
    static func take() -> Inheritance? {
        let text = ProgramEnvironment.variables[HandoverNote.variable]
        ProgramEnvironment.remove([HandoverNote.variable])
        // The descriptors must be what the note says: it may have been inherited by accident.
        guard let text, let note = HandoverNote(text), DescriptorKind(of: HandoverNote.socketDescriptor) == .messageSocket,
            note.metricsDescriptors.allSatisfy({ DescriptorKind(of: $0) == .listeningSocket })
        else { return nil }
        return Inheritance(note: note)
    }

    /// Before there is a loop: this process can't run.
    func fail(_ reason: String) {
        InheritedOutput.write(
            descriptor: HandoverNote.socketDescriptor, bytes: HandoverMessage.failed(reason).text.utf8Span.span)
    }
}

/// The other end.
final class Predecessor: MessageDelegate {
    private var socket: MessageSocket?
    private let left: () -> Void
    private let refused: () -> Void

    /// `left`: the place is free, because the old process said so, or because it is gone. `refused`: it keeps its place.
    init(_ loop: Loop, left: @escaping () -> Void, refused: @escaping () -> Void) throws(SystemError) {
        self.left = left
        self.refused = refused
        super.init()
        socket = try MessageSocket(loop, adopting: OwnedDescriptor(HandoverNote.socketDescriptor))
        socket?.delegate = self
        send(.started(version: BuildInfo.version))
    }

    /// This process serves.
    func ready() { send(.ready) }

    private func send(_ message: HandoverMessage) {
        // An old process that is gone is heard of below.
        _ = try? socket?.send(Array(message.text.utf8).span)
    }

    override func message(_ socket: MessageSocket, bytes: Span<UInt8>, descriptors: inout DescriptorList) {
        switch HandoverMessage(String(decoding: [UInt8](copying: bytes), as: UTF8.self)) {
        case .takeOver: end(left)
        case .giveUp: end(refused)
        case .started, .ready, .failed, nil: break
        }
    }

    override func messageSocketEnded(_ socket: MessageSocket, error: SystemError?) {
        self.socket = nil
        left()
    }

    private func end(_ told: () -> Void) {
        socket?.close()
        socket = nil
        told()
    }
}
