// Key sets that are published over HTTP: fetched in the background, by a program of their own (the supervisor parses no HTTP), and
// kept for the keyrings of all generations. A set is fetched again when its time is over, and soon after a worker met a token
// with a key that is not in it. While that fails, the sets from before stay. A document that another one has followed is good for as
// long again: tokens that were signed with a key that left the set may be on their way.

import Authentication
import Base
import Config
import Control
import Memory
import Reactor
import Telemetry

/// All key sets of the node.
final class KeySets {
    private final class Entry {
        let url: String
        var life: Duration
        var timeout: Duration
        /// The newest first; the others until their time.
        var documents: [(bytes: [UInt8], end: Instant)] = []
        var next: Instant
        var fetch: KeySetFetch?
        var hasTried = false
        var problem: String?
        var lastStart = Instant(nanoseconds: 0)

        init(_ url: String, _ now: Instant) {
            self.url = url
            life = .zero
            timeout = .zero
            next = now
        }
    }

    private let loop: Loop
    private let log: Logger
    private var entries: [Entry] = []
    private var waiting: [() -> Void] = []
    /// The program that fetches, and the user that it becomes.
    var helper: () -> (path: String, user: UserIdentity?)
    /// Told when a set has changed.
    var changed: () -> Void = {}

    /// Documents of one set that are kept.
    private static let documentsMax = 4
    /// How soon a set is fetched again after it could not be, and after a token with a key that it lacks.
    private static let retryAfter = Duration.seconds(10)
    private static let unknownKeyAfter = Duration.seconds(60)

    init(_ loop: Loop, log: Logger, helper: @escaping () -> (path: String, user: UserIdentity?)) {
        self.loop = loop
        self.log = log
        self.helper = helper
    }

    /// The sets of the configurations, and no others.
    func want(_ configs: ServerConfig...) {
        let wanted = configs.flatMap { $0.tokenPorts.map(\.auth.jwks) }.filter { $0.httpURL != nil }
        for entry in entries where !wanted.contains(where: { $0.endpoint == entry.url }) { entry.fetch?.cancel() }
        entries.removeAll { entry in !wanted.contains { $0.endpoint == entry.url } }
        for set in wanted {
            let entry = entries.first { $0.url == set.endpoint } ?? Entry(set.endpoint, loop.now)
            if !entries.contains(where: { $0 === entry }) { entries.append(entry) }
            entry.life = set.life
            entry.timeout = set.timeLimit
        }
        tick()
    }

    /// Calls back when each set was fetched, or could not be: at once, or within the time that fetching may take.
    func whenTried(_ body: @escaping () -> Void) {
        if entries.allSatisfy(\.hasTried) { body() } else { waiting.append(body) }
    }

    /// The documents of a set, the newest first.
    func documents(_ url: String) -> [[UInt8]] { entries.first { $0.url == url }?.documents.map(\.bytes) ?? [] }

    /// The newest documents, for the program that takes this node over.
    var kept: [(url: String, bytes: [UInt8])] { entries.compactMap { entry in entry.documents.first.map { (entry.url, $0.bytes) } } }

    /// What the program before had.
    func take(_ kept: [(url: String, bytes: [UInt8])]) {
        for (url, bytes) in kept {
            let entry = Entry(url, loop.now)
            entry.documents = [(bytes, .never)]
            entry.hasTried = true
            entries.append(entry)
        }
    }

    /// A worker met a token that names a key which is not in the set.
    func keyIsMissing(_ url: String) {
        guard let entry = entries.first(where: { $0.url == url }) else { return }
        entry.next = min(entry.next, max(loop.now, entry.lastStart + Self.unknownKeyAfter))
        tick()
    }

    /// Starts what is due, and forgets what is too old.
    func tick() {
        for entry in entries {
            if entry.fetch == nil, loop.now >= entry.next { start(entry) }
            let count = entry.documents.count
            entry.documents.removeAll { $0.end <= loop.now }
            if entry.documents.count != count { changed() }
        }
    }

    private func start(_ entry: Entry) {
        entry.lastStart = loop.now
        entry.next = loop.now + min(Self.retryAfter, entry.life)
        let helper = helper()
        do throws(SystemError) {
            entry.fetch = try KeySetFetch(loop, helper: helper.path, user: helper.user, url: entry.url, timeout: entry.timeout) {
                [unowned self] result in ended(entry, result)
            }
        } catch {
            ended(entry, .failure(KeySetFetch.Failure("\(error)")))
        }
    }

