// swift-tools-version: 6.2
// The package: one C core, small Swift libraries in layers, four programs and a demo service. No dependencies
// beyond the toolchain and OpenSSL (io_uring is used through the bare system calls). Which module may import which is written in
// ARCHITECTURE.md and checked by Tests/TidyTests.
import PackageDescription

/// Flags for every Swift target: strict, and a warning is an error.
let swiftSettings: [SwiftSetting] = [
    .strictMemorySafety(),
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("ExistentialAny"),
    .enableExperimentalFeature("Lifetimes"),
]

/// Tests are as strict, but may touch memory through unsafe constructs without marking each of them.
let testSettings: [SwiftSetting] = [
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("ExistentialAny"),
    .enableExperimentalFeature("Lifetimes"),
]

/// A library of ours, with its own tests beside it.
func library(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: swiftSettings)
}

/// A library that is compiled with optimisation in debug builds too: its simulator goes through hours of a cluster's life in the
/// everyday tests. Preconditions stay.
func gossipLibrary(_ name: String, _ dependencies: [Target.Dependency], path: String? = nil) -> Target {
    .target(
        name: name, dependencies: dependencies, path: path,
        swiftSettings: swiftSettings + [.unsafeFlags(["-O"], .when(configuration: .debug))])
}

/// How a release is linked. With the Swift runtime in it: it then runs where there is no Swift, and takes a third less memory than
/// with the runtime's shared libraries. `script/build-edge` asks for a program that has everything in it, OpenSSL and libc as well.
let releaseLinking = Context.environment["PIKO_STATIC"] == "1" ? "-static-executable" : "-static-stdlib"

/// A program: its target is imported by its tests with `@testable`.
func program(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .executableTarget(
        name: name, dependencies: dependencies, swiftSettings: swiftSettings,
        linkerSettings: [.unsafeFlags([releaseLinking], .when(configuration: .release))])
}

/// The tests of one module.
func tests(_ name: String, _ dependencies: [Target.Dependency], exclude: [String] = []) -> Target {
    .testTarget(name: name, dependencies: dependencies, exclude: exclude, swiftSettings: testSettings)
}

let package = Package(
    name: "piko",
    products: [
        .executable(name: "piko", targets: ["CLI"]),
        .executable(name: "piko-supervisor", targets: ["Supervisor"]),
        .executable(name: "piko-worker", targets: ["Worker"]),
        .executable(name: "piko-agent", targets: ["Agent"]),
        .executable(name: "piko-demo-service", targets: ["DemoService"]),
    ],
    targets: [
        // Layer 0: the kernel's mechanisms, in C.
        .target(
            name: "CIOCore",
            cSettings: [
                .define("_GNU_SOURCE"),
                .enableWarning("all"), .enableWarning("extra"), .enableWarning("conversion"),
                .treatAllWarnings(as: .error),
            ]),

        // Layer 0: what we use of OpenSSL, in C.
        .target(
            name: "CTLS",
            cSettings: [
                .enableWarning("all"), .enableWarning("extra"), .enableWarning("conversion"),
                .treatAllWarnings(as: .error),
            ],
            linkerSettings: [.linkedLibrary("ssl"), .linkedLibrary("crypto")]),

        // Layer 0: the files of the admin port's page, which the compiler takes into the program.
        .target(
            name: "CAssets", exclude: ["page"],
            cSettings: [.enableWarning("all"), .enableWarning("extra"), .enableWarning("conversion"), .treatAllWarnings(as: .error)]),

        // Layer 1: vocabulary.
        library("Base", []),
        library("Memory", ["Base"]),

        // Layer 2: pure. Bytes, events and the time go in, values come out.
        library("Wire", ["Base", "Memory"]),
        library("Control", ["Base", "Memory"]),
        library("Config", ["Base"]),
        library("Telemetry", ["Base", "Memory"]),
        gossipLibrary("Gossip", ["Crypto", "Base"]),

        // Layer 3: the edge to the kernel, and the byte channels above it.
        library("Reactor", ["CIOCore", "Base", "Memory"]),
        library("Crypto", ["CTLS", "Base"]),
        library("Authentication", ["Crypto", "Telemetry", "Memory", "Base"]),
        library("Transport", ["Reactor", "Wire", "Crypto", "Telemetry", "Base", "Memory"]),

        // Layer 4: programs.
        program("Supervisor", ["Reactor", "Gossip", "Authentication", "Crypto", "Control", "Config", "Telemetry", "Memory", "Base"]),
        program("Worker", ["CAssets", "Transport", "Reactor", "Wire", "Control", "Authentication", "Crypto", "Config", "Telemetry", "Memory", "Base"]),
        program("Agent", ["Transport", "Authentication", "Reactor", "Wire", "Crypto", "Config", "Telemetry", "Memory", "Base"]),
        program("CLI", ["Transport", "Reactor", "Wire", "Crypto", "Config", "Telemetry", "Memory", "Base"]),
        program("DemoService", ["Reactor", "Wire", "Memory", "Base"]),

        // Layer 5: tests.
        library("TestKit", ["Reactor", "Wire", "Control", "Memory", "Base"]),
        tests("BaseTests", ["Base"]),
        tests("MemoryTests", ["Memory", "Base"]),
        tests("WireTests", ["Wire", "TestKit", "Memory", "Base"]),
        tests("CryptoTests", ["Crypto", "Base"]),
        tests("AuthenticationTests", ["Authentication", "Crypto", "Telemetry", "Memory", "Base"], exclude: ["compare_pyjwt"]),
        .executableTarget(name: "TokenVerdicts", dependencies: ["Authentication", "Crypto", "Telemetry", "Memory", "Base"], path: "Tests/TokenVerdicts", swiftSettings: testSettings),
        tests("GossipTests", ["Gossip", "Base"]),
        gossipLibrary("ClusterSimulator", ["Gossip", "Base"], path: "Tests/ClusterSimulator"),
        .executableTarget(
            name: "Simulate", dependencies: ["ClusterSimulator", "Gossip", "Base"], path: "Tests/Simulate", swiftSettings: testSettings),
        tests("SimulationTests", ["ClusterSimulator"]),
        tests("ControlTests", ["Control", "Memory", "Base"]),
        tests("ConfigTests", ["Config", "Base"], exclude: ["compare_pyyaml"]),
        tests("CLITests", ["CLI", "Config", "Telemetry", "Base"]),
        .executableTarget(name: "YAMLDump", dependencies: ["Config"], path: "Tests/YAMLDump", swiftSettings: testSettings),
        tests("TelemetryTests", ["Telemetry", "Memory", "Base"]),
        tests("ReactorTests", ["Reactor", "CIOCore", "TestKit", "Memory", "Base"]),
        tests("TransportTests", ["Transport", "Reactor", "Wire", "Crypto", "TestKit", "Memory", "Base"]),
        tests("SupervisorTests", ["Supervisor", "Gossip", "Authentication", "Control", "Config", "Telemetry", "Reactor", "TestKit", "Memory", "Base"]),
        tests(
            "WorkerTests",
            ["Worker", "Transport", "Reactor", "Wire", "Control", "Authentication", "Crypto", "Config", "Telemetry", "TestKit", "Memory", "Base"]),
        tests("AgentTests", ["Agent", "Transport", "Reactor", "Wire", "Config", "Telemetry", "TestKit", "Memory", "Base"]),
        tests("DemoServiceTests", ["DemoService", "Reactor", "Memory", "Base"]),
        tests("TidyTests", []),
    ],
    swiftLanguageModes: [.v6],
    cLanguageStandard: .gnu11
)
