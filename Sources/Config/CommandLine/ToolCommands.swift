// The commands that print what is made of the table of commands itself: completions for shells, and manual pages.

extension Commands {
    static let completion = CommandSpec(
        name: "completion", summary: "Print the completion for a shell.",
        details: """
            Prints what a shell has to read to complete commands, flags, their values and files. The shell then asks the program that \
            stands on the line, so that it completes what that version understands. Debian's packages bring it along.
            """,
        command: .completion,
        arguments: [ArgumentSpec(name: "SHELL", help: "Which shell: bash, zsh or fish.", values: CompletionShell.allCases.map(\.rawValue))],
        examples: [
            ExampleSpec("source <(piko completion bash)", "In bash, for the session; in ~/.bashrc for all:"),
            ExampleSpec("piko completion zsh > ~/.zfunc/_piko", "In zsh, with ~/.zfunc in its fpath:"),
            ExampleSpec("piko completion fish > ~/.config/fish/completions/piko.fish", "In fish:"),
        ])

    static let manual = CommandSpec(
        name: "man", summary: "Print a manual page.",
        details: """
            Prints a manual page in the form that man and mandoc read, made of the commands, flags and keys that this version has. Its date \
            is that of $SOURCE_DATE_EPOCH, if it is set, else today.
            """,
        command: .manual,
        arguments: [
            ArgumentSpec(
                name: "PAGE", help: "Which one: \(ManualPage.names.joined(separator: ", ")).", values: ManualPage.names)
        ],
        examples: [
            ExampleSpec("piko man piko-server | man -l -", "Read the page of piko server:"),
            ExampleSpec("piko man piko-server.yaml > piko-server.yaml.5", "Write that of its configuration file:"),
        ])
}
