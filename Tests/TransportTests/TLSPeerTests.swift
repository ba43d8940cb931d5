// TLS channels against implementations that are not ours to arrange: the openssl command and Python's ssl, at both ends.
import Base
import Crypto
import Foundation
import Memory
import Reactor
import TestKit
import Testing
import Transport

/// Accepts TLS connections on a port of this machine and answers each with what it sent, until a line says "bye".
private final class TLSEchoServer: ListenerDelegate {
    let loop: Loop
    let engine: TLSEngine
    let context: TLSContext
    private(set) var listener: Listener!
    var channels: [TLSChannel] = []
    var users: [TLSRecorder] = []
    var failures: [String] = []
    var port: UInt16 { listener.address?.port ?? 0 }

    init(_ backend: BackendChoice, _ context: TLSContext) throws {
        loop = try Loop(backend: backend)
        engine = TLSEngine(loop)
        self.context = context
        super.init()
        engine.handshakeFailed = { [unowned self] text, _ in failures.append(text) }
        listener = try Listener(loop, adopting: Listener.bind(SocketAddress(address: "127.0.0.1", port: 0)!), delegate: self)
    }

    override func accepted(_ listener: Listener, descriptor: consuming OwnedDescriptor) {
        guard let channel = try? TLSChannel(engine, adopting: descriptor, context: context) else { return }
        let user = TLSRecorder()
        channel.delegate = user
        user.onBytes = { [unowned user] channel in
            guard user.bytes.last == UInt8(ascii: "\n") else { return }
            let bytes = user.bytes
            channel.write(bytes.span)
            if bytes.suffix(4).elementsEqual("bye\n".utf8) { channel.close() }
            user.bytes = []
        }
        channel.resumeReading()
        channels.append(channel)
        users.append(user)
    }

    /// Runs a program against the server: its output.
    func run(_ program: String, _ arguments: [String], input: String, _ later: String? = nil) throws -> String {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        let output = Pipe()
        let stdin = Pipe()
        process.standardOutput = output
        process.standardError = output
        process.standardInput = stdin
        try process.run()
        try? stdin.fileHandleForWriting.write(contentsOf: Data(input.utf8))
        if let later {
            // openssl takes what it reads at once for one command.
            _ = loop.turn { engine.counters.handshakes > 0 }
            _ = loop.turn(within: .milliseconds(300)) { !process.isRunning }
            try? stdin.fileHandleForWriting.write(contentsOf: Data(later.utf8))
        }
        // An end of its input would end openssl before the answer is there.
        #expect(loop.turn(within: .seconds(20)) { !process.isRunning }, "\(program) does not end")
        if process.isRunning { process.terminate() }
        try? stdin.fileHandleForWriting.close()
        return String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    }
}

