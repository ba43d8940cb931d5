// Entry point of `piko-demo-service`, a small origin server to try a tunnel with and to test one against.

internal import Glibc
internal import Reactor

@main
enum DemoServiceMain {
    static let usage = """
        Usage: piko-demo-service [flags]

        A small HTTP/1.1 server that answers any request with a few lines about it, and
          /echo           sends the request's body back, with a length or chunked as it came
          /bytes/N        sends N bytes (byte i is i modulo 251); /bytes/N?chunked in chunks
          /slow/MS        answers after MS milliseconds
          /events         sends a server-sent event each second
          /ws             is a WebSocket that sends every message back

        Flags:
          --listen ADDR      HTTP: address and port, 0 for a free one (default 127.0.0.1:0)
          --tcp-echo ADDR    listens for raw TCP too and sends every byte back
          --io-backend NAME  auto, io_uring or epoll (default auto)
          --help             prints this

        The first line of output is the HTTP address, the second (with --tcp-echo) the TCP one.

        """

    static func main() {
        let service: DemoService
        do throws(DemoOptions.Failure) {
            switch try DemoOptions.parse(Array(CommandLine.arguments.dropFirst())) {
            case .help:
                write(usage, to: 1)
                return
            case .run(let options):
                service = try DemoService.make(options)
            }
        } catch {
            write("piko-demo-service: \(error)\n", to: 2)
            exit(error.status)
        }
        for address in service.addresses { write("\(address)\n", to: 1) }
        service.run()
    }

    private static func write(_ text: String, to descriptor: Int32) {
        InheritedOutput.write(descriptor: descriptor, bytes: text.utf8Span.span)
    }
}
