// From a YAML tree to a configuration, by the schema: what the schema does not know is refused with its place and the
// nearest name that it knows.

/// Decodes one file.
struct ConfigDecoder<Root> {
    let schema: Schema<Root>
    let fileName: String

    /// Sets what the tree says. Null, wherever it stands, leaves the default.
    mutating func decode(_ node: YAMLNode, into root: inout Root) throws(ConfigError) {
        try decodeMap(node, prefix: "", settings: schema.settings, lists: schema.lists, into: &root)
    }

    /// Decodes a map whose keys stand under `prefix` (which is empty or ends with "."); returns which paths it sets.
    @discardableResult
    private mutating func decodeMap(
        _ node: YAMLNode, prefix: String, settings: [Setting<Root>], lists: [SettingList<Root>], into root: inout Root
    ) throws(ConfigError) -> Set<String> {
        if node.isNull { return [] }
        guard case .map(let entries) = node.content else {
            let name = prefix.isEmpty ? "a configuration" : "\(prefix.dropLast())"
            throw failure(at: node.position, "\(name) holds keys (\"key: value\"), not \(Self.kind(of: node))")
        }
        var paths: Set<String> = []
        for entry in entries {
            let path = prefix + entry.key
            paths.insert(path)
            if let setting = settings.first(where: { $0.path == path }) {
                try decodeValue(entry.value, setting, into: &root)
            } else if let list = lists.first(where: { $0.path == path }) {
                try decodeElements(entry.value, list, into: &root)
            } else if settings.contains(where: { $0.path.hasPrefix(path + ".") }) {
                paths.formUnion(
                    try decodeMap(entry.value, prefix: path + ".", settings: settings, lists: lists, into: &root))
            } else {
                throw unknownKey(entry, prefix: prefix, paths: settings.map(\.path) + lists.map(\.path))
            }
        }
        return paths
    }

    private func decodeValue(_ node: YAMLNode, _ setting: Setting<Root>, into root: inout Root) throws(ConfigError) {
        if node.isNull {
            if setting.isRequired { throw failure(at: node.position, "\(setting.path): a value is missing") }
            setting.clear(&root)
            return
        }
        if setting.form == .list {
            guard case .list(let items) = node.content else {
                throw failure(at: node.position, "\(setting.path): expected a list such as [a, b], not \(Self.kind(of: node))")
            }
            setting.clear(&root)
            for item in items { try assign(item, setting, into: &root) }
        } else {
            try assign(node, setting, into: &root)
        }
    }

    private func assign(_ node: YAMLNode, _ setting: Setting<Root>, into root: inout Root) throws(ConfigError) {
        guard case .scalar(let text, let isQuoted) = node.content else {
            throw failure(at: node.position, "\(setting.path): expected one value, not \(Self.kind(of: node))")
        }
        if isQuoted && (setting.form == .truth || setting.form == .scalar(mayBeQuoted: false)) {
            throw failure(at: node.position, "\(setting.path): \"\(text)\" must not be quoted (a quoted value is a text)")
        }
        do throws(SettingError) {
            try setting.assign(&root, text)
        } catch {
            throw failure(at: node.position, "\(setting.path): \(setting.shown(text)) \(error.message)")
        }
    }

    private mutating func decodeElements(
        _ node: YAMLNode, _ list: SettingList<Root>, into root: inout Root
    ) throws(ConfigError) {
        list.removeAll(&root)
        if node.isNull { return }
        guard case .list(let items) = node.content else {
            throw failure(at: node.position, "\(list.path): expected a list (\"- key: value\"), not \(Self.kind(of: node))")
        }
        for (index, item) in items.enumerated() {
            list.append(&root)
            let settings = list.settings(index)
            let paths = try decodeMap(item, prefix: "\(list.path).\(index).", settings: settings, lists: [], into: &root)
            for setting in settings where setting.isRequired && !paths.contains(setting.path) {
                throw failure(at: item.position, "\(setting.path) is missing")
            }
        }
    }

    private func unknownKey(_ entry: YAMLEntry, prefix: String, paths: [String]) -> ConfigError {
        let siblings = paths.compactMap { path -> String? in
            guard path.hasPrefix(prefix) else { return nil }
            return path.dropFirst(prefix.count).split(separator: ".").first.map { String($0) }
        }
        let group = prefix.isEmpty ? "" : " in \(prefix.dropLast())"
        let hint = NearestName.hint(for: entry.key, among: siblings)
        return failure(at: entry.position, "unknown key \"\(entry.key)\"\(group)\(hint)")
    }

    private static func kind(of node: YAMLNode) -> String {
        switch node.content {
        case .scalar(let text, _): "\"\(text)\""
        case .list: "a list"
        case .map: "a map"
        }
    }

    private func failure(at position: TextPosition, _ message: String) -> ConfigError {
        ConfigError("\(fileName):\(position.line):\(position.column): \(message)")
    }
}
