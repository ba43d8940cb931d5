// Entry point.
@main
enum WorkerMain {
    static func main() {}
}
