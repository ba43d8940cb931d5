// What the kernel's files say, and what it is worth to a server.
import Config
import Telemetry
import Testing

@testable import CLI

@Suite struct KernelTextTests {
    @Test func limits() {
        let text = """
            Limit                     Soft Limit           Hard Limit           Units
            Max cpu time              unlimited            unlimited            seconds
            Max open files            1024                 524288               files
            Max locked memory         8388608              unlimited            bytes
            Max odd                   some                 thing                bytes
            """
        let limits = KernelText.limits(text)
        #expect(limits["Max open files"] == ProcessLimit(soft: 1_024, hard: 524_288))
        #expect(limits["Max cpu time"] == ProcessLimit(soft: nil, hard: nil))
        #expect(limits["Max locked memory"] == ProcessLimit(soft: 8_388_608, hard: nil))
        #expect(limits.count == 3 && KernelText.limits("").isEmpty)
    }

    @Test func sockets() {
        let text = """
              sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
               0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0 0 10 0
               1: 0100007F:1F41 0100007F:1F40 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1 0 20 4 30 10 -1
               2: short
            """
        #expect(KernelText.socket(text, port: 8_000, listens: true) == 4_711)
        #expect(KernelText.socket(text, port: 8_001, listens: true) == nil)
        #expect(KernelText.socket(text, port: 8_001, listens: false) == 4_712)
        let six = "head\n 0: 00000000000000000000000001000000:1F42 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 99 1\n"
        #expect(KernelText.socket(six, port: 8_002, listens: true) == 99)
    }

    @Test func groupsAndNumbers() {
        #expect(KernelText.groups("0::/system.slice/piko.service\n", controller: "memory") == [
            "/sys/fs/cgroup/system.slice/piko.service", "/sys/fs/cgroup/system.slice", "/sys/fs/cgroup",
        ])
        #expect(KernelText.groups("0::/\n", controller: "memory") == ["/sys/fs/cgroup"])
        #expect(KernelText.groups("5:cpu,cpuacct:/a\n4:memory:/b\n", controller: "memory") == ["/sys/fs/cgroup/memory/b", "/sys/fs/cgroup/memory"])
        #expect(KernelText.memoryLimit("max\n") == nil && KernelText.memoryLimit("9223372036854771712\n") == nil)
        #expect(KernelText.memoryLimit("268435456\n") == 268_435_456)
        #expect(KernelText.numbers("32768\t60999\n") == [32_768, 60_999])
        #expect(KernelText.socketPages("sockets: used 9\nTCP: inuse 3 orphan 0 tw 0 alloc 4 mem 17\n") == 17)
        #expect(KernelText.socketPages("UDP: mem 1\n") == nil)
        #expect(["\(KernelText.bytes(9))", KernelText.bytes(65_536), KernelText.bytes(67_108_864)] == ["9 bytes", "64 KiB", "64 MiB"])
    }
}

@Suite struct MachineRulesTests {
    /// A machine that lacks nothing.
    static var good: MachineFacts {
        var facts = MachineFacts()
        facts.descriptors = ProcessLimit(soft: 1_024, hard: 524_288)
        facts.lockedMemory = ProcessLimit(soft: nil, hard: nil)
        facts.sysctls = [
            "fs.pipe-max-size": [1_048_576], "fs.pipe-user-pages-soft": [0], "fs.pipe-user-pages-hard": [0], "net.core.somaxconn": [4_096],
            "net.ipv4.tcp_max_syn_backlog": [4_096], "net.ipv4.ip_local_port_range": [32_768, 60_999], "net.ipv4.tcp_mem": [100, 200, 300],
            "net.core.rmem_max": [212_992], "net.core.wmem_max": [212_992],
        ]
        facts.socketPages = 17
        facts.processors = 4
        facts.workers = 4
        return facts
    }

    private func verdicts(_ config: ServerConfig = ServerConfig(), _ change: (inout MachineFacts) -> Void) -> [String: Diagnosis.Verdict] {
        var facts = Self.good
        change(&facts)
        let checks = MachineRules.checks(facts, config)
        for check in checks where check.verdict == .warn || check.verdict == .fail { #expect(!check.hint.isEmpty, "\(check.name)") }
        return Dictionary(uniqueKeysWithValues: checks.filter { $0.verdict != .ok }.map { ($0.name, $0.verdict) })
    }

    @Test func nothingToSay() { #expect(verdicts { _ in } == [:]) }

    @Test func limitsAgainstTheConfiguration() {
        #expect(verdicts { $0.descriptors = ProcessLimit(soft: 64, hard: 64) } == ["descriptors": .fail])
        #expect(verdicts { $0.descriptors = ProcessLimit(soft: 1_024, hard: 4_096) } == ["descriptors": .warn])
        #expect(verdicts { $0.descriptors = ProcessLimit(soft: nil, hard: nil) } == [:])
        var config = ServerConfig()
        config.proxy.entrance.connectionsMax = 245_000
        #expect(verdicts(config) { _ in } == [:])
        config.upstream.entrance.connectionsMax = 5_000
        #expect(verdicts(config) { _ in } == ["descriptors": .warn])
        #expect(verdicts { $0.lockedMemory = ProcessLimit(soft: 65_536, hard: 65_536) } == ["locked memory": .note])
    }

    @Test func sysctls() {
        #expect(verdicts { $0.sysctls["fs.pipe-user-pages-soft"] = [16_384] } == ["pipes": .note])
        #expect(verdicts { $0.sysctls["fs.pipe-user-pages-soft"] = [1_024] } == ["pipes": .warn])
        #expect(verdicts { $0.sysctls["fs.pipe-max-size"] = [65_536] } == ["pipes": .warn])
        #expect(verdicts { $0.sysctls["net.core.somaxconn"] = [128] } == ["backlog": .note])
        #expect(verdicts { $0.sysctls["net.ipv4.ip_local_port_range"] = [50_000, 50_099] } == ["local ports": .note])
        #expect(verdicts { $0.socketPages = 250 } == ["socket memory": .warn])
        #expect(verdicts { $0.sysctls["net.core.rmem_max"] = [4_096] } == ["UDP buffers": .note])
        #expect(verdicts { $0.sysctls = [:] }.values.allSatisfy { $0 == .note })
    }

    @Test func groups() {
        #expect(verdicts { $0.groupMemory = 268_435_456 } == ["cgroup memory": .warn])
        #expect(verdicts { $0.groupMemory = 1_073_741_824 } == [:])
        #expect(verdicts { $0.processors = 2 } == ["processors": .note])
    }
}
