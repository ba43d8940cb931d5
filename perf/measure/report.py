"""Results: collected, put into tables, compared with a baseline, written as JSON.

A figure is the median of its rounds. A ratio is made in each round, of the two figures of that round, and then its median and range
are shown.
"""

import json
import statistics
import time

# Figure -> (heading, decimals).
HEADINGS = {
    "rate": ("per s", 0), "gb_s": ("GB/s", 2), "server_us": ("server µs", 1), "agent_us": ("agent µs", 1), "cpu_us": ("both µs", 1),
    "forward_us": ("forward µs", 1), "server_s_gb": ("server s/GB", 3), "agent_s_gb": ("agent s/GB", 3), "cpu_s_gb": ("both s/GB", 3),
    "forward_s_gb": ("forward s/GB", 3), "p50": ("p50 µs", 0), "p99": ("p99 µs", 0), "p999": ("p99.9 µs", 0),
    "per_cpu_second": ("per server CPU s", 0), "p50_before": ("p50 before µs", 0), "p99_before": ("p99 before µs", 0), "slower": ("p99 / before", 2),
    "rss_bytes": ("RSS B/tunnel", 0), "private_bytes": ("private B/tunnel", 0), "supervisor_bytes": ("supervisor B/tunnel", 0),
    "kernel_bytes": ("kernel B/tunnel", 0),
    "registrations": ("tunnels/s", 0), "cpu_tunnel_us": ("server µs/tunnel", 1), "supervisor_us": ("supervisor µs", 1), "worker_us": ("workers µs", 1),
    "rss_mb": ("RSS MB", 2), "pss_mb": ("PSS MB", 2), "private_mb": ("private MB", 2), "binary_mb": ("stripped MB", 2),
    "p50_ms": ("p50 ms", 1), "longest_ms": ("longest ms", 1), "turns_over_5_ms": ("turns > 5 ms", 0), "kilobytes": ("kB", 0),
    "start_ms": ("start ms", 1), "connected_ms": ("connected ms", 1),
}


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": values}


class Report:
    def __init__(self, machine, command, say):
        self.machine, self.command, self.say, self.results = machine, command, say, []

    def add(self, scenario, variant, values, failures):
        """`values`: system -> the figures of each round. `failures`: system -> why there are none."""
        systems = {}
        for system, rounds in values.items():
            names = [name for name in rounds[0] if all(name in figures for figures in rounds)]
            systems[system] = {name: spread([figures[name] for figures in rounds]) for name in names}
        ratios = []
        for name in scenario.compared:
            for ours in [system for system in systems if system.startswith("piko")]:
                for peer in [system for system in systems if system != ours and system != "direct"]:
                    if name in systems[ours] and name in systems[peer]:
                        pairs = zip(systems[ours][name]["values"], systems[peer][name]["values"])
                        ratios.append({"figure": name, "of": ours, "against": peer, **spread([one / other for one, other in pairs])})
        with open("/proc/loadavg") as file:
            load = file.read().split()[0]
        self.results.append({"scenario": scenario.name, "variant": variant, "at": time.strftime("%H:%M:%S"), "load_average": float(load),
                             "systems": systems, "ratios": ratios, "failures": failures})
        self.say(self.table(scenario, self.results[-1]))

    def table(self, scenario, result):
        columns = [name for name in scenario.columns if any(name in figures for figures in result["systems"].values())]
        rows = [["", *(HEADINGS[name][0] for name in columns)]]
        for system, figures in result["systems"].items():
            rows.append([system, *(f"{figures[name]['median']:,.{HEADINGS[name][1]}f}" if name in figures else "" for name in columns)])
        lines = [f"{scenario.name}: {result['variant']}  ({scenario.title}; load average {result['load_average']})", *aligned(rows)]
        lines += [f"FAILED: {failure}" for failure in result["failures"].values()]
        if result["ratios"]:
            peers = list(dict.fromkeys(ratio["against"] for ratio in result["ratios"]))
            rows = [["ratio, its range", *peers]]
            for name in scenario.compared:
                for ours in dict.fromkeys(ratio["of"] for ratio in result["ratios"]):
                    found = {ratio["against"]: ratio for ratio in result["ratios"] if ratio["figure"] == name and ratio["of"] == ours}
                    if found:
                        rows.append([f"{ours} {HEADINGS[name][0]}", *(
                            f"{found[peer]['median']:.2f} ({found[peer]['min']:.2f}-{found[peer]['max']:.2f})" if peer in found else "" for peer in peers)])
            lines += aligned(rows)
        return "\n".join(lines) + "\n"

    @property
    def has_failures(self):
        return any(result["failures"] for result in self.results)

    def as_json(self):
        return {"command": self.command, "machine": self.machine, "results": self.results}

    def write(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.as_json(), indent=1) + "\n")

    def check(self, thresholds):
        """Holds what was measured to a baseline's thresholds. True: none is missed."""
        rows, passed, found_any = [["", "measured", "limit", "goal", ""]], True, False
        for threshold in thresholds:
            value = self.value_of(threshold)
            if value is None:
                continue
            found_any = True
            is_most = "at_most" in threshold
            limit, goal = threshold["at_most" if is_most else "at_least"], threshold.get("goal")
            holds = value <= limit if is_most else value >= limit
            reached = goal is None or (value <= goal if is_most else value >= goal)
            passed = passed and holds
            against = f" / {threshold['against']}" if "against" in threshold else ""
            name = f"{threshold['scenario']}, {threshold['variant']}: {HEADINGS[threshold['figure']][0]} of {threshold['of']}{against}"
            sign = "<=" if is_most else ">="
            rows.append([name, f"{value:,.2f}", f"{sign} {limit:,g}", f"{sign} {goal:,g}" if goal is not None else "",
                         "MISSED" if not holds else "holds" if reached else "holds, short of the goal"])
        self.say("\n".join(["thresholds of baseline.json", *aligned(rows)]) if found_any else "no threshold is about what was measured")
        return passed

    def value_of(self, threshold):
        for result in self.results:
            if (result["scenario"], result["variant"]) != (threshold["scenario"], threshold["variant"]):
                continue
            if "against" not in threshold:
                return result["systems"].get(threshold["of"], {}).get(threshold["figure"], {}).get("median")
            for ratio in result["ratios"]:
                if all(ratio[key] == threshold[key] for key in ("figure", "of", "against")):
                    return ratio["median"]
        return None


def aligned(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) if index == 0 else cell.rjust(width) for index, (cell, width) in enumerate(zip(row, widths))).rstrip()
            for row in rows]
