// A UDP socket in a loop. Packets come in batches, with their senders' addresses; sending never waits: a packet that the kernel
// has no room for is lost, as any other may be.
internal import CIOCore
internal import Glibc

/// Who is told of a socket's packets.
open class DatagramDelegate {
    public init() {}

    /// A packet came. The bytes are valid during the call only.
    open func datagram(_ socket: DatagramSocket, bytes: Span<UInt8>, from: SocketAddress) {}

    /// A packet came that was longer than the socket takes; its bytes are lost.
    open func datagramTooLong(_ socket: DatagramSocket, from: SocketAddress) {}
}

/// A bound UDP socket.
@safe
public final class DatagramSocket {
    /// The loop that drives it.
    public let loop: Loop
    /// Who is told; nil after the end.
    public var delegate: DatagramDelegate?
    private var descriptor: OwnedDescriptor?
    private var source: ReadinessSource?
    /// Whether IPv4 addresses have to be written as IPv6.
    private let isDualStack: Bool
    private let bytesMax: Int
    private let area: UnsafeMutablePointer<UInt8>
    private let records: UnsafeMutablePointer<cio_datagram>

    private static let batch = Int(CIO_DATAGRAMS_MAX)
    /// Batches that one readiness is good for; then others have their turn.
    private static let batchesMax = 4

    /// Takes over a bound UDP socket. Packets have at most `bytesMax` bytes.
    public init(_ loop: Loop, adopting descriptor: consuming OwnedDescriptor, bytesMax: Int) throws(SystemError) {
        self.loop = loop
        self.bytesMax = bytesMax
        let number = descriptor.raw
        isDualStack = SocketAddress.isIPv6(number)
        unsafe area = .allocate(capacity: bytesMax * Self.batch)
        unsafe records = .allocate(capacity: Self.batch)
        unsafe records.initialize(repeating: cio_datagram(), count: Self.batch)
        self.descriptor = consume descriptor
        source = try ReadinessSource(loop, readable: number) { [unowned self] in receive() }
    }

    deinit {
        source?.close()
        unsafe area.deallocate()
        unsafe records.deallocate()
    }

    /// A UDP socket at the address; one for IPv6 takes IPv4 as well.
    public static func bind(_ address: SocketAddress) throws(SystemError) -> OwnedDescriptor {
        let result = unsafe address.withKernelAddress { pointer, length in unsafe cio_datagram_bind(pointer, length) }
        return OwnedDescriptor(try result.orThrow("bind \(address) for UDP"))
    }

    /// The address that it is bound to; nil when closed.
    public var address: SocketAddress? { SocketAddress.name(of: descriptor?.raw ?? -1) }

    /// Sends a packet, or loses it; false when it is known to be lost.
    @discardableResult
    public func send(_ bytes: Span<UInt8>, to address: SocketAddress) -> Bool {
        guard let number = descriptor?.raw else { return false }
        return unsafe address.withKernelAddress(mapped: isDualStack) { pointer, length in
            unsafe bytes.withUnsafeBufferPointer { buffer in
                unsafe cio_datagram_send(number, buffer.baseAddress, buffer.count, pointer, length) == 0
            }
        }
    }

    /// Takes the socket out of the loop. Packets that the kernel holds stay in it.
    public func detach() -> OwnedDescriptor? {
        source?.close()
        source = nil
        delegate = nil
        return descriptor.take()
    }

    /// Closes the socket.
    public func close() { _ = detach() }

    private func receive() {
        for _ in 0..<Self.batchesMax {
            guard let number = descriptor?.raw else { return }
            let count = unsafe Int(cio_datagram_receive(number, area, bytesMax, records, UInt32(Self.batch)))
            if count <= 0 { return }
            for index in 0..<count {
                // The delegate may close the socket.
                guard let delegate else { return }
                let record = unsafe records[index]
                guard let from = SocketAddress(storage: record.from) else { continue }
                if record.truncated {
                    delegate.datagramTooLong(self, from: from)
                } else {
                    let buffer = unsafe UnsafeBufferPointer(start: area + index * bytesMax, count: Int(record.length))
                    delegate.datagram(self, bytes: unsafe Span(_unsafeElements: buffer), from: from)
                }
            }
            if count < Self.batch { return }
        }
    }
}
