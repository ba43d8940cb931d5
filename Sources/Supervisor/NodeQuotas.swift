// The node's part in quotas: the memory in which workers count streams and requests, and the tunnels, which are counted here.

import Base
import Control
import Memory
import Reactor
import Telemetry

/// The memory of the quotas. It goes along in an upgrade, as that of the counters does.
final class QuotaMemory {
    private let memory: SharedMemory
    private let region: QuotaRegion

    /// The memory file, for workers and the next program.
    var descriptor: Int32 { memory.descriptor }

    /// A new one for so many counter slabs.
    init(slabs: Int) throws(SystemError) {
        memory = try SharedMemory(name: "piko-quotas", size: QuotaRegion.byteCount(slabs: slabs))
        region = QuotaRegion(formatting: memory.region, slabs: slabs)
    }

    /// That of the program before; nil when it can't be used.
    private init?(adopting descriptor: Int32, slabs: Int) {
        let size = SharedMemory.size(of: descriptor)
        guard let memory = try? SharedMemory(adopting: OwnedDescriptor(descriptor), size: size),
            let region = try? QuotaRegion(opening: memory.region), region.slabCount == slabs
        else { return nil }
        self.memory = memory
        self.region = region
    }

    /// That of the program before, or a new one when it left none.
    static func taken(_ descriptor: Int32?, slabs: Int) throws(SystemError) -> QuotaMemory {
        if let descriptor, let taken = QuotaMemory(adopting: descriptor, slabs: slabs) { return taken }
        return try QuotaMemory(slabs: slabs)
    }

    /// Gives back what a worker had open that has ended.
    func clear(slab: Int) { region.clear(slab: slab) }
}

extension Node {
    /// A worker has a tunnel that wants to be found.
    func register(_ process: WorkerProcess, _ tunnel: UInt64, _ endpoint: String, _ kind: TunnelKind, _ quotas: TunnelQuotas) {
        let before = routes.localCount(endpoint)
        switch routes.register(worker: process.worker, tunnel: tunnel, endpoint: endpoint, kind: kind, quotas: quotas) {
        case .added(let version):
            broadcast(endpoint, version: version)
            tellCount(endpoint, before: before)
            process.link.send(.registered(tunnel: tunnel))
        case .refused(let reason):
            switch reason {
            case .tableFull: counters.add(.refusedTunnels)
            case .tunnels: counters.add(.refusedQuotaTunnels)
            case .endpoints: counters.add(.refusedQuotaEndpoints)
            }
            process.link.send(.refused(tunnel: tunnel, reason: reason))
        case .duplicate:
            linkFailed(process.link, reason: "registered tunnel \(tunnel) twice")
        }
    }
}
