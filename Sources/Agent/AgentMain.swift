// Entry point of `piko-agent`, which is `piko agent …`, `piko forward …` and `piko bench …`: understands the command line, reads the
// configuration's file, runs. Exit statuses: 0 done, 1 it can't run, 2 the command line is wrong.

internal import Base
internal import Config
internal import Glibc
internal import Reactor

@main
enum AgentMain {
    static func main() {
        if let answer = Completion.answer(Array(CommandLine.arguments.dropFirst()), in: Commands.agentProgram) {
            return write(answer, to: 1)
        }
        System.raiseDescriptorLimit()
        SignalSource.ignorePipeSignal()
        ProcessorTurns.hurry()
        Confinement.hideMemory()
        // Swift reads the command line in /proc.
        guard !CommandLine.arguments.isEmpty else {
            write("piko-agent: it can't read its command line: is /proc mounted?\n", to: 2)
            exit(1)
        }
        let outcome: CommandLineOutcome
        do {
            outcome = try CommandLineParser(Commands.agentProgram).parse(Array(CommandLine.arguments.dropFirst()))
        } catch {
            write("\(error)\n", to: 2)
            exit(2)
        }
        switch outcome {
        case .show(let text):
            write(text, to: 1)
        case .run(let invocation):
            do {
                exit(try run(invocation))
            } catch {
                write(Hints.lines("\(error)"), to: 2)
                exit(1)
            }
        }
    }

    private static func run(_ invocation: Invocation) throws(ProgramError) -> Int32 {
        switch invocation.command {
        case .agentStart, .agentHTTP, .agentTCP:
            try runAgent(invocation)
        case .agentDiagnose, .agentDiagnoseHTTP, .agentDiagnoseTCP:
            try diagnose(invocation)
        case .forwardStart, .forwardTCP:
            try ForwardProgram(
                try load(ForwardConfig.self, invocation), environment: ProxyEnvironment(ProgramEnvironment.variables)
            ).run()
        case .benchHTTP:
            try BenchProgram(try load(BenchConfig.self, invocation)) { write($0, to: 1) }.run()
        case .completion:
            // The parser took nothing but the names of shells.
            complete(CompletionShell(rawValue: invocation.arguments[0]))
        default:
            throw ProgramError("piko-agent runs agent, forward, bench and completion only")
        }
    }

    private static func complete(_ shell: CompletionShell?) -> Int32 {
        write(shell?.script(for: "piko-agent") ?? "", to: 1)
        return 0
    }

    private static func diagnose(_ invocation: Invocation) throws(ProgramError) -> Int32 {
        let (text, status) = try AgentDiagnosis.run(invocation, variables: ProgramEnvironment.variables)
        write(text, to: 1)
        return status
    }

    private static func runAgent(_ invocation: Invocation) throws(ProgramError) -> Int32 {
        // What was meant for this process alone is taken out of its environment first.
        let inheritance = Inheritance.take()
        let services = ServiceSettings.take()
        let start = ProgramStart.take()
        let environment = ProgramEnvironment.variables
        do {
            let program = try AgentProgram(
                ConfigurationSource(invocation, environment: environment), environment: ProxyEnvironment(environment), start: start,
                inheritance: inheritance, services: services)
            return program.run()
        } catch {
            inheritance?.fail(error.description)
            throw error
        }
    }

    /// The configuration of the invocation, with the file that it names.
    private static func load<Value: Configuration>(_ type: Value.Type, _ invocation: Invocation) throws(ProgramError) -> Value {
        do {
            return try Value(invocation, environment: ProgramEnvironment.variables, read: FileContents.read)
        } catch {
            throw ProgramError("\(error)")
        }
    }

    private static func write(_ text: String, to descriptor: Int32) {
        InheritedOutput.write(descriptor: descriptor, bytes: text.utf8Span.span)
    }
}
