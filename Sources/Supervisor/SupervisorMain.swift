// Entry point.
@main
enum SupervisorMain {
    static func main() {}
}
