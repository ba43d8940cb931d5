// Environment variables in a configuration file, replaced in its text before it is read, so that they can stand for any
// part of it: a value, an item, several.

/// Replaces `$NAME`, `${NAME}` and `${NAME:default}` in a text.
enum EnvironmentExpansion {
    /// The text with its variables replaced. A variable that is not set, or is empty, gives its default, or nothing.
    /// `$$` gives one `$`; a `$` before anything else stays. A value with a line break is refused, because it would
    /// change what the lines around it mean.
    static func expand(_ file: ConfigFile, environment: [String: String]) throws(ConfigError) -> ConfigFile {
        let bytes = file.bytes
        var output: [UInt8] = []
        output.reserveCapacity(bytes.count)
        var index = 0
        var line = 1
        while index < bytes.count {
            let byte = bytes[index]
            if byte == UInt8(ascii: "\n") { line += 1 }
            guard byte == UInt8(ascii: "$"), index + 1 < bytes.count else {
                output.append(byte)
                index += 1
                continue
            }
            let next = bytes[index + 1]
            if next == UInt8(ascii: "$") {
                output.append(next)
                index += 2
            } else if next == UInt8(ascii: "{") {
                let end = try closingBrace(bytes, from: index + 2, line: line, file: file.name)
                let reference = bytes[(index + 2)..<end]
                output += try value(of: reference, environment: environment, line: line, file: file.name)
                index = end + 1
            } else if isNameStart(next) {
                let name = bytes[(index + 1)...].prefix(while: isNamePart)
                output += try value(of: name, environment: environment, line: line, file: file.name)
                index = name.endIndex
            } else {
                output.append(byte)
                index += 1
            }
            if output.count > outputBytesMax { throw ConfigError("\(file.name): too long after the environment was put in") }
        }
        return ConfigFile(name: file.name, bytes: output)
    }

    /// More than the reader takes, so that the reader's own message is the usual one.
    private static let outputBytesMax = 4_194_304

    private static func closingBrace(
        _ bytes: [UInt8], from start: Int, line: Int, file: String
    ) throws(ConfigError) -> Int {
        var index = start
        while index < bytes.count && bytes[index] != UInt8(ascii: "\n") {
            if bytes[index] == UInt8(ascii: "}") { return index }
            index += 1
        }
        throw ConfigError("\(file):\(line): \"${\" is not closed by \"}\" on its line; a \"$\" itself is written \"$$\"")
    }

    /// What a reference, "NAME" or "NAME:default", stands for.
    private static func value(
        of reference: ArraySlice<UInt8>, environment: [String: String], line: Int, file: String
    ) throws(ConfigError) -> [UInt8] {
        let nameBytes = reference.prefix { $0 != UInt8(ascii: ":") }
        let name = String(decoding: nameBytes, as: UTF8.self)
        guard let first = nameBytes.first, isNameStart(first), nameBytes.allSatisfy(isNamePart) else {
            throw ConfigError("\(file):\(line): \"${\(name)}\" names no environment variable; a \"$\" itself is written \"$$\"")
        }
        if let value = environment[name], !value.isEmpty {
            if value.utf8.contains(where: { $0 == UInt8(ascii: "\n") || $0 == UInt8(ascii: "\r") }) {
                throw ConfigError("\(file):\(line): the environment variable \(name) holds a line break, which can't be put in")
            }
            return Array(value.utf8)
        }
        return Array(reference.dropFirst(nameBytes.count + 1))
    }

    private static func isNameStart(_ byte: UInt8) -> Bool {
        byte == UInt8(ascii: "_") || (byte | 0x20 >= 97 && byte | 0x20 <= 122)
    }

    private static func isNamePart(_ byte: UInt8) -> Bool {
        isNameStart(byte) || (byte >= 48 && byte <= 57)
    }
}
