// The page's life: asks the admin port about every node of the cluster every two seconds, makes rates of the differences, adds the
// nodes up and draws. Read-only: it sends nothing but GET. Each node is read on its own time (`isBusy`), so that one that hangs
// holds up nobody; and always by its name, for behind a load balancer any node may answer.

import { Chart, Table, age, bytes, element, latency, number, percent, rate, setText } from "./tables.js";

const EVERY = 2000;              // between two rounds
const PATIENCE = 6000;           // for an answer
const TOLD_EVERY = 10_000;       // for what changes seldom or is long: endpoints, tunnels
const NODES_MAX = 64;            // nodes that are asked
const TUNNELS_MAX = 5000;        // tunnels of a node that are read
const $ = (id) => document.getElementById(id);

const nodes = new Map();         // by name
let token = null;
let isPaused = false;
let isSignedOut = false;
let isAsking = false;
let clusterProblem = "";

// ---- Asking ----

class Refusal extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function ask(path, node) {
  const target = `../status/${path}${node ? `?forward=${encodeURIComponent(node)}` : ""}`;
  let answer;
  try {
    answer = await fetch(target, {
      headers: token ? { Authorization: `Bearer ${token}` } : {},
      credentials: "omit", cache: "no-store", redirect: "error", signal: AbortSignal.timeout(PATIENCE),
    });
    if (answer.ok) return await answer.json();
  } catch (error) {
    throw new Refusal(0, error.name === "TimeoutError" ? `no answer within ${PATIENCE / 1000} s` : "no connection");
  }
  const said = await answer.json().then((body) => body.error, () => null);
  throw new Refusal(answer.status, `status ${answer.status}${said ? `: ${said}` : ""}`);
}

/** The nodes that the cluster knows; of a node that is in no cluster only itself, without a name to forward to. */
async function askNodes() {
  try {
    return await ask("cluster/nodes");
  } catch (error) {
    if (!error.message.includes("in no cluster")) throw error;
    const alone = await ask("node");
    return [{ id: alone.node_id || "this node", status: "active", isAlone: true, upstreams: alone.upstreams, endpoints: alone.endpoints }];
  }
}

// ---- Readings of a node ----

const perSecond = (now, before, seconds) => seconds > 0 && now >= before ? (now - before) / seconds : 0;

/** Requests of clients: what another node sent on is counted there. */
const fromClients = (one) => one.requests.total - one.requests.from_nodes;

/** What happened between two readings; null for what a restart has set back. */
function difference(now, before) {
  if (!before || now.started !== before.started) return null;
  const seconds = (Date.parse(now.now) - Date.parse(before.now)) / 1000;
  if (!(seconds > 0)) return null;
  const per = (get) => perSecond(get(now), get(before), seconds);
  const workers = new Map(before.workers.map((worker) => [worker.pid, worker.cpu_seconds]));
  return {
    requests: per(fromClients),
    errors: per((one) => one.requests.by_status["5xx"]),
    bytesIn: per((one) => one.bytes.in),
    bytesOut: per((one) => one.bytes.out),
    cpu: per((one) => one.cpu_seconds),
    count: Math.max(0, fromClients(now) - fromClients(before)),
    latencySum: Math.max(0, now.requests.latency_seconds_sum - before.requests.latency_seconds_sum),
    latencies: now.requests.latency_counts.map((count, index) => Math.max(0, count - before.requests.latency_counts[index])),
    workers: new Map(now.workers.map((worker) =>
      [worker.pid, workers.has(worker.pid) ? perSecond(worker.cpu_seconds, workers.get(worker.pid), seconds) : null])),
  };
}

const endpointKey = (entry) => entry.tenant ? `${entry.tenant}/${entry.endpoint}` : entry.endpoint;

function readTraffic(node, entries) {
  const [now, before, time] = [new Map(entries.map((entry) => [endpointKey(entry), entry])), node.traffic, performance.now()];
  const seconds = (time - node.trafficTime) / 1000;
  node.trafficRates = new Map();
  for (const [key, entry] of now) {
    // One that was not there a reading ago began at nothing.
    const old = before?.get(key) ?? (before ? { requests: 0, errors: 0, seconds: 0, bytes_in: 0, bytes_out: 0 } : entry);
    const per = (name) => perSecond(entry[name], old[name], seconds);
    node.trafficRates.set(key, {
      requests: per("requests"), errors: per("errors"), bytesIn: per("bytes_in"), bytesOut: per("bytes_out"),
      count: Math.max(0, entry.requests - old.requests), seconds: Math.max(0, entry.seconds - old.seconds), total: entry.requests,
    });
  }
  node.traffic = now;
  node.trafficTime = time;
}

