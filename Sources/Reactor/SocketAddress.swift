// IP addresses with a port, as values. An IPv4 address that came mapped into IPv6 (from a dual-stack listener) becomes
// plain IPv4, so that a client looks the same whichever way it came.
internal import CIOCore
internal import Glibc
public import Base
public import Memory

/// An IPv4 or IPv6 address and a port.
public struct SocketAddress: Equatable, Hashable, Sendable, CustomStringConvertible {
    /// The sixteen address bytes, big-endian; IPv4 is held mapped (::ffff:a.b.c.d).
    private var high: UInt64
    private var low: UInt64
    /// IPv6 zone of a link-local address, else 0.
    private var scope: UInt32 = 0
    /// The port.
    public var port: UInt16

    private static let mappedPrefix: UInt64 = 0x0000_ffff_0000_0000

    /// The address without its port and zone.
    public var ip: IPAddress { IPAddress(high: high, low: low) }

    /// Whether it is an IPv4 address.
    public var isIPv4: Bool { high == 0 && low & 0xffff_ffff_0000_0000 == SocketAddress.mappedPrefix }

    /// Whether it is an address of this machine alone (127.0.0.0/8 or ::1).
    public var isLoopback: Bool { isIPv4 ? (low >> 24) & 0xff == 127 : high == 0 && low == 1 }

    /// From a literal such as `127.0.0.1` or `::1` (without brackets); nil when it is not one.
    public init?(address: String, port: UInt16) {
        var four = in_addr()
        var six = in6_addr()
        if unsafe inet_pton(AF_INET, address, &four) == 1 {
            self.init(ipv4: UInt32(bigEndian: four.s_addr), port: port)
        } else if unsafe inet_pton(AF_INET6, address, &six) == 1 {
            self.init(six: six, port: port, scope: 0)
        } else {
            return nil
        }
    }

    /// From the four bytes of an IPv4 address, as one number.
    public init(ipv4: UInt32, port: UInt16) {
        high = 0
        low = SocketAddress.mappedPrefix | UInt64(ipv4)
        self.port = port
    }

