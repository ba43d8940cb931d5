"""Compares Autobahn's results of two agents, "direct" and "tunnel": no case of the tunnel may be worse. Prints a summary, and
writes the names of the worse cases, one a line, to the file that the second argument names."""

import json
import sys

# Better to worse, as Autobahn's report colours them.
ORDER = ["OK", "INFORMATIONAL", "UNIMPLEMENTED", "NON-STRICT", "WRONG CODE", "UNCLEAN", "FAILED BY CLIENT", "FAILED"]


def rank(result):
    return max(ORDER.index(result["behavior"]), 0), max(ORDER.index(result["behaviorClose"]), 0)


def main():
    with open(sys.argv[1]) as file:
        report = json.load(file)
    direct, tunnel = report["direct"], report["tunnel"]
    missing = sorted(set(direct) - set(tunnel))
    worse = []
    for case in sorted(tunnel, key=lambda name: [int(part) for part in name.split(".")]):
        if any(mine > theirs for mine, theirs in zip(rank(tunnel[case]), rank(direct[case]))):
            worse.append((case, direct[case], tunnel[case]))
    for case, theirs, mine in worse:
        print(f"Autobahn: {case}: direct {theirs['behavior']}/{theirs['behaviorClose']}, tunnel {mine['behavior']}/{mine['behaviorClose']} (close code {mine['remoteCloseCode']})")
    passed = sum(result["behavior"] in ORDER[:2] for result in tunnel.values())
    print(f"Autobahn: {len(tunnel)} cases, {passed} OK through the tunnel, {len(worse)} worse than direct, {len(missing)} missing")
    with open(sys.argv[2], "w") as file:
        file.writelines(f"{case}\n" for case in missing + [case for case, _, _ in worse])
    sys.exit(1 if worse or missing or not tunnel else 0)


if __name__ == "__main__":
    main()