async function read(node) {
  if (node.isBusy) return;
  node.isBusy = true;
  const name = node.isAlone ? null : node.id;
  try {
    const now = await ask("node", name);
    if (now.started !== node.now?.started) node.traffic = null;
    node.rates = difference(now, node.now);
    node.now = now;
    readTraffic(node, await ask("upstream/traffic", name));
    const time = performance.now();
    if (node.told !== `${now.endpoints} ${now.upstreams}` || time - node.toldTime > TOLD_EVERY) {
      node.endpoints = await ask("upstream/endpoints", name);
      node.tunnels = now.upstreams <= TUNNELS_MAX ? (await ask("upstream/tunnels", name)).tunnels : [];
      node.told = `${now.endpoints} ${now.upstreams}`;
      node.toldTime = time;
    }
    node.problem = "";
  } catch (error) {
    // A refusal of this page's token shows in the next round: the list of nodes is asked for first.
    Object.assign(node, { problem: error.message ?? String(error), rates: null, traffic: null, trafficRates: new Map() });
  } finally {
    node.isBusy = false;
  }
}

async function round() {
  if (isAsking || isPaused || isSignedOut || document.hidden) return;
  isAsking = true;
  try {
    const listed = (await askNodes()).filter((one) => one.status !== "left");
    clusterProblem = listed.length > NODES_MAX ? `The cluster has ${listed.length} nodes; the first ${NODES_MAX} are shown.` : "";
    for (const id of nodes.keys()) if (!listed.some((one) => one.id === id)) nodes.delete(id);
    for (const one of listed.slice(0, NODES_MAX)) {
      const node = nodes.get(one.id) ?? { endpoints: {}, tunnels: [], trafficRates: new Map(), problem: "" };
      nodes.set(one.id, Object.assign(node, one, { known: one.endpoints, endpoints: node.endpoints }));
    }
    const readings = Promise.all([...nodes.values()].map(read));
    await Promise.race([readings, new Promise((done) => setTimeout(done, EVERY * 0.75))]);
    if (!isSignedOut && !isPaused) draw();
  } catch (error) {
    if (error.status === 401 || error.status === 403) signOut(error);
    else fail(error);
  } finally {
    isAsking = false;
  }
}

// ---- Signing in ----

function signOut(refusal) {
  if (isSignedOut) return;
  isSignedOut = true;
  setText($("refusal"), token ? `The node refused the token (${refusal.message}).` : "");
  token = null;
  $("content").hidden = true;
  $("sign-in").hidden = false;
  say("warning", "Waiting for a token");
  setText($("problems"), "");
  $("token").focus();
}

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  $("token").value = "";
  $("sign-in").hidden = true;
  isSignedOut = false;
  nodes.clear();
  say("", "Connecting…");
  round();
});

// ---- Drawing ----

function say(mark, text) {
  $("mark").className = `mark ${mark}`;
  setText($("state"), text);
}

function problems(texts) {
  if ($("problems").dataset.texts === texts.join("\n")) return;
  $("problems").dataset.texts = texts.join("\n");
  $("problems").replaceChildren(...texts.map((text) => element("p", { className: "problem", textContent: text })));
}

function fail(error) {
  say("bad", "The admin port does not answer");
  problems([`${location.host} could not be asked: ${error.message}. What is shown is from before.`]);
  $("content").classList.add("stale");
}

/** The latency below which a share of the requests stayed, by the buckets' bounds: between two of them by a straight line. */
function percentile(counts, bounds, share) {
  const all = counts.reduce((sum, count) => sum + count, 0);
  if (!all) return { value: null, text: "–" };
  let below = 0;
  for (const [index, count] of counts.entries()) {
    if (below + count >= all * share) {
      if (index === bounds.length) return { value: bounds[index - 1], text: `> ${latency(bounds[index - 1])}` };
      const from = index ? bounds[index - 1] : 0;
      const value = from + (bounds[index] - from) * (all * share - below) / count;
      // The first bucket says no more than that it was less.
      return { value, text: index ? `≈ ${latency(value)}` : `< ${latency(bounds[0])}` };
    }
    below += count;
  }
  return { value: null, text: "–" };
}

