"""The result as JSON for programs and as Markdown for people. docs/performance.md says what the columns mean."""
import json
import os

import replicated
from cells import CELLS, IDLE_BYTES_MAX, WORKERS_RATIO_MIN

BY_NAME = {c.name: c for c in CELLS}


def save(result, path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        json.dump(result, f, indent=1)


def median(values):
    v = sorted(values)
    if not v:
        return None
    half = len(v) // 2
    return v[half] if len(v) % 2 else (v[half - 1] + v[half]) / 2


def figure(record, peer, name):
    """The median of a peer's rounds, or None where it failed or was not there."""
    if peer in record["errors"]:
        return None
    return median([s[name] for s in record["samples"].get(peer, [])])


def ratio(record, cell):
    """quoit's CPU per request to that of the peer it is measured against, both medians of the same run."""
    ours, theirs = figure(record, "quoit", "cpu_us"), figure(record, cell.against, "cpu_us")
    return ours / theirs if ours and theirs else None


def ratio_range(record, cell):
    """The least and the most of the ratio in one round: a verdict that lies between them is not settled."""
    rounds = zip(record["samples"].get("quoit", []), record["samples"].get(cell.against, []))
    values = [a["cpu_us"] / b["cpu_us"] for a, b in rounds if b["cpu_us"]]
    return f"{min(values):.2f}..{max(values):.2f}" if values and ratio(record, cell) else "–"


def verdict(value, limit, at_most=True):
    if value is None or limit is None:
        return "–"
    return "pass" if (value <= limit if at_most else value >= limit) else "**miss**"


def number(value, digits=2):
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def progress(record):
    parts = [f"{n} {number(figure(record, n, 'cpu_us'))} us {number((figure(record, n, 'rate') or 0) / 1000, 0)} k/s"
             for n in record["samples"] if n not in record["errors"]]
    parts += [f"{n} FAILED: {e}" for n, e in record["errors"].items()]
    print(f"{record['name']}: " + "; ".join(parts), flush=True)


# ---------------------------------------------------------------- Markdown

def markdown(result):
    parts = [heading(result)]
    if result["load"]:
        parts += load_tables(result)
    parts += [f(result) for k, f in (("syscalls", syscall_table), ("idle", idle_table), ("workers", worker_table),
                                          ("replicated", replicated_tables))
              if result.get(k)]
    faults = [f"- {r['name']}: {n}: {e}" for r in result["load"] for n, e in r["errors"].items()]
    faults += [f"- {r['name']}: {n}: {e}" for r in result.get("replicated", {}).get("cells", []) for n, e in r["errors"].items()]
    for name in ("idle", "workers"):
        faults += [f"- {name}: {n}: {r['error']}" for n, r in result.get(name, {}).get("peers", {}).items() if "error" in r]
    faults += [f"- {x}" for x in result["notes"]]
    if faults:
        parts.append("**What failed or was left out**\n\n" + "\n".join(faults))
    return "\n\n".join(parts)


def heading(result):
    cpus = f"proxy on CPU {result['proxy_cpus']}, stores and load on {result['load_cpus']}" if result["pinned"] else "not pinned"
    lines = [f"{result['when']}; {result['machine']}; {cpus}; {result['rounds']} interleaved rounds of {result['seconds']:g} s, "
             "medians.", "Versions: " + "; ".join(f"{n} = {v}" for n, v in result["versions"].items()) + "."]
    if result["missing"]:
        lines.append("Not installed: " + ", ".join(result["missing"]) + ".")
    if result["spread"]:
        lines.append("Where 300 keys went: " + "; ".join(f"{n} {'/'.join(map(str, v))}" for n, v in result["spread"].items()) + ".")
    records = result["load"] + result.get("replicated", {}).get("cells", [])
    samples = [s for r in records for v in r["samples"].values() for s in v]
    if samples:
        def spread(name):
            values = [s[name] * 100 for s in samples]
            return f"{median(values):.0f} % in the median, {max(values):.0f} % at worst"
        lines.append(f"Of a core, others took {spread('foreign_cores')}; the host took {spread('steal_cores')}.")
    return "\n".join(lines)


def load_tables(result):
    peers, records = result["peers"], result["load"]
    proxies = [p for p in peers if p != "direct"]

    def grid(title, names, one):
        return f"**{title}**\n\n" + table(["cell", *names], [[r["name"], *[one(r, n) for n in names]] for r in records])

    def cpu_row(r):
        cell = BY_NAME[r["name"]]
        value = ratio(r, cell)
        goal = "–" if cell.ratio_max is None else f"≤ {cell.ratio_max:g}" + ("" if cell.against == "twemproxy-tuned" else " of stock")
        return [r["name"], *[number(figure(r, n, "cpu_us")) for n in proxies], number(value), ratio_range(r, cell), goal,
                verdict(value, cell.ratio_max)]

    def user_sys(r, n):
        user, system = figure(r, n, "user_us"), figure(r, n, "sys_us")
        return "–" if user is None else f"{user:.2f}+{system:.2f}"

    def latency(r, n):
        values = [figure(r, n, k) for k in ("p50_us", "p99_us", "p999_us")]
        return "–" if values[0] is None else " / ".join(f"{v:,.0f}" for v in values)

    def rss_row(r):
        limit = BY_NAME[r["name"]].rss_mib_max
        values = {n: figure(r, n, "rss_peak_kib") for n in proxies}
        ours = values.get("quoit")
        return [r["name"], *[number(v / 1024 if v else None, 1) for v in values.values()],
                "–" if limit is None else f"≤ {limit:g}", verdict(ours / 1024 if ours else None, limit)]

    def load_used(r, n):
        proxy, load = figure(r, n, "proxy_cores"), figure(r, n, "load_cores")
        return "–" if load is None else f"{proxy * 100:.0f} + {load * 100:.0f}"

    return [
        "**Proxy CPU per request, µs** (lower is better)\n\n"
        + table(["cell", *proxies, "ratio", "in rounds", "target", ""], [cpu_row(r) for r in records]),
        grid("The same as user + system, µs", proxies, user_sys),
        grid("Throughput, thousand requests/s", peers,
             lambda r, n: number((figure(r, n, "rate") or 0) / 1000 or None, 1)),
        grid("Latency of a batch, µs: p50 / p99 / p99.9", peers, latency),
        "**Peak memory of the proxy, MiB**\n\n" + table(["cell", *proxies, "target", ""], [rss_row(r) for r in records]),
        grid("Cores used, %: proxy + load and stores", peers, load_used),
    ]


def syscall_table(result):
    rows = []
    for r in result["syscalls"]["cells"]:
        for name, got in r["peers"].items():
            most = sorted(((v, k) for k, v in got.items() if k not in ("all", "error")), reverse=True)[:5]
            rows.append([r["name"], name, number(got.get("all")),
                         got.get("error") or ", ".join(f"{k} {v:.2f}" for v, k in most) or "–"])
    note = "" if result["syscalls"]["tool"] == "perf" else "; the tracer slows the proxy, which makes its batches larger: read them as a lower bound"
    return f"**System calls per request** (counted by {result['syscalls']['tool']} in runs of their own{note})\n\n" + table(
        ["cell", "peer", "all", "most frequent"], rows)


def idle_table(result):
    rows = []
    for name, got in result["idle"]["peers"].items():
        if "error" in got:
            rows.append([name, "failed", "", "", "", ""])
            continue
        each = got["bytes_per_connection"]
        name += "" if got["quiet"] else " (did not come to rest)"
        rows.append([name, number(got["start_kib"] / 1024, 1), number(got["used_kib"] / 1024, 1), f"{each:,.0f}",
                     number(got["closed_kib"] / 1024, 1),
                     verdict(each, IDLE_BYTES_MAX) if name.startswith("quoit") else ""])
    return (f"**Memory with {result['idle']['connections']:,} idle connections, each used once** (target: ≤ {IDLE_BYTES_MAX:,} bytes each)\n\n"
            + table(["peer", "at start, MiB", "idle, MiB", "bytes per connection", "after close, MiB", ""], rows))


def worker_table(result):
    rows = []
    for name, samples in result["workers"]["peers"].items():
        if "error" in samples:
            continue
        def mid(layout, key, samples=samples):
            return median([s[key] for s in samples[layout]])
        measured = mid("two", "rate") / mid("one", "rate")
        # Two full cores would do 2 / cpu_us where one does 1 / cpu_us: what sharing costs shows in CPU per request.
        capacity = 2 * mid("one", "cpu_us") / mid("two", "cpu_us")
        judged = measured if result["workers"]["own_cores"] else capacity
        together = number(mid("two_on_one_core", "cpu_us")) if "two_on_one_core" in samples else "–"
        shares = [median([s["thread_shares"][i] for s in samples["two"] if i < len(s["thread_shares"])]) or 0 for i in (0, 1)]
        rows.append([name, number(mid("one", "cpu_us")), number(mid("two", "cpu_us")), together,
                     "/".join(f"{x * 100:.0f} %" for x in shares), number(measured), number(capacity),
                     verdict(judged, WORKERS_RATIO_MIN, at_most=False) if name == "quoit" else ""])
    how = ("each worker had a core of its own: judged by throughput" if result["workers"]["own_cores"] else
           "the second worker shared its core with stores and load, so throughput says little: judged by capacity")
    return (f"**Two workers beside one**, {result['workers']['cell']} from two load processes (target: ≥ {WORKERS_RATIO_MIN:g}; {how})\n\n"
            + table(["peer", "one, µs", "two, µs", "two on one core, µs", "shares of the two busiest threads", "throughput ×",
                     "capacity ×", ""], rows))


def replicated_tables(result):
    records, peers = result["replicated"]["cells"], result["replicated"]["peers"]
    n3, n1, tuned, direct = replicated.N3, replicated.N1, replicated.TUNED, replicated.DIRECT
    cells = {c.name: c for c in replicated.CELLS}
    quorum_max = replicated.DYNOMITE_RATIO / replicated.DYNOMITE_LESS

    def quotient(r, a, b, name="cpu_us"):
        above, below = figure(r, a, name), figure(r, b, name)
        return above / below if above and below else None

    def in_rounds(r, a, b):
        values = [x["cpu_us"] / y["cpu_us"] for x, y in zip(r["samples"].get(a, []), r["samples"].get(b, [])) if y["cpu_us"]]
        return f"{min(values):.2f}..{max(values):.2f}" if values else "–"

    def cpu_row(r):
        cell, value = cells[r["name"]], quotient(r, n3, n1)
        to_tuned = quotient(r, n3, tuned)
        judged = cell.pipeline == 16 and cell.verb in ("GET", "SET")
        return [r["name"], *[number(figure(r, n, "cpu_us")) for n in (n3, n1, tuned)], number(value), in_rounds(r, n3, n1),
                "–" if cell.ratio_max is None else f"≤ {cell.ratio_max:g}", verdict(value, cell.ratio_max), number(to_tuned),
                f"≤ {quorum_max:.2f}" if judged else "–", verdict(to_tuned, quorum_max if judged else None)]

    def work_row(r):
        one, sent = figure(r, n3, "in_one"), figure(r, n3, "sent")
        return [r["name"], "–" if one is None else f"{one * 100:.1f} %", number(sent), number(figure(r, n1, "sent")),
                "–" if one is None else f"{figure(r, n3, 'hedges') * 100:.2f} %",
                *([f"{r['records']['bytes_mean']:.1f} ({r['records']['bytes_max']})", number(r["records"]["memory_mean"], 0),
                   number(r["records"]["value_memory_mean"], 0)] if "records" in r else ["–"] * 3)]

    def latency(r, n):
        values = [figure(r, n, k) for k in ("p50_us", "p99_us")]
        return "–" if values[0] is None else " / ".join(f"{v:,.0f}" for v in values)

    def grid(title, names, one):
        return f"**{title}**\n\n" + table(["cell", *names], [[r["name"], *[one(r, n) for n in names]] for r in records])

    def used(r, n):
        proxy, load = figure(r, n, "proxy_cores"), figure(r, n, "load_cores")
        return "–" if load is None else f"{proxy * 100:.0f} + {load * 100:.0f}"
    proxies = [p for p in peers if p != direct]
    return "\n\n".join([
        "**Three copies: proxy CPU per request, µs**\n\n"
        + table(["cell", n3, n1, tuned, "to one copy", "in rounds", "target", "", "to twemproxy", "Dynomite ÷ 5", ""],
                [cpu_row(r) for r in records]),
        grid("The same as user + system, µs", proxies, lambda r, n: "–" if figure(r, n, "user_us") is None else
             f"{figure(r, n, 'user_us'):.2f}+{figure(r, n, 'sys_us'):.2f}"),
        grid("CPU of all three stores per request, µs", peers, lambda r, n: number(figure(r, n, "store_us"))),
        "**Work and space of three copies**\n\n"
        + table(["cell", "in one round", "requests to stores", "of one copy", "hedged", "record, bytes: mean (most)",
                 "record's memory", "value's memory"], [work_row(r) for r in records]),
        grid("Throughput, thousand requests/s", peers,
             lambda r, n: number((figure(r, n, "rate") or 0) / 1000 or None, 1)),
        grid("Latency of a batch, µs: p50 / p99", peers, latency),
        grid("Cores used, %: proxy + load and stores", peers, used),
    ])
