// What this build is called. One constant, so that programs of one build agree when they compare versions over their
// control sockets.

/// The identity of this build.
public enum BuildInfo {
    /// The version that `--version` prints and that the programs exchange when they meet.
    public static let version = "0.1.0"
}
