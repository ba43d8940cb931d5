// A request on the admin port that another node answers. The supervisor makes the connection, to the admin port of a node that it
// knows and to nothing else; the request is written anew, without what names the node, so it can't go round; the answer is read
// whole, within a time and a size, and passed on.

import Base
import Memory
import Reactor
import Wire

/// What another node answered.
struct ForwardedAnswer {
    var status: Int
    var contentType: StaticString
    var body: [UInt8]
}

/// One request at another node.
final class AdminForward: ChannelDelegate {
    private let node: Channel
    private var input = ByteBuffer()
    private var done: ((ForwardedAnswer?) -> Void)?

    private static let answerBytesMax = 24 << 20

    /// Asks for the path, with these field lines. `done` is told the answer once, or nil when there is none.
    init(_ node: Channel, path: String, fields: [UInt8], done: @escaping (ForwardedAnswer?) -> Void) {
        self.node = node
        self.done = done
        super.init()
        node.delegate = self
        node.resumeReading()
        let request = "GET \(path) HTTP/1.1\r\nHost: \(node.peer?.description ?? "node")\r\nConnection: close\r\n"
        node.write((Array(request.utf8) + fields + Array("\r\n".utf8)).span)
    }

    /// Gives up; nobody is told.
    func close() {
        done = nil
        node.abort()
    }

    private func end(_ answer: ForwardedAnswer?) {
        let told = done
        close()
        told?(answer)
    }

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        input.append(bytes.span)
        if input.count > Self.answerBytesMax { return end(nil) }
        advance(hasEnded: false)
    }

    override func channelEnded(_ channel: Channel) {
        advance(hasEnded: true)
        end(nil)
    }

    override func channelFailed(_ channel: Channel, error: ChannelError) { end(nil) }

    private func advance(hasEnded: Bool) {
        guard done != nil else { return }
        do throws(HTTPError) {
            if let answer = try Self.decode(input.span, hasEnded: hasEnded) { end(answer) }
        } catch {
            end(nil)
        }
    }

    /// The answer when it is whole. Nodes give the length of their admin pages.
    private static func decode(_ bytes: Span<UInt8>, hasEnded: Bool) throws(HTTPError) -> ForwardedAnswer? {
        var head = Head()
        var parser = HeadParser(kind: .response)
        guard try parser.parse(bytes, into: &head) == .complete else { return nil }
        let rest = bytes.extracting(head.length..<bytes.count)
        var type: StaticString = "application/octet-stream"
        let fields = head.fields
        for index in fields.indices where isContentType(bytes.extracting(fields[index].name)) {
            type = contentType(bytes.extracting(fields[index].value))
        }
        switch try BodyFraming.response(head, to: .get) {
        case .none: return ForwardedAnswer(status: head.status, contentType: type, body: [])
        case .length(let length):
            guard UInt64(rest.count) >= length else { return nil }
            return ForwardedAnswer(status: head.status, contentType: type, body: [UInt8](copying: rest.extracting(0..<Int(length))))
        case .untilClose:
            return hasEnded ? ForwardedAnswer(status: head.status, contentType: type, body: [UInt8](copying: rest)) : nil
        case .chunked, .tunnel: throw HTTPError(status: 502, reason: "not an admin page")
        }
    }

    private static let types: [StaticString] = [
        "application/json; charset=utf-8", "text/plain; version=0.0.4; charset=utf-8", "application/json", "text/plain",
    ]

    private static func isContentType(_ name: Span<UInt8>) -> Bool {
        let wanted = Array("content-type".utf8)
        guard name.count == wanted.count else { return false }
        for index in name.indices where name[index] | 0x20 != wanted[index] | 0x20 { return false }
        return true
    }

    private static func contentType(_ value: Span<UInt8>) -> StaticString {
        let text = [UInt8](copying: value)
        return types.first { $0.description.utf8.elementsEqual(text) } ?? "text/plain"
    }
}
