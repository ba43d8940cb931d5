// Connections to the proxy ports of other nodes, made for the workers: a worker can make no socket and connect nowhere, so that one
// that was taken over reaches nobody. It says which node it means, and gets a connection to that node and no other.
//
// Bounds: each worker may have so many under way, each for so long.

import Base
import Control
import Reactor

/// What is being connected.
final class NodeDialer {
    private let loop: Loop
    private var underway: [UInt32: [UInt64: NodeDial]] = [:]

    /// Connections that one worker may have under way, and how long one may take.
    static let dialsMax = 512
    static let dialTime = Duration.seconds(5)

    init(_ loop: Loop) { self.loop = loop }

    /// Connects for the worker, and sends it what came of it.
    func dial(_ link: WorkerLink, _ request: UInt64, _ address: SocketAddress) {
        let worker = link.worker
        guard underway[worker]?[request] == nil, underway[worker]?.count ?? 0 < Self.dialsMax else {
            link.send(.dialFailed(request: request, code: DialCode.notNow))
            return
        }
        do throws(SystemError) {
            let stream = try Stream(loop, connectTo: address)
            underway[worker, default: [:]][request] = NodeDial(stream, within: Self.dialTime) { [unowned self, weak link] outcome in
                underway[worker]?[request] = nil
                switch outcome {
                case .connected(let descriptor):
                    if let link { link.send(.dialed(request: request), taking: [descriptor]) } else { _ = OwnedDescriptor(descriptor) }
                case .failed(let code): link?.send(.dialFailed(request: request, code: code))
                }
            }
        } catch {
            link.send(.dialFailed(request: request, code: UInt32(clamping: error.code)))
        }
    }

    /// The program is about to be replaced: workers hear that nothing comes of what is under way.
    func abandonAll() {
        for dials in underway.values { for dial in dials.values { dial.abandon() } }
    }

    /// Nobody waits for the worker's connections any more.
    func workerEnded(_ worker: UInt32) {
        for dial in (underway.removeValue(forKey: worker) ?? [:]).values { dial.cancel() }
    }
}

/// One connection under way.
private final class NodeDial: ChannelDelegate {
    enum Outcome {
        /// A descriptor that is whoever gets this to close.
        case connected(Int32)
        /// The errno.
        case failed(UInt32)
    }

    private let stream: Stream
    private let timer: CallbackTimer
    private var done: ((Outcome) -> Void)?
    private static let timedOut: UInt32 = 110

    init(_ stream: Stream, within time: Duration, _ done: @escaping (Outcome) -> Void) {
        self.stream = stream
        self.done = done
        weak var dial: NodeDial?
        timer = CallbackTimer(stream.loop) {
            dial?.stream.closeNow()
            dial?.end(.failed(Self.timedOut))
        }
        super.init()
        dial = self
        stream.delegate = self
        timer.schedule(after: time)
    }

    /// Ends it as one that could not be tried.
    func abandon() {
        stream.closeNow()
        end(.failed(DialCode.notNow))
    }

    func cancel() {
        done = nil
        timer.cancel()
        stream.closeNow()
    }

    private func end(_ outcome: Outcome) {
        timer.cancel()
        let told = done
        done = nil
        if let told { told(outcome) } else if case .connected(let descriptor) = outcome { _ = OwnedDescriptor(descriptor) }
    }

    override func streamConnected(_ stream: Stream) { stream.detach() }

    override func streamDetached(_ stream: Stream, descriptor: consuming OwnedDescriptor, unsent: Span<UInt8>) {
        end(.connected(descriptor.take()))
    }

    override func channelFailed(_ channel: Channel, error: ChannelError) {
        if case .system(let code) = error { end(.failed(UInt32(clamping: code))) } else { end(.failed(Self.reset)) }
    }

    private static let reset: UInt32 = 104
}
