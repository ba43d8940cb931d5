// Entry point.
@main
enum AgentMain {
    static func main() {}
}
