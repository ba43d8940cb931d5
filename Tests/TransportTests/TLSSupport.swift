// What the tests of TLS share: certificates that are made when the tests run (by the openssl command), two ends of one
// connection with a cable between them that can split and cut, and other programs at the far end.
import Base
import Crypto
import Foundation
import Memory
import Reactor
import TestKit
import Testing
import Transport

/// The backends this machine has.
let tlsBackends: [BackendChoice] = {
    let hasRing = (try? Loop(backend: .ioUring)) != nil
    return hasRing ? [.epoll, .ioUring] : [.epoll]
}()

/// A program ended with an error.
struct ProgramFailure: Error {
    var text: String
}

/// Programs that some tests need.
enum Programs {
    static let openssl = find("openssl")
    static let python = find("python3")

    private static func find(_ name: String) -> String? {
        (ProcessInfo.processInfo.environment["PATH"] ?? "/usr/bin").split(separator: ":").map { "\($0)/\(name)" }
            .first { FileManager.default.isExecutableFile(atPath: $0) }
    }

    /// Runs a program to its end; its output, or an error when it failed.
    @discardableResult
    static func run(_ program: String, _ arguments: [String], in folder: URL) throws -> String {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        process.currentDirectoryURL = folder
        let output = Pipe()
        process.standardOutput = output
        process.standardError = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw ProgramFailure(text: "\(arguments.joined(separator: " ")): \(text)") }
        return text
    }
}

/// Certificates in a folder of their own: an authority and what it signed, and another one that nobody trusts.
final class Certificates: Sendable {
    let folder: URL

    static let shared: Result<Certificates, any Error> = Result { try Certificates() }

    private init() throws {
        folder = FileManager.default.temporaryDirectory.appendingPathComponent("piko-tls-\(ProcessInfo.processInfo.processIdentifier)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        for name in ["authority", "stranger"] {
            try make([
                "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "\(name).key", "-out",
                "\(name).pem", "-days", "30", "-subj", "/CN=\(name)",
            ])
        }
        try sign("server", names: "DNS:server.test,DNS:*.wild.test,IP:127.0.0.1")
        try sign("rsa", names: "DNS:server.test", isRSA: true)
        try sign("other", names: "DNS:other.test,DNS:deep.wild.test")
        try sign("expired", names: "DNS:server.test", days: -1)
        try sign("client", names: "DNS:client.test", use: "clientAuth")
        try sign("expired-client", names: "DNS:client.test", days: -1)
        try sign("strange", names: "DNS:server.test", by: "stranger")
        try make([
            "pkey", "-in", "server.key", "-aes256", "-passout", "pass:secret", "-out", "locked.key",
        ])
    }

    private func make(_ arguments: [String]) throws {
        guard let openssl = Programs.openssl else { throw ProgramFailure(text: "there is no openssl command") }
        try Programs.run(openssl, arguments, in: folder)
    }

    private func sign(_ name: String, names: String, by authority: String = "authority", use: String? = nil, days: Int = 10, isRSA: Bool = false) throws {
        let kind = isRSA ? ["rsa:2048"] : ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        let extra = use.map { ["-addext", "extendedKeyUsage=\($0)"] } ?? []
        try make(
            ["req", "-newkey"] + kind + ["-nodes", "-keyout", "\(name).key", "-out", "\(name).csr", "-subj", "/CN=\(name)", "-addext", "subjectAltName=\(names)"] + extra)
        try make([
            "x509", "-req", "-in", "\(name).csr", "-CA", "\(authority).pem", "-CAkey", "\(authority).key", "-CAcreateserial", "-days", "\(days)",
            "-copy_extensions", "copy", "-out", "\(name).pem",
        ])
    }

    func bytes(_ file: String) throws -> [UInt8] { [UInt8](try Data(contentsOf: folder.appendingPathComponent(file))) }

    func pair(_ name: String) throws -> TLSCertificate {
        let certificate = try bytes("\(name).pem")
        var key = try bytes("\(name).key")
        return TLSCertificate(certificate: certificate, key: SecretBytes(taking: &key))
    }

    func server(_ names: String..., clients: Bool = false, port: String = "test") throws -> TLSContext {
        var pairs: [TLSCertificate] = []
        for name in names { pairs.append(try pair(name)) }
        var authorities: [UInt8]?
        if clients { authorities = try bytes("authority.pem") }
        return try TLSContext(server: pairs, clientAuthorities: authorities, name: port)
    }

    func client(_ name: String? = nil, trust: TLSTrust? = nil) throws -> TLSContext {
        let authority = try bytes("authority.pem")
        var own: TLSCertificate?
        if let name { own = try pair(name) }
        return try TLSContext(clientTrusting: trust ?? .authorities(authority), certificate: own)
    }
}

/// Remembers what a channel tells.
final class TLSRecorder: ChannelDelegate {
    var bytes: [UInt8] = []
    var hasEnded = false
    var hasFinished = false
    var drains = 0
    var failure: ChannelError?
    var onBytes: ((Channel) -> Void)?
    var text: String { String(decoding: bytes, as: UTF8.self) }

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        for index in bytes.indices { self.bytes.append(bytes[index]) }
        onBytes?(channel)
    }
    override func channelEnded(_ channel: Channel) { hasEnded = true }
    override func channelFinished(_ channel: Channel) { hasFinished = true }
    override func channelDrained(_ channel: Channel) { drains += 1 }
    override func channelFailed(_ channel: Channel, error: ChannelError) { failure = error }
}

