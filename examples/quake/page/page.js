// Draws the state that /events tells. All text goes in by textContent: names are other people's.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const CITIES = [
  ["San Francisco", [-122, 38]], ["Amsterdam", [5, 52]], ["Singapore", [104, 1]],
  ["São Paulo", [-47, -23]], ["Tokyo", [139, 36]], ["Cape Town", [18, -34]],
];
const TRAVEL = 1100; // ms that the marker takes
const token = document.querySelector("meta[name=page-token]").content;
const byId = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
let shown = null; // the host at which the marker is
let asked = false; // a button was pressed, and the answer is not here yet

function make(tag, { text, svg, ...attributes } = {}, ...children) {
  const made = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

/** Where a host is on the map; those beyond the list stand in a row in the south. */
function spot(state, name) {
  const number = state.hosts.findIndex((host) => host.name === name);
  return project(number < CITIES.length ? CITIES[number][1] : [-150 + 25 * (number - 6), -50]);
}

function cities(state) {
  byId("cities").replaceChildren(...state.hosts.map((host, number) => {
    const [x, y] = spot(state, host.name);
    return make("g", { svg: true, class: host.up ? "city" : "city down", transform: `translate(${x} ${y})` },
      make("circle", { svg: true, r: 4.5 }),
      make("text", { svg: true, y: 34, text: host.name }),
      make("text", { svg: true, y: 48, class: "place", text: number < CITIES.length ? CITIES[number][0] : "" }));
  }));
}

function route(state, source, to) {
  const [[x1, y1], [x2, y2]] = [spot(state, source), spot(state, to)];
  const lift = Math.min(y1, y2) - 40 - Math.abs(x2 - x1) / 8;
  byId("arc").setAttribute("d", `M${x1} ${y1}Q${(x1 + x2) / 2} ${lift} ${x2} ${y2}`);
}

function put([x, y]) {
  byId("server").setAttribute("transform", `translate(${x} ${y})`);
}

/** The marker goes along the arc to where the server has come. */
function marker(state) {
  byId("server").classList.toggle("there", state.where !== null);
  if (state.where === null || state.where === shown) return;
  const from = shown;
  shown = state.where;
  if (from === null || still) return put(spot(state, shown));
  route(state, from, shown);
  const arc = byId("arc");
  const length = arc.getTotalLength();
  const goal = shown;
  let begin = null;
  const step = (now) => {
    begin ??= now;
    const part = Math.min(1, (now - begin) / TRAVEL);
    const at = arc.getPointAtLength(length * (1 - (1 - part) ** 3));
    put([at.x, at.y]);
    if (part < 1 && shown === goal) requestAnimationFrame(step);
  };
  return requestAnimationFrame(step);
}

async function move(to) {
  asked = true;
  for (const button of document.querySelectorAll("button")) button.disabled = true;
  try {
    const answer = await fetch("move", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Page-Token": token },
      body: JSON.stringify({ to }),
    });
    if (!answer.ok) result(`It cannot be moved: ${await answer.text()}`, "bad");
  } catch {
    result("The demo does not answer.", "bad");
  }
  asked = false;
}

function hosts(state) {
  const busy = asked || state.move?.running || state.where === null;
  // Kept as they are when nothing has changed: a click must not fall between two buttons.
  const key = JSON.stringify([state.hosts, state.where, busy]);
  if (byId("hosts").dataset.key === key) return;
  byId("hosts").dataset.key = key;
  byId("hosts").replaceChildren(...state.hosts.map((host) => {
    const here = host.name === state.where;
    const what = make("div", {}, make("b", { text: host.name }),
      make("small", { text: host.up ? host.address : `${host.address}, does not answer` }));
    let right = make("span", { text: "the server is here" });
    if (!here) {
      right = make("button", { type: "button", "data-host": host.name, text: `Move it to ${host.name}` });
      right.disabled = Boolean(busy) || !host.up;
      right.addEventListener("click", () => move(host.name));
    }
    return make("div", { class: here ? "card host here" : "card host", "data-name": host.name }, what, right);
  }));
}

function size(bytes) {
  return bytes < 1 << 20 ? `${(bytes / 1024).toFixed(0)} KiB` : `${(bytes / (1 << 20)).toFixed(1)} MiB`;
}

function result(text, kind) {
  byId("result").textContent = text;
  byId("result").className = kind;
}

function migration(state) {
  const now = state.move;
  const reached = now ? state.phases.indexOf(now.phase) : -1;
  const good = now && !now.running && !now.error;
  byId("phases").replaceChildren(...state.phases.map((phase, number) => {
    let kind = "";
    if (good || number < reached) kind = "done";
    else if (number === reached && now.running) kind = "now";
    return make("li", { class: kind, text: phase });
  }));
  byId("arc").classList.toggle("running", Boolean(now?.running));
  byId("amount").textContent = "";
  if (!now) return result("None yet.", "");
  byId("log").replaceChildren(...now.log.slice(-4).map((text) => make("li", { text })));
  if (now.running) {
    route(state, now.source, now.to);
    if (now.bytes) byId("amount").textContent = size(now.bytes) + (now.total ? ` of ${size(now.total)}` : "");
    return result(`${now.source} to ${now.to}: ${now.phase || "starting"}`, "");
  }
  if (now.error) return result(`It stays on ${now.source}: ${now.error}`, "bad");
  const noticed = now.gap === null ? "no unusual silence" : `a silence of ${Math.round(now.gap)} ms`;
  const parts = [`Moved from ${now.source} to ${now.to} in ${now.seconds?.toFixed(1)} s.`];
  if (now.downtime !== null) parts.push(`It stood still for ${Math.round(now.downtime)} ms.`);
  if (now.settled) parts.push(`The player noticed ${noticed}.`);
  return result(parts.join(" "), "good");
}

function game(state) {
  const seen = state.seen;
  if (seen?.players) {
    byId("players").replaceChildren(...seen.players.map((player) => make("tr", {},
      make("td", { text: player.name }), make("td", { text: player.score }), make("td", { text: `${player.ping} ms` }))));
  }
  let text = "Nobody looks on yet.";
  if (seen) {
    const states = `${seen.gamestates} gamestate${seen.gamestates === 1 ? "" : "s"}`;
    text = `migrant, a player who stays: ${states}, ${seen.snapshots} snapshots, ${seen.lost} lost, `
      + `${seen.reconnects} reconnects`;
    if (seen.answered_ms !== null) text += `; the server answers in ${seen.answered_ms} ms`;
    if (seen.dropped) text += `; thrown out: ${seen.dropped}`;
  }
  byId("seen").textContent = text;
}

function headline(state) {
  const on = state.seen?.map ? `${state.seen.map} on OpenArena` : "OpenArena";
  let text = "The server is nowhere to be seen.";
  if (state.move?.running) text = `${on}: moving from ${state.move.source} to ${state.move.to} ...`;
  else if (state.where !== null) text = `${on} runs on ${state.where}.`;
  byId("headline").textContent = text;
}

function show(state) {
  cities(state);
  hosts(state);
  migration(state);
  marker(state);
  game(state);
  headline(state);
}

byId("land").setAttribute("d", land());
const events = new EventSource("events");
events.onmessage = (event) => show(JSON.parse(event.data));
events.onerror = () => { byId("headline").textContent = "The demo does not answer; trying again ..."; };
