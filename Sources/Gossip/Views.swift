// What status pages and the application ask for.

public import Base

extension GossipMachine {
    /// This node, with the incarnation that it has by now.
    public var local: LocalNode {
        let member = members[0]
        var attributes: [GossipAttribute: String] = [:]
        for attribute in GossipAttribute.allCases {
            let value = member.entries.attribute(attribute)
            if !value.isEmpty { attributes[attribute] = value }
        }
        return LocalNode(id: member.id, incarnation: member.incarnation, address: member.address, attributes: attributes)
    }

    /// How many nodes are known, this one and those that left or are unreachable included.
    public var knownNodes: Int { members.count }

    /// All known nodes, this one first.
    public func nodes(now: Instant) -> [GossipNodeView] { members.places.map { view($0, now) } }

    /// The known node of this id.
    public func node(_ id: String, now: Instant) -> GossipNodeView? { members.place(ofID: id).map { view($0, now) } }

    /// The entries of a node by version.
    public func entries(of id: String) -> [GossipEntryView] {
        guard let place = members.place(ofID: id) else { return [] }
        var views: [GossipEntryView] = []
        views.reserveCapacity(members[place].entries.slots.count)
        members[place].entries.forEach(after: 0) { slot, entry in
            views.append(Self.view(slot, entry))
            return true
        }
        return views
    }

    /// The endpoints of a node with their counts: what the application was told, for one that starts anew (after an upgrade).
    public func endpoints(of id: String) -> [(endpoint: String, count: UInt32)] {
        guard let place = members.place(ofID: id) else { return [] }
        var endpoints: [(endpoint: String, count: UInt32)] = []
        endpoints.reserveCapacity(members[place].entries.endpoints)
        members[place].entries.forEach(after: 0) { slot, entry in
            if slot >= EntryTable.firstEndpoint, members[place].entries.slot(of: entry.text) == slot {
                endpoints.append((entry.text, entry.count))
            }
            return true
        }
        return endpoints
    }

    private func view(_ place: Int, _ now: Instant) -> GossipNodeView {
        let member = members[place]
        var expiresIn: Duration?
        switch member.state {
        case .alive, .suspect: break
        case .dead(let since, _), .left(let since): expiresIn = since + configuration.expiry - now
        }
        return GossipNodeView(
            node: applicationNode(place), entryVersion: member.entries.version, endpoints: member.entries.endpoints,
            listeners: member.entries.listeners, removedEntries: member.entries.removed, expiresIn: expiresIn)
    }

    private static func view(_ slot: Int, _ entry: EntryTable.Slot) -> GossipEntryView {
        if slot >= EntryTable.firstEndpoint {
            return entry.text.isEmpty
                ? GossipEntryView(key: "slot:\(slot)", value: "", version: entry.version, isRemoved: true)
                : GossipEntryView(key: "endpoint:\(entry.text)", value: "\(entry.count)", version: entry.version, isRemoved: false)
        }
        let key = GossipAttribute(rawValue: UInt32(slot))?.key ?? "slot:\(slot)"
        let value = slot == EntryTable.sizeSlot ? "\(entry.count)" : entry.text
        return GossipEntryView(key: key, value: value, version: entry.version, isRemoved: false)
    }
}