/// One end of a cable, and the bytes that came from it and were not passed on yet.
private final class CableEnd {
    let stream: Reactor.Stream
    var waiting: [UInt8] = []
    /// Nothing more comes from it.
    var hasEnded = false
    /// Nothing more goes to it.
    private(set) var isFinished = false

    init(_ stream: Reactor.Stream) { self.stream = stream }

    /// Passes at most so many bytes on, and the end behind the last.
    func pass(_ most: Int, to other: CableEnd) {
        if other.isFinished { return }
        if !waiting.isEmpty {
            let bytes = Array(waiting.prefix(most))
            other.stream.write(bytes.span)
            waiting.removeFirst(bytes.count)
        }
        if hasEnded, waiting.isEmpty { other.finish() }
    }

    func finish() {
        if isFinished { return }
        isFinished = true
        stream.finish()
    }
}

/// A cable between two sockets: carries bytes, in pieces of a given size, and can be cut.
final class Cable: ChannelDelegate {
    private let left: CableEnd
    private let right: CableEnd
    private let piece: Int

    init(_ first: Reactor.Stream, _ second: Reactor.Stream, piece: Int) {
        self.piece = piece
        left = CableEnd(first)
        right = CableEnd(second)
        super.init()
        first.delegate = self
        second.delegate = self
        first.resumeReading()
        second.resumeReading()
    }

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        let end = channel === left.stream ? left : right
        for index in bytes.indices { end.waiting.append(bytes[index]) }
        pass()
    }

    /// Passes one piece of each direction on.
    func pass() {
        left.pass(piece, to: right)
        right.pass(piece, to: left)
    }

    override func channelEnded(_ channel: Channel) { (channel === left.stream ? left : right).hasEnded = true }

    /// Ends the connection as if a cable had been pulled in good order: with a FIN to both.
    func cut() {
        left.finish()
        right.finish()
    }
}

/// A client and a server of one connection on one loop.
final class TLSBench {
    let loop: Loop
    let engine: TLSEngine
    let client: TLSChannel
    let server: TLSChannel
    let cable: Cable?
    let clientUser = TLSRecorder()
    let serverUser = TLSRecorder()
    private(set) var clientIsSecured = false
    private(set) var serverIsSecured = false

    /// What it is made of.
    private struct Parts {
        var engine: TLSEngine
        var client: TLSChannel
        var server: TLSChannel
        var cable: Cable?
    }

    convenience init(
        _ backend: BackendChoice = .epoll, server serverContext: TLSContext, client clientContext: TLSContext, name: String? = "server.test",
        piece: Int? = nil, in shared: TLSEngine? = nil, reading: Bool = true
    ) throws {
        self.init(try Self.connect(Self.engine(shared, backend), serverContext, clientContext, name, piece), reading: reading)
    }

    private static func engine(_ shared: TLSEngine?, _ backend: BackendChoice) throws -> TLSEngine {
        if let shared { return shared }
        return TLSEngine(try Loop(backend: backend))
    }

    private static func connect(
        _ engine: TLSEngine, _ server: TLSContext, _ client: TLSContext, _ name: String?, _ piece: Int?
    ) throws -> Parts {
        var near = try Sockets.pair(.stream)
        let left = try TLSChannel(engine, adopting: near.takeFirst(), context: client, name: name)
        guard let piece else {
            let right = try TLSChannel(engine, adopting: near.takeSecond(), context: server)
            return Parts(engine: engine, client: left, server: right, cable: nil)
        }
        var far = try Sockets.pair(.stream)
        let right = try TLSChannel(engine, adopting: far.takeSecond(), context: server)
        let clientsEnd = try Reactor.Stream(engine.loop, adopting: near.takeSecond())
        let serversEnd = try Reactor.Stream(engine.loop, adopting: far.takeFirst())
        return Parts(engine: engine, client: left, server: right, cable: Cable(clientsEnd, serversEnd, piece: piece))
    }

    private init(_ parts: Parts, reading: Bool) {
        engine = parts.engine
        loop = parts.engine.loop
        client = parts.client
        server = parts.server
        cable = parts.cable
        client.delegate = clientUser
        server.delegate = serverUser
        client.secured = { [unowned self] in clientIsSecured = true }
        server.secured = { [unowned self] in serverIsSecured = true }
        guard reading else { return }
        client.resumeReading()
        server.resumeReading()
    }

    func turn(within time: Duration = .seconds(20), until condition: () -> Bool) -> Bool {
        loop.turn(within: time) {
            cable?.pass()
            return condition()
        }
    }

    func secure() -> Bool { turn { clientIsSecured && serverIsSecured } }
}

func patternBytes(_ count: Int, seed: UInt64 = 1) -> [UInt8] {
    var generator = SeededGenerator(seed: seed)
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + 8)
    while bytes.count < count { withUnsafeBytes(of: generator.next()) { bytes += $0 } }
    bytes.removeLast(bytes.count - count)
    return bytes
}
