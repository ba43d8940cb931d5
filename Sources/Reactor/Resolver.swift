// Names to addresses, with the machine's own resolver on helper threads.
internal import CIOCore
internal import Glibc

/// Why a name could not be resolved.
public struct ResolveError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The resolver's words, for example "Name or service not known".
    public var description: String
}

/// Looks names up.
public final class Resolver {
    private let loop: Loop

    public init(_ loop: Loop) {
        self.loop = loop
    }

    /// Looks a name up; an address literal needs no look-up. The completion runs once, from the loop and never from within
    /// this call, unless the result is cancelled before. The order of addresses is the system's preference.
    @discardableResult
    public func resolve(
        host: String, port: UInt16, completion: @escaping (Result<[SocketAddress], ResolveError>) -> Void
    ) -> Resolution {
        let resolution = Resolution(loop, completion)
        if let address = SocketAddress(address: host, port: port) {
            resolution.completeLater(.success([address]))
        } else {
            resolution.start(host: host, port: port)
        }
        return resolution
    }
}

/// A look-up in progress.
@safe
public final class Resolution {
    private let loop: Loop
    private var completion: ((Result<[SocketAddress], ResolveError>) -> Void)?
    private var handle: cio_handle = 0

    fileprivate init(_ loop: Loop, _ completion: @escaping (Result<[SocketAddress], ResolveError>) -> Void) {
        self.loop = loop
        self.completion = completion
    }

    /// The completion is not called any more.
    public func cancel() {
        completion = nil
        closeHandle()
    }

    fileprivate func start(host: String, port: UInt16) {
        var opened: cio_handle = 0
        let tag = handlerTag(self, HandlerKind.resolution)
        /* A NUL inside a name would cut it short on its way through C. */
        let result = host.utf8.contains(0)
            ? -EINVAL : unsafe cio_resolve(loop.core, host, String(port), tag, &opened)
        if result < 0 {
            completeLater(.failure(ResolveError(description: SystemError.text(of: -result))))
            return
        }
        handle = opened
        retainHandler(self)
    }

    fileprivate func completeLater(_ result: Result<[SocketAddress], ResolveError>) {
        loop.afterTurn(DelayedCompletion(self, result))
    }

    fileprivate func complete(_ result: Result<[SocketAddress], ResolveError>) {
        let told = completion
        completion = nil
        told?(result)
    }

    private func closeHandle() {
        if handle == 0 { return }
        unsafe cio_handle_close(loop.core, handle)
        handle = 0
        releaseHandler(self)
    }

    func handle(_ event: UnsafePointer<cio_event>) {
        let bytes = unsafe UnsafeRawBufferPointer(start: event.pointee.data, count: Int(event.pointee.length))
        let result: Result<[SocketAddress], ResolveError>
        if unsafe event.pointee.result == 0 {
            let stride = MemoryLayout<sockaddr_storage>.stride
            let addresses = (0..<bytes.count / stride).compactMap { index in
                SocketAddress(storage: unsafe bytes.loadUnaligned(fromByteOffset: index * stride, as: sockaddr_storage.self))
            }
            result = addresses.isEmpty ? .failure(ResolveError(description: "no address")) : .success(addresses)
        } else {
            result = .failure(ResolveError(description: unsafe String(decoding: bytes, as: UTF8.self)))
        }
        closeHandle()
        complete(result)
    }
}

private final class DelayedCompletion: AfterTurn {
    private let resolution: Resolution
    private let result: Result<[SocketAddress], ResolveError>

    init(_ resolution: Resolution, _ result: Result<[SocketAddress], ResolveError>) {
        self.resolution = resolution
        self.result = result
    }

    override func run() { resolution.complete(result) }
}