const sum = (list, get) => list.reduce((total, one) => total + (get(one) ?? 0), 0);

const tiles = new Map(["Nodes", "Endpoints", "Tunnels", "Requests", "Errors", "Latency", "To clients", "From clients"].map((name) => {
  const [value, more] = [element("span", { className: "figure" }), element("small")];
  $("tiles").append(element("div", { id: `tile-${name.toLowerCase().replace(" ", "-")}` }, element("dt", { textContent: name }), element("dd", {}, value, more)));
  return [name, { value, more }];
}));

function tile(name, value, more, kind = "") {
  const { value: first, more: second } = tiles.get(name);
  setText(first, value);
  setText(second, more);
  if (first.className !== `figure ${kind}`.trim()) first.className = `figure ${kind}`.trim();
}

const charts = {
  requests: new Chart($("charts"), "Requests a second", ["all"], rate, 1),
  errors: new Chart($("charts"), "Errors a second", ["5xx"], rate, 1),
  latency: new Chart($("charts"), "Latency", ["p50", "p99"], latency, 0.005),
  bytes: new Chart($("charts"), "Bytes a second", ["to clients", "from clients"], bytes, 1000),
};

const muted = (condition) => condition ? "muted" : "";
const tables = {
  nodes: new Table($("nodes"), "Nodes of the cluster", [
    { name: "Node", value: (row) => row.id },
    { name: "Status", value: (row) => row.shown, kind: (row) => `badge ${row.mark}`, title: (row) => row.problem },
    { name: "Version", value: (row) => row.now?.version ?? "–", kind: () => "name" },
    { name: "Up for", isFigure: true, value: (row) => row.now?.uptime_seconds, text: (row) => age(row.now?.uptime_seconds) },
    { name: "Generation", isFigure: true, value: (row) => row.now?.generation, text: (row) => number(row.now?.generation) },
    { name: "Endpoints", isFigure: true, value: (row) => row.now?.endpoints ?? row.known, text: (row) => number(row.now?.endpoints ?? row.known) },
    { name: "Tunnels", isFigure: true, value: (row) => row.now?.upstreams ?? row.upstreams, text: (row) => number(row.now?.upstreams ?? row.upstreams) },
    { name: "Requests/s", isFigure: true, value: (row) => row.rates?.requests, text: (row) => rate(row.rates?.requests) },
    { name: "Errors/s", isFigure: true, value: (row) => row.rates?.errors, text: (row) => rate(row.rates?.errors), kind: (row) => row.rates?.errors ? "bad" : "muted" },
    { name: "In flight", isFigure: true, value: (row) => row.now?.requests.in_flight, text: (row) => number(row.now?.requests.in_flight) },
    { name: "CPU", isFigure: true, value: (row) => row.rates?.cpu, text: (row) => percent(row.rates?.cpu) },
    { name: "Memory", isFigure: true, value: (row) => row.now?.memory_bytes, text: (row) => bytes(row.now?.memory_bytes) },
  ]),
  endpoints: new Table($("endpoints"), "Endpoints: traffic and tunnels of all nodes", [
    { name: "Endpoint", value: (row) => row.key, kind: () => "name", title: (row) => row.key },
    { name: "Tunnels", isFigure: true, value: (row) => row.tunnels, text: (row) => number(row.tunnels), kind: (row) => row.tunnels ? "" : "muted" },
    { name: "Requests/s", isFigure: true, value: (row) => row.requests, text: (row) => rate(row.requests), kind: (row) => muted(!row.requests) },
    { name: "Errors/s", isFigure: true, value: (row) => row.errors, text: (row) => rate(row.errors), kind: (row) => row.errors ? "bad" : "muted" },
    { name: "Mean latency", isFigure: true, value: (row) => row.mean, text: (row) => latency(row.mean), kind: (row) => muted(row.mean === null) },
    { name: "To clients/s", isFigure: true, value: (row) => row.bytesOut, text: (row) => bytes(row.bytesOut), kind: (row) => muted(!row.bytesOut) },
    { name: "From clients/s", isFigure: true, value: (row) => row.bytesIn, text: (row) => bytes(row.bytesIn), kind: (row) => muted(!row.bytesIn) },
    { name: "Requests", isFigure: true, value: (row) => row.total, text: (row) => number(row.total), title: () => "since the nodes started" },
    { name: "Nodes", value: (row) => row.nodes.join(", "), kind: () => "name muted", title: (row) => row.nodes.join(", ") },
  ], { sortBy: 2, descending: true, searched: (row) => [row.key], empty: "No agent has connected." }),
  tunnels: new Table($("tunnels"), "Tunnels: the agents' connections", [
    { name: "Endpoint", value: (row) => endpointKey(row), kind: () => "name", title: (row) => endpointKey(row) },
    { name: "Node", value: (row) => row.node, kind: () => "name" },
    { name: "Agent's address", value: (row) => row.agent_addr, kind: () => "name" },
    { name: "Program", value: (row) => row.agent || "–", kind: (row) => `name ${muted(!row.agent)}`, title: (row) => row.agent },
    { name: "Transport", value: (row) => row.transport },
    { name: "State", value: (row) => row.going_away ? "going away" : "open", kind: (row) => `badge ${row.going_away ? "warning" : "good"}` },
    { name: "Open for", isFigure: true, value: (row) => row.age, text: (row) => age(row.age), title: (row) => `since ${row.since}` },
    { name: "Streams", isFigure: true, value: (row) => row.streams, text: (row) => number(row.streams) },
    { name: "From agent", isFigure: true, value: (row) => row.bytes_in, text: (row) => bytes(row.bytes_in) },
    { name: "To agent", isFigure: true, value: (row) => row.bytes_out, text: (row) => bytes(row.bytes_out) },
  ], { searched: (row) => [endpointKey(row), row.node, row.agent_addr, row.agent, row.transport], empty: "No agent has connected." }),
  workers: new Table($("workers"), "Workers: the processes that carry the traffic", [
    { name: "Node", value: (row) => row.node },
    { name: "Worker", isFigure: true, value: (row) => row.id, text: (row) => String(row.id) },
    { name: "Generation", isFigure: true, value: (row) => row.generation, text: (row) => String(row.generation) },
    { name: "State", value: (row) => row.state, kind: (row) => `badge ${row.state === "ready" ? "good" : row.state === "ended" ? "bad" : "warning"}` },
    { name: "Process", isFigure: true, value: (row) => row.pid, text: (row) => String(row.pid) },
    { name: "Connections", isFigure: true, value: (row) => row.connections, text: (row) => number(row.connections) },
    { name: "CPU", isFigure: true, value: (row) => row.cpu, text: (row) => percent(row.cpu) },
    { name: "CPU time", isFigure: true, value: (row) => row.cpu_seconds, text: (row) => `${number(row.cpu_seconds)} s` },
    { name: "Memory", isFigure: true, value: (row) => row.memory_bytes, text: (row) => bytes(row.memory_bytes) },
  ]),
};