    private func ended(_ entry: Entry, _ result: Result<[UInt8], KeySetFetch.Failure>) {
        entry.fetch = nil
        do {
            let bytes = try result.get()
            let document = try KeyDocument(bytes.span, from: .network)
            entry.next = loop.now + entry.life
            if entry.problem != nil { log.info(.server, "a key set could be fetched again") { $0.field("url", entry.url) } }
            entry.problem = nil
            if entry.documents.first?.bytes != bytes {
                for index in entry.documents.indices { entry.documents[index].end = min(entry.documents[index].end, loop.now + entry.life) }
                entry.documents.removeAll { $0.bytes == bytes }
                entry.documents.insert((bytes, .never), at: 0)
                if entry.documents.count > Self.documentsMax { entry.documents.removeLast() }
                log.info(.server, "a key set was fetched") {
                    $0.field("url", entry.url)
                    $0.field("keys", document.keys.count)
                    if !document.skipped.isEmpty { $0.field("not_used", document.skipped.map(\.text)) }
                }
                changed()
            }
        } catch {
            let reason = (error as? KeyDocument.Problem)?.text ?? "\(error)"
            if entry.problem != reason {
                log.warn(.server, "a key set can't be fetched; the keys from before go on") {
                    $0.field("url", entry.url)
                    $0.field("err", reason)
                }
            }
            entry.problem = reason
        }
        entry.hasTried = true
        guard entries.allSatisfy(\.hasTried) else { return }
        let told = waiting
        waiting = []
        for body in told { body() }
    }
}

/// One run of the program that fetches.
final class KeySetFetch: ChannelDelegate {
    struct Failure: Error, CustomStringConvertible {
        var description: String
        init(_ description: String) { self.description = description }
    }

    private let stream: Stream
    private var child: ChildProcess?
    private var timer: CallbackTimer?
    private var bytes: [UInt8] = []
    private var hasEnded = false
    private var hasExited = false
    private var done: ((Result<[UInt8], Failure>) -> Void)?

    /// How much longer than the fetch itself the program may take.
    private static let graceTime = Duration.seconds(2)

    /// `done` is told once, later.
    init(
        _ loop: Loop, helper: String, user: UserIdentity?, url: String, timeout: Duration, done: @escaping (Result<[UInt8], Failure>) -> Void
    ) throws(SystemError) {
        var pair = try Sockets.pair(.stream)
        let theirs = pair.takeSecond()
        stream = try Stream(loop, adopting: pair.takeFirst())
        self.done = done
        super.init()
        stream.delegate = self
        stream.resumeReading()
        var description = ProcessDescription(
            path: helper,
            arguments: ["piko", KeySetHelper.word, url, "\(timeout.clampedNanoseconds / 1_000_000)", user?.text ?? "-"],
            environment: ProgramEnvironment.strings)
        description.descriptors = [theirs.raw]
        description.diesWithParent = true
        do throws(SystemError) {
            // Whatever becomes of the fetch, its program is waited for.
            child = try ChildProcess.spawn(loop, description) { [self] _ in exited() }
        } catch {
            self.done = nil
            stream.closeNow()
            throw error
        }
        timer = CallbackTimer(loop) { [unowned self] in end(.failure(Failure("it takes too long"))) }
        timer?.schedule(after: timeout + Self.graceTime)
    }

    override func channel(_ channel: Channel, received piece: inout MutableSpan<UInt8>) {
        bytes += [UInt8](copying: piece.span)
        if bytes.count > KeyDocument.bytesMax + 1 { end(.failure(Failure(KeyDocument.Problem.tooLarge.text))) }
    }

    override func channelEnded(_ channel: Channel) {
        hasEnded = true
        conclude()
    }

    override func channelFailed(_ channel: Channel, error: ChannelError) {
        hasEnded = true
        conclude()
    }

    private func exited() {
        hasExited = true
        child = nil
        conclude()
    }

    /// Gives up: nobody is told.
    func cancel() {
        done = nil
        timer = nil
        child?.signal(EndSignal.kill)
        stream.closeNow()
    }

    private func conclude() {
        guard hasEnded, hasExited else { return }
        switch bytes.first {
        case KeySetHelper.found: end(.success(Array(bytes.dropFirst())))
        case KeySetHelper.failed: end(.failure(Failure(String(decoding: bytes.dropFirst(), as: UTF8.self))))
        default: end(.failure(Failure("the program that fetches ended without a word")))
        }
    }

    private func end(_ result: Result<[UInt8], Failure>) {
        guard let told = done else { return }
        cancel()
        told(result)
    }
}