    private init(six: in6_addr, port: UInt16, scope: UInt32) {
        (high, low) = unsafe withUnsafeBytes(of: six) { bytes in
            unsafe (UInt64(bigEndian: bytes.loadUnaligned(as: UInt64.self)),
                UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)))
        }
        self.port = port
        self.scope = scope
    }

    // MARK: - The kernel's form

    init?(storage: sockaddr_storage) {
        switch Int32(storage.ss_family) {
        case AF_INET:
            let four = unsafe withUnsafeBytes(of: storage) { unsafe $0.load(as: sockaddr_in.self) }
            self.init(ipv4: UInt32(bigEndian: four.sin_addr.s_addr), port: UInt16(bigEndian: four.sin_port))
        case AF_INET6:
            let six = unsafe withUnsafeBytes(of: storage) { unsafe $0.load(as: sockaddr_in6.self) }
            self.init(six: six.sin6_addr, port: UInt16(bigEndian: six.sin6_port), scope: six.sin6_scope_id)
        default:
            return nil
        }
    }

    /// Whether a socket is one for IPv6.
    static func isIPv6(_ descriptor: Int32) -> Bool {
        var storage = sockaddr_storage()
        var length = socklen_t(0)
        return unsafe cio_socket_name(descriptor, &storage, &length) >= 0 && Int32(storage.ss_family) == AF_INET6
    }

    /// Calls `body` with the address as the kernel wants it; `mapped`: IPv4 in the form for an IPv6 socket.
    func withKernelAddress<Result>(mapped: Bool = false, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
        if isIPv4, !mapped {
            var four = sockaddr_in()
            four.sin_family = sa_family_t(AF_INET)
            four.sin_port = port.bigEndian
            four.sin_addr.s_addr = UInt32(truncatingIfNeeded: low).bigEndian
            return unsafe withUnsafePointer(to: four) { pointer in
                unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    unsafe body($0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
        }
        var six = sockaddr_in6()
        six.sin6_family = sa_family_t(AF_INET6)
        six.sin6_port = port.bigEndian
        six.sin6_scope_id = scope
        unsafe withUnsafeMutableBytes(of: &six.sin6_addr) { bytes in
            unsafe bytes.storeBytes(of: high.bigEndian, as: UInt64.self)
            unsafe bytes.storeBytes(of: low.bigEndian, toByteOffset: 8, as: UInt64.self)
        }
        return unsafe withUnsafePointer(to: six) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe body($0, socklen_t(MemoryLayout<sockaddr_in6>.size))
            }
        }
    }

    /// The address of the other end of a connected socket; nil for a Unix socket or when there is none.
    public static func peer(of descriptor: Int32) -> SocketAddress? {
        var storage = sockaddr_storage()
        var length = socklen_t(0)
        if unsafe cio_socket_peer(descriptor, &storage, &length) < 0 { return nil }
        return SocketAddress(storage: storage)
    }

    /// The socket's own address; nil for a Unix socket.
    public static func name(of descriptor: Int32) -> SocketAddress? {
        var storage = sockaddr_storage()
        var length = socklen_t(0)
        if unsafe cio_socket_name(descriptor, &storage, &length) < 0 { return nil }
        return SocketAddress(storage: storage)
    }

    /// The addresses of this machine's interfaces, without ports, in the system's order.
    public static var ofMachine: [SocketAddress] {
        unsafe withUnsafeTemporaryAllocation(of: sockaddr_storage.self, capacity: 64) { list in
            unsafe list.initialize(repeating: sockaddr_storage())
            let count = unsafe Int(cio_machine_addresses(list.baseAddress!, UInt32(list.count)))
            return (0..<max(0, count)).compactMap { index in
                guard var address = SocketAddress(storage: unsafe list[index]) else { return nil }
                address.port = 0
                return address
            }
        }
    }

    // MARK: - Eighteen bytes, for control messages

    /// 16 address bytes (IPv4 mapped into IPv6), then the port, all big-endian.
    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(18)
        for shift in stride(from: 56, through: 0, by: -8) { bytes.append(UInt8(truncatingIfNeeded: high >> UInt64(shift))) }
        for shift in stride(from: 56, through: 0, by: -8) { bytes.append(UInt8(truncatingIfNeeded: low >> UInt64(shift))) }
        bytes.append(UInt8(truncatingIfNeeded: port >> 8))
        bytes.append(UInt8(truncatingIfNeeded: port))
        return bytes
    }

    /// From the form of `encoded`; nil unless there are exactly 18 bytes.
    public init?(encoded bytes: Span<UInt8>) {
        guard bytes.count == 18 else { return nil }
        high = 0
        low = 0
        for index in 0..<8 { high = high << 8 | UInt64(bytes[index]) }
        for index in 8..<16 { low = low << 8 | UInt64(bytes[index]) }
        port = UInt16(bytes[16]) << 8 | UInt16(bytes[17])
    }

    // MARK: - Text

    /// The address without port and brackets: `127.0.0.1`, `::1`.
    public var host: String {
        unsafe withHostText { unsafe String(decoding: $0, as: UTF8.self) }
    }

    /// From `127.0.0.1:80` or `[::1]:80`; nil when it is neither.
    public init?(text: String) {
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else { return nil }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
        } else if host.contains(":") {
            return nil
        }
        self.init(address: String(host), port: port)
    }

    /// Whether it stands for all addresses of a machine (0.0.0.0 or ::).
    public var isUnspecified: Bool { isIPv4 ? low & 0xffff_ffff == 0 : high == 0 && low == 0 }

    /// Whether it is of those that networks use among themselves (RFC 1918, RFC 4193, 100.64.0.0/10).
    public var isPrivate: Bool {
        guard isIPv4 else { return high >> 57 == 0x7e }
        let four = low & 0xffff_ffff
        return four >> 24 == 10 || four >> 20 == 0xac1 || four >> 16 == 0xc0a8 || four >> 22 == 0x191
    }

    /// Whether it is of one link alone.
    public var isLinkLocal: Bool { isIPv4 ? low & 0xffff_0000 == 0xa9fe_0000 : high >> 54 == 0x3fa }

    /// `127.0.0.1:80` or `[::1]:80`.
    public var description: String { isIPv4 ? "\(host):\(port)" : "[\(host)]:\(port)" }

    /// Appends `host` to a buffer, without any allocation but the buffer's own.
    public func writeHost(into buffer: inout ByteBuffer) {
        unsafe withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 64) { text in
            let count = unsafe hostText(into: text)
            unsafe buffer.append(Span(_unsafeElements: UnsafeBufferPointer(rebasing: text[..<count])))
        }
    }

    private func withHostText<Result>(_ body: (UnsafeBufferPointer<UInt8>) -> Result) -> Result {
        unsafe withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 64) { text in
            let count = unsafe hostText(into: text)
            return unsafe body(UnsafeBufferPointer(rebasing: text[..<count]))
        }
    }

    private func hostText(into text: UnsafeMutableBufferPointer<UInt8>) -> Int {
        unsafe withKernelAddress { address, _ in
            unsafe text.initialize(repeating: 0)
            let family = unsafe Int32(address.pointee.sa_family)
            let offset = family == AF_INET
                ? MemoryLayout<sockaddr_in>.offset(of: \.sin_addr)! : MemoryLayout<sockaddr_in6>.offset(of: \.sin6_addr)!
            let source = unsafe UnsafeRawPointer(address) + offset
            return unsafe text.withMemoryRebound(to: CChar.self) { characters in
                guard unsafe inet_ntop(family, source, characters.baseAddress!, socklen_t(characters.count)) != nil else {
                    return 0
                }
                return unsafe strlen(characters.baseAddress!)
            }
        }
    }
}
