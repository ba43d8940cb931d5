// An idle data connection on its way to a sibling worker that has none: taken out of this loop, then sent with what is known
// of it. A connection that says anything meanwhile is of no use and is closed.

import Control
import Memory
import Reactor
import Transport

/// One data connection that is given away. Keeps itself alive through its stream.
final class DataGift: ChannelDelegate {
    private let worker: Worker
    private let endpoint: String
    private let sibling: UInt32
    private let agent: [UInt8]
    private let isUsed: Bool
    private var isSpoilt = false

    /// Starts to give the connection away.
    init(_ worker: Worker, _ connection: DataConnection, of endpoint: Endpoint, to sibling: UInt32) {
        self.worker = worker
        self.endpoint = endpoint.name
        self.sibling = sibling
        agent = connection.agent
        isUsed = connection.isReused
        super.init()
        let channel = connection.takeChannel()
        guard let stream = channel as? Stream else {
            channel.close()
            return
        }
        stream.delegate = self
        stream.detach()
    }

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) { isSpoilt = true }

    override func channelEnded(_ channel: Channel) { isSpoilt = true }

    override func streamDetached(_ stream: Stream, descriptor: consuming OwnedDescriptor, unsent: Span<UInt8>) {
        if isSpoilt { return }
        // Meanwhile the sibling may have been told that nothing comes any more.
        if let target = worker.siblings.isLinked(sibling) ? sibling : worker.retirement?.successor() {
            worker.siblings.moveData(descriptor, to: target, endpoint: endpoint, agent: agent, isUsed: isUsed)
        } else if let kept = try? Stream(worker.loop, adopting: descriptor) {
            worker.telemetry.connectionOpened(.upstream, isMoved: true)
            worker.adoptData(kept, endpoint: worker.routes.endpoint(named: endpoint), agent: agent, isUsed: isUsed)
        }
    }
}
