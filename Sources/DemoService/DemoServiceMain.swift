// Entry point.
@main
enum DemoServiceMain {
    static func main() {}
}