function endpointRows(all) {
  const rows = new Map();
  const row = (key) => {
    if (!rows.has(key)) rows.set(key, { key, tunnels: 0, requests: 0, errors: 0, bytesIn: 0, bytesOut: 0, count: 0, seconds: 0, total: 0, nodes: [] });
    return rows.get(key);
  };
  for (const node of all) {
    for (const [key, count] of Object.entries(node.endpoints)) {
      row(key).tunnels += count;
      row(key).nodes.push(node.id);
    }
    for (const [key, traffic] of node.trafficRates) {
      const to = row(key);
      for (const name of ["requests", "errors", "bytesIn", "bytesOut", "count", "seconds", "total"]) to[name] += traffic[name];
    }
  }
  for (const one of rows.values()) one.mean = one.count ? one.seconds / one.count : null;
  return [...rows.values()];
}

/** How a node is, in a word: what the cluster thinks of it, or what it says of itself. */
function judge(node) {
  if (node.status !== "active") return [node.status, "bad"];
  if (node.problem) return ["no answer", "bad"];
  if (!node.now) return ["asked", ""];
  if (node.now.state !== "serving") return [node.now.state, "warning"];
  return node.now.ready ? ["serving", "good"] : ["not ready", "warning"];
}

function draw() {
  const all = [...nodes.values()];
  for (const node of all) [node.shown, node.mark] = judge(node);
  const answering = all.filter((node) => node.now && !node.problem);
  const measured = answering.filter((node) => node.rates);
  const endpoints = endpointRows(answering);
  const tunnels = sum(answering, (node) => node.now.upstreams);
  const total = (name) => measured.length ? sum(measured, (node) => node.rates[name]) : null;
  const [requests, errors, bytesOut, bytesIn, count] = ["requests", "errors", "bytesOut", "bytesIn", "count"].map(total);
  const bounds = answering[0]?.now.requests.latency_bounds_seconds ?? [];
  const counts = [...bounds, Infinity].map((_, index) => sum(measured, (node) => node.rates.latencies[index]));
  const [p50, p99] = [percentile(counts, bounds, 0.5), percentile(counts, bounds, 0.99)];
  const known = endpoints.filter((one) => one.tunnels > 0).length;

  tile("Nodes", `${answering.length} / ${all.length}`, "answer", answering.length < all.length ? "bad" : "");
  tile("Endpoints", number(known), "with an agent");
  tile("Tunnels", number(tunnels), `${number(sum(answering, (node) => node.now.connections.proxy))} clients connected`);
  tile("Requests", rate(requests), `a second, ${number(sum(answering, (node) => node.now.requests.in_flight))} in flight`);
  tile("Errors", rate(errors), `a second, ${percent(requests ? errors / requests : requests)} of requests`, errors ? "bad" : "");
  tile("Latency", p99.text, `p99; p50 ${p50.text}, mean ${latency(count ? total("latencySum") / count : null)}`);
  tile("To clients", bytes(bytesOut), "a second");
  tile("From clients", bytes(bytesIn), "a second");

  const time = performance.now();
  charts.requests.add(time, [requests]);
  charts.errors.add(time, [errors]);
  charts.latency.add(time, [p50.value, p99.value], [p50.text, p99.text]);
  charts.bytes.add(time, [bytesOut, bytesIn]);

  tables.nodes.set(all);
  tables.endpoints.set(endpoints);
  tables.tunnels.set(answering.flatMap((node) => node.tunnels.map((tunnel) => Object.assign(tunnel, {
    node: node.id, age: (Date.parse(node.now.now) - Date.parse(tunnel.since)) / 1000,
  }))));
  tables.workers.set(answering.flatMap((node) => node.now.workers.map((worker) =>
    Object.assign(worker, { node: node.id, cpu: node.rates?.workers.get(worker.pid) }))));
  const reloads = answering.flatMap((node) => {
    const generations = [...new Set(node.now.workers.map((worker) => worker.generation))].sort((left, right) => left - right);
    return generations.length > 1 ? [`${node.id}: generation ${generations.at(-1)} takes over from generation ${generations.slice(0, -1).join(", ")}.`] : [];
  });
  setText($("reloads"), reloads.join(" "));

  const silent = all.filter((node) => node.problem || node.status !== "active");
  const long = answering.filter((node) => node.now.upstreams > TUNNELS_MAX).map((node) => `${node.id} has ${number(node.now.upstreams)} tunnels, too many to list.`);
  problems([...(clusterProblem ? [clusterProblem] : []),
    ...silent.map((node) => `${node.id} ${node.status === "active" ? "is not in these figures" : `is ${node.status}`}${node.problem ? ` (${node.problem})` : ""}.`), ...long]);
  say(silent.length ? "bad" : "good", silent.length ? `${answering.length} of ${all.length} nodes answer` : all.length === 1 ? "The node answers" : `All ${all.length} nodes answer`);
  setText($("updated"), new Date().toLocaleTimeString("en-GB"));
  $("content").classList.remove("stale");
  $("content").hidden = false;
}

// ---- Beginning ----

setText($("place"), location.host);
document.title = `Piko ${location.host}`;
$("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  $("pause").setAttribute("aria-pressed", String(isPaused));
  if (isPaused) say("warning", "Paused");
  else round();
});
document.addEventListener("visibilitychange", round);
setInterval(round, EVERY);
round();
