// What shells read to complete a command line. The scripts know no command: they hand the words to the program that stands on the line
// and show what it answers (`Completion`), so that they fit every version.

/// The shells that can be told.
public enum CompletionShell: String, CaseIterable, Sendable {
    case bash, zsh, fish

    /// What the shell reads, for the program of that name.
    public func script(for program: String) -> String {
        let name = String(program.map { $0 == "-" ? "_" : $0 })
        let template =
            switch self {
            case .bash: Self.bashScript
            case .zsh: Self.zshScript
            case .fish: Self.fishScript
            }
        var script = ""
        var rest = template[...]
        while let mark = rest.firstIndex(of: "@") {
            let word = rest[mark...].prefix(5)
            script += rest[..<mark]
            if word == "@PROG" || word == "@NAME" || word == "@WORD" {
                script += word == "@PROG" ? program : word == "@NAME" ? name : Completion.request
                rest = rest[word.endIndex...]
            } else {
                script += "@"
                rest = rest[rest.index(after: mark)...]
            }
        }
        return script + rest
    }

    /// Bash splits words at "=" and ":" too; those that stand together in the line are put together again. What bash replaces is
    /// the second argument, so whatever stands before it in the word is left out of the answers. Where several words are listed they
    /// have their descriptions beside them.
    private static let bashScript = #"""
        # Completion of @PROG for bash. Made by: @PROG completion bash
        _@NAME_complete() {
            local program=${COMP_WORDS[0]} rest=$COMP_LINE kind='' answer line word before index width=0
            local -a words=() found=() described=()
            for ((index = 0; index <= COMP_CWORD; index++)); do
                word=${COMP_WORDS[index]}
                if ((index > 1)) && [[ $rest != [[:space:]]* ]]; then
                    words[${#words[@]} - 1]+=$word
                else
                    words+=("$word")
                fi
                rest=${rest#"${rest%%[![:space:]]*}"}
                rest=${rest#"$word"}
            done
            [[ $program == \~/* ]] && program=$HOME${program:1}
            answer=$("$program" @WORD "${words[@]:1}" 2>/dev/null) || return 0
            before=${words[${#words[@]} - 1]}
            before=${before%"$2"}
            while IFS= read -r line; do
                if [[ -z $kind ]]; then
                    kind=$line
                    continue
                fi
                word=${line%%$'\t'*}
                found+=("${word#"$before"}")
                ((${#word} > width)) && width=${#word}
                described+=("$line")
            done <<<"$answer"
            if [[ $kind == files ]]; then
                compopt -o filenames 2>/dev/null
                while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$2")
                return 0
            fi
            compopt -o nosort 2>/dev/null
            if ((${#found[@]} > 1)) && [[ $COMP_TYPE == 63 || $COMP_TYPE == 33 || $COMP_TYPE == 64 ]]; then
                for line in "${described[@]}"; do
                    word=${line%%$'\t'*}
                    if [[ $line == *$'\t'* ]]; then
                        printf -v line '%-*s  %s' "$width" "$word" "${line#*$'\t'}"
                        line=${line:0:${COLUMNS:-80} - 2}
                    fi
                    COMPREPLY+=("${line#"$before"}")
                done
            else
                COMPREPLY=("${found[@]}")
            fi
        }
        complete -F _@NAME_complete @PROG

        """#

    /// Read as a file of `fpath`, it is the body of the function that is called as the file is, for the first time; read by `source`, it
    /// only says who completes.
    private static let zshScript = #"""
        #compdef @PROG
        # Completion of @PROG for zsh. Made by: @PROG completion zsh
        _@PROG() {
            local -a lines candidates
            local line word
            lines=("${(@f)$(${(Q)~words[1]} @WORD "${(@Q)words[2,CURRENT-1]}" "$PREFIX" 2>/dev/null)}")
            if [[ $lines[1] == files ]]; then
                [[ $PREFIX == --*=* ]] && compset -P 1 '*='
                _files
                return
            fi
            for line in "${(@)lines[2,-1]}"; do
                word=${${line%%$'\t'*}//:/\\:}
                if [[ $line == *$'\t'* ]]; then
                    candidates+=("$word:${line#*$'\t'}")
                else
                    candidates+=("$word")
                fi
            done
            _describe -V '@PROG' candidates
        }
        if [[ $funcstack[1] == _@PROG ]]; then
            _@PROG "$@"
        else
            compdef _@PROG @PROG
        fi

        """#

    private static let fishScript = #"""
        # Completion of @PROG for fish. Made by: @PROG completion fish
        function __@NAME_complete
            set -l words (commandline -opc)
            set -l current (commandline -ct)
            set -l program $words[1]
            set -e words[1]
            set -l answer ($program @WORD $words "$current" 2>/dev/null)
            if test "$answer[1]" = files
                if string match -q -- '--*=*' "$current"
                    set -l before (string replace -r '=.*' '=' -- "$current")
                    for path in (__fish_complete_path (string replace -r '^[^=]*=' '' -- "$current"))
                        printf '%s%s\n' $before $path
                    end
                else
                    __fish_complete_path "$current"
                end
            else
                set -e answer[1]
                test (count $answer) -gt 0; and printf '%s\n' $answer
            end
        end
        complete -c @PROG -f -k -a '(__@NAME_complete)'

        """#
}
