// Entry point.
@main
enum CLIMain {
    static func main() {}
}
