// Which process has a port, as far as this user may see it.

internal import Config
internal import Reactor
internal import Telemetry

/// A process that has a socket.
struct PortHolder: Equatable {
    var process: Int
    /// The first 15 bytes of its name.
    var name: String

    /// Whether it is a server of ours.
    var isServer: Bool { name == "piko-supervisor" }

    /// Who has the port, by TCP or by UDP; nil: nobody, or somebody of whom this process may not know.
    static func find(port: UInt16, isTCP: Bool) -> PortHolder? {
        for file in isTCP ? ["tcp", "tcp6"] : ["udp", "udp6"] {
            guard let text = KernelFile.text("/proc/net/\(file)"),
                let socket = KernelText.socket(text, port: port, listens: isTCP), let holder = holder(of: socket)
            else { continue }
            return holder
        }
        return nil
    }

    private static func holder(of socket: UInt64) -> PortHolder? {
        let wanted = "socket:[\(socket)]"
        for process in Folder.names("/proc").compactMap({ Int($0) }) {
            let folder = "/proc/\(process)/fd"
            for number in Folder.names(folder) where Folder.linkTarget("\(folder)/\(number)") == wanted {
                let name = KernelFile.text("/proc/\(process)/comm") ?? ""
                return PortHolder(process: process, name: name.split(separator: "\n").first.map(String.init) ?? "")
            }
        }
        return nil
    }
}

/// Small files of the kernel.
enum KernelFile {
    /// The text; nil where it can't be read.
    static func text(_ path: String) -> String? {
        guard let bytes = try? FileContents.read(path, bytesMax: 16_777_216) else { return nil }
        return String(decoding: bytes, as: UTF8.self)
    }
}

/// A server of ours on this machine that answers at its control socket.
struct RunningServer {
    let path: String
    /// The ports that it listens on.
    let ports: Set<UInt16>

    /// Nil: none answers.
    init?(_ config: ServerConfig) {
        guard let (path, answer) = ControlCommand.info(config) else { return nil }
        self.path = path
        ports = Self.ports(answer)
    }

    static func ports(_ info: JSONValue) -> Set<UInt16> {
        guard case .array(let listeners)? = info["listeners"] else { return [] }
        return Set(listeners.compactMap { listener in
            listener["address"]?.string.flatMap { $0.split(separator: ":").last }.flatMap { UInt16($0) }
        })
    }
}