@Suite(.enabled(if: Programs.openssl != nil && Programs.python != nil, "needs openssl and python3"), .serialized) struct TLSPeerTests {
    let certificates: Certificates
    var authority: String { certificates.folder.appendingPathComponent("authority.pem").path }

    init() throws {
        certificates = try Certificates.shared.get()
        // A program that ended before its input was written must not end the tests.
        signal(SIGPIPE, SIG_IGN)
    }

    private func client(
        _ server: TLSEchoServer, _ arguments: [String], input: String = "hello\nbye\n", _ later: String? = nil
    ) throws -> String {
        try server.run(
            #require(Programs.openssl),
            ["s_client", "-connect", "127.0.0.1:\(server.port)", "-servername", "server.test", "-CAfile", authority, "-verify_return_error"]
                + arguments, input: input, later)
    }

    @Test(arguments: tlsBackends, ["-tls1_2", "-tls1_3"]) func openssl(_ backend: BackendChoice, version: String) throws {
        let server = try TLSEchoServer(backend, certificates.server("server"))
        let output = try client(server, [version, "-verify_hostname", "server.test", "-alpn", "h2,http/1.1"])
        #expect(output.contains("hello\nbye\n") && output.contains("Verify return code: 0 (ok)"), "\(output)")
        #expect(output.contains("ALPN protocol: http/1.1") && output.contains("Compression: NONE"), "\(output)")
        #expect(output.hasSuffix("closed\n"), "\(output)")
    }

    @Test(arguments: [
        (["-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"], "unsupported protocol"),
        (["-tls1_2", "-cipher", "AES128-GCM-SHA256"], "no shared cipher"),
        (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"], "no shared cipher"),
        (["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "no shared cipher"),
        (["-alpn", "h2"], "no application protocol"),
        (["-groups", "P-521"], "no suitable key share"),
    ] as [([String], String)])
    func refusesWhatIsOld(_ arguments: [String], _ reason: String) throws {
        let server = try TLSEchoServer(.epoll, certificates.server("server"))
        let output = try client(server, arguments)
        #expect(!output.contains("hello\nbye"), "\(output)")
        #expect(server.failures == ["TLS: \(reason)"])
    }

    @Test func negotiatesNothingAnew() throws {
        let server = try TLSEchoServer(.epoll, certificates.server("server"))
        let output = try client(server, ["-tls1_2"], input: "R\nhello\nbye\n")
        #expect(output.contains("RENEGOTIATING") && output.contains("no renegotiation"), "\(output)")
        #expect(output.contains("Secure Renegotiation IS supported"), "\(output)")
    }

    @Test(arguments: tlsBackends) func changesKeysWhenAsked(_ backend: BackendChoice) throws {
        let server = try TLSEchoServer(backend, certificates.server("server"))
        let output = try client(server, ["-tls1_3"], input: "K\n", "hello\nbye\n")
        #expect(output.contains("KEYUPDATE") && output.contains("hello\n"), "\(output)")
    }

    @Test(arguments: ["-tls1_2", "-tls1_3"]) func resumes(_ version: String) throws {
        let context = try certificates.server("server")
        context.setTicketKeys([SecretBytes(copying: patternBytes(TLSContext.ticketKeyBytes).span)])
        let server = try TLSEchoServer(.epoll, context)
        let file = certificates.folder.appendingPathComponent("session\(version)").path
        _ = try client(server, [version, "-sess_out", file])
        let output = try client(server, [version, "-sess_in", file])
        #expect(output.contains("Reused, TLSv1.\(version.last!)"), "\(output)")
        #expect(server.engine.counters.resumed == 1)
    }

    @Test func choosesTheKindOfKeyThatTheClientKnows() throws {
        let server = try TLSEchoServer(.epoll, certificates.server("server", "rsa"))
        #expect(try client(server, ["-sigalgs", "RSA-PSS+SHA256"]).contains("subject=CN = rsa"))
        #expect(try client(server, ["-sigalgs", "ECDSA+SHA256"]).contains("subject=CN = server"))
    }

    private static let pythonClient = """
        import hashlib, socket, ssl, sys
        port, authority, version, way = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
        context = ssl.create_default_context(cafile=authority)
        context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
        sock = context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="a.wild.test", suppress_ragged_eofs=False)
        data = bytes(range(256)).replace(b"\\n", b"") * 1000 + b"\\n"
        sock.sendall(data)
        got = b""
        while len(got) < len(data):
            got += sock.recv(7777)
        assert got == data
        if way == "bye":
            sock.sendall(b"bye\\n")
            assert sock.recv(100) == b"bye\\n" and sock.recv(100) == b""   # a clean end: a cut would raise
            sock.unwrap()
        elif way == "unwrap":
            try:
                sock.settimeout(0.2)
                sock.unwrap()
            except (TimeoutError, ssl.SSLError, OSError):
                pass
        sock.close()
        print("fine", sock.version())
        """

    @Test(arguments: tlsBackends, ["TLSv1_2", "TLSv1_3"]) func python(_ backend: BackendChoice, version: String) throws {
        let server = try TLSEchoServer(backend, certificates.server("server"))
        for way in ["bye", "unwrap", "cut"] {
            let output = try server.run(
                #require(Programs.python), ["-c", Self.pythonClient, "\(server.port)", authority, version, way], input: "")
            #expect(output.hasPrefix("fine"), "\(way): \(output)")
        }
        #expect(server.loop.turn { server.users[1].hasEnded && server.users[2].failure != nil })
        #expect(server.users[0].failure == nil && server.users[1].failure == nil)
        #expect(server.users[2].failure == .truncated)
    }

    private static let pythonServer = """
        import socket, ssl, sys
        folder, version, way = sys.argv[1], sys.argv[2], sys.argv[3]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder + "/server.pem", folder + "/server.key")
        context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
        context.set_alpn_protocols(["http/1.1"])
        if way == "client":
            context.load_verify_locations(folder + "/authority.pem")
            context.verify_mode = ssl.CERT_REQUIRED
        listener = socket.create_server(("127.0.0.1", 0))
        print(listener.getsockname()[1], flush=True)
        sock = context.wrap_socket(listener.accept()[0], server_side=True)
        assert sock.selected_alpn_protocol() == "http/1.1"
        if way == "client":
            assert sock.getpeercert()["subject"] == ((("commonName", "client"),),)
        got = sock.recv(100)
        sock.sendall(got.upper() + b"x" * 1000000)
        if way == "cut":
            sock.close()
        else:
            try:
                sock.unwrap()
            except OSError:
                pass
        """

    @Test(arguments: tlsBackends, ["TLSv1_2", "TLSv1_3"]) func pythonServes(_ backend: BackendChoice, version: String) throws {
        for way in ["end", "client", "cut"] {
            let process = Process()
            process.executableURL = URL(fileURLWithPath: try #require(Programs.python))
            process.arguments = ["-c", Self.pythonServer, certificates.folder.path, version, way]
            let output = Pipe()
            process.standardOutput = output
            try process.run()
            defer { process.terminate() }
            var line = ""
            while !line.hasSuffix("\n") {
                let piece = output.fileHandleForReading.availableData
                if piece.isEmpty { break }
                line += String(decoding: piece, as: UTF8.self)
            }
            let port = try #require(UInt16(line.dropLast()))
            let loop = try Loop(backend: backend)
            let engine = TLSEngine(loop)
            let descriptor = try Self.connected(port)
            let channel = try TLSChannel(
                engine, adopting: OwnedDescriptor(descriptor), context: certificates.client(way == "client" ? "client" : nil),
                name: "127.0.0.1")
            let user = TLSRecorder()
            channel.delegate = user
            channel.resumeReading()
            channel.write(Array("hello".utf8).span)
            #expect(loop.turn { user.hasEnded || user.failure != nil }, "\(way)")
            #expect(user.bytes.count == 1_000_005 && user.text.hasPrefix("HELLOxxx"), "\(way): \(channel.failure)")
            #expect(user.failure == (way == "cut" ? .truncated : nil) && user.hasEnded == (way != "cut"), "\(way): \(channel.failure)")
            channel.close()
            #expect(loop.turn { engine.counters.closing == 0 && !process.isRunning }, "\(way)")
            process.waitUntilExit()
            #expect(process.terminationStatus == 0)
        }
    }

    /// A plain connection to a port of this machine.
    private static func connected(_ port: UInt16) throws -> Int32 {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        let result = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
        }
        guard descriptor >= 0, result == 0 else { throw SystemError(code: errno, call: "connect to port \(port)") }
        return descriptor
    }
}
