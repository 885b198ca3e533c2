// The page: panes with a tree each, the panel, search, replay, keyboard; and what a running search sends.
//
// `viewer.update(message)` takes one message of rstar/viewer/live.py, as an object or as JSON: a whole tree, or what has
// changed of one. With a live address in the page, they come as server-sent events.

import { detail } from "./detail.js";
import { h } from "./dom.js";
import { HEIGHT, WIDTH } from "./layout.js";
import { ROOT } from "./model.js";
import { Pane } from "./pane.js";
import css from "./style.css";
import { Theme } from "./theme.js";

const LONGEST_REPLAY_S = 12;
const KEYS = [
  ["drag, scroll", "move"], ["Ctrl + scroll, pinch, + −", "zoom"], ["0 / 9", "readable size / whole tree"], ["click", "code and output of a step"],
  ["double click, c", "fold and unfold"], ["← → ↑ ↓", "parent, best child, above, below"], ["b", "end of the best path"], ["/", "search; Enter for the next find; #57 for a node"],
  ["space", "replay"], [", .", "one rollout back, forward"], ["f", "failed candidates"], ["t", "light, dark"], ["Esc", "close, clear"],
];

const panes = [];
let active = null;
let found = [];
let foundAt = -1;
let timer = 0;
let following = true;

const ui = build();

function build() {
  const button = (text, title, onclick) => h("button", { type: "button", title, onclick }, text);
  const ui = {
    query: h("input", { type: "search", placeholder: "Search steps  /", ariaLabel: "search steps", spellcheck: false }),
    count: h("output", { className: "count" }),
    failed: button("Failed steps", "show candidates that failed to run (f)", () => showFailed()),
    back: button("‹", "one rollout back (,)", () => stepBy(-1)),
    play: button("▶", "replay the search (space)", () => play()),
    on: button("›", "one rollout forward (.)", () => stepBy(1)),
    slider: h("input", { type: "range", min: 0, step: 1, ariaLabel: "rollout" }),
    position: h("output", { className: "position" }),
    fit: button("Fit", "readable size (0); again: the whole tree (9)", () => fit()),
    theme: button("◐", "light, dark (t)", () => toggleTheme()),
    help: button("?", "keys", () => ui.keys.showModal()),
    state: h("span", { className: "state", hidden: true }),
    panes: h("div", { className: "panes" }),
    panel: h("aside", { tabIndex: -1, ariaLabel: "selected step" }),
    said: h("div", { className: "unseen", ariaLive: "polite" }),
    keys: h("dialog", {}, h("h2", {}, "Keys"), h("dl", {}, KEYS.map(([key, what]) => h("div", {}, h("dt", {}, key), h("dd", {}, what)))),
      h("form", { method: "dialog" }, h("button", {}, "Close"))),
  };
  ui.failed.setAttribute("aria-pressed", "false");
  ui.query.addEventListener("input", () => search());
  ui.slider.addEventListener("input", () => {
    stop();
    setPosition(+ui.slider.value);
  });
  return ui;
}

function start() {
  document.head.append(h("style", {}, css));
  const data = JSON.parse(document.getElementById("data").textContent);
  document.body.append(
    h("header", { className: "bar" },
      h("h1", {}, document.title), ui.state,
      h("div", { className: "group find" }, ui.query, ui.count),
      ui.failed,
      h("div", { className: "group replay" }, ui.back, ui.play, ui.on, ui.slider, ui.position),
      h("div", { className: "group" }, ui.fit, ui.theme, ui.help)),
    h("main", {}, ui.panes, ui.panel), ui.said, ui.keys);
  data.trees.forEach((tree, key) => addPane(tree, key));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", retheme);
  new ResizeObserver(() => panes.forEach((pane) => pane.resized())).observe(ui.panes);
  document.addEventListener("keydown", onKey);
  if (data.live) listen(data.live);
}

function addPane(plain, key) {
  const pane = new Pane(plain, { select, focus });
  pane.key = key;
  panes.push(pane);
  ui.panes.append(pane.element);
  pane.theme = new Theme();
  panes.forEach((one) => one.resized());
  pane.fit(false);
  active ??= pane;
  caption(pane);
  rangeChanged();
  renderPanel();
}

/** What a pane shows, in its heading. */
function caption(pane) {
  const { tree } = pane;
  const answered = tree.nodes.filter((node) => node.terminal === "answered");
  const solved = answered.some((node) => node.verified);
  const outcome = solved ? "solved" : !answered.length ? "no answer" : answered.some((node) => node.verified !== null) ? "not solved" : "not judged";
  pane.heading.replaceChildren(
    h("b", {}, tree.label), h("span", { className: `outcome ${outcome.replace(" ", "-")}` }, outcome),
    h("span", {}, `${tree.num_rollouts} rollouts, ${(tree.nodes.length - 1).toLocaleString("en")} steps`));
  pane.element.classList.toggle("active", pane === active && panes.length > 1);
}

// ------------------------------------------------------------------------------------------------------ selection

function focus(pane) {
  if (pane === active) return;
  active = pane;
  panes.forEach(caption);
  renderPanel();
}

function select(pane, id, { reveal = false } = {}) {
  focus(pane);
  pane.selected = id;
  if (reveal) pane.reveal(id);
  if (pane.failed) panes.forEach(pressFailed);
  pane.draw();
  renderPanel();
  ui.said.textContent = id === null ? "" : `node ${id}: ${pane.tree.nodes[id].title}`;
}

function renderPanel() {
  if (!active) return;
  const scrolled = ui.panel.dataset.shown === `${panes.indexOf(active)} ${active.selected}` ? ui.panel.scrollTop : 0;
  ui.panel.replaceChildren(...detail(active, active.selected, (id) => select(active, id, { reveal: true })).filter(Boolean));
  ui.panel.dataset.shown = `${panes.indexOf(active)} ${active.selected}`;
  ui.panel.scrollTop = scrolled;
}

function goBest() {
  if (active?.tree.best.length) select(active, active.tree.best.at(-1), { reveal: true });
}

function showFailed() {
  const failed = !panes.every((pane) => pane.failed);
  for (const pane of panes) {
    pane.failed = failed;
    pane.arrange();
  }
  panes.forEach(pressFailed);
}

function pressFailed() {
  ui.failed.setAttribute("aria-pressed", String(panes.every((pane) => pane.failed)));
}

let fitted = false;
function fit() {
  fitted = !fitted;
  panes.forEach((pane) => (fitted ? pane.fit() : pane.overview()));
}

// --------------------------------------------------------------------------------------------------------- search

function search() {
  const text = ui.query.value;
  found = panes.flatMap((pane) => {
    const ids = pane.tree.search(text);
    pane.hits = text.trim() ? new Set(ids) : null;
    pane.draw();
    return ids.map((id) => [pane, id]);
  });
  foundAt = -1;
  ui.count.textContent = text.trim() ? `${found.length} found` : "";
}

function nextFound(direction) {
  const shown = found.filter(([pane, id]) => pane.tree.nodes[id].present);
  if (!shown.length) return;
  foundAt = (foundAt + direction + shown.length) % shown.length;
  const [pane, id] = shown[foundAt];
  select(pane, id, { reveal: true });
  ui.count.textContent = `${foundAt + 1} of ${shown.length}`;
}

// --------------------------------------------------------------------------------------------------------- replay

const lastPosition = () => Math.max(0, ...panes.map((pane) => pane.tree.lastRollout));

function rangeChanged() {
  const last = lastPosition();
  const atEnd = following || +ui.slider.value >= +ui.slider.max;
  ui.slider.max = last;
  if (atEnd) ui.slider.value = last;
  ui.position.textContent = `rollout ${ui.slider.value} of ${last}`;
}

function setPosition(position) {
  ui.slider.value = position;
  following = position >= lastPosition();
  ui.position.textContent = `rollout ${ui.slider.value} of ${lastPosition()}`;
  for (const pane of panes) pane.show(position);
  renderPanel();
}

function stepBy(change) {
  stop();
  setPosition(Math.max(0, Math.min(lastPosition(), +ui.slider.value + change)));
}

function play() {
  if (timer) return stop();
  if (+ui.slider.value >= lastPosition()) setPosition(0);
  ui.play.textContent = "❚❚";
  const pause = Math.max(60, Math.min(600, (LONGEST_REPLAY_S * 1000) / Math.max(1, lastPosition())));
  timer = setInterval(() => {
    setPosition(+ui.slider.value + 1);
    for (const pane of panes) followNew(pane);
    if (+ui.slider.value >= lastPosition()) stop();
  }, pause);
}

/** The view goes where the search goes on, if that is out of sight. */
function followNew(pane) {
  if (pane.fresh?.size) pane.reveal(pane.tree.nodes[[...pane.fresh].find((id) => pane.tree.nodes[id].live) ?? ROOT].id);
}

function stop() {
  clearInterval(timer);
  timer = 0;
  ui.play.textContent = "▶";
}

// ----------------------------------------------------------------------------------------------- keyboard, theme

function onKey(event) {
  if (ui.keys.open) return;
  if (event.target === ui.query) {
    if (event.key === "Enter") nextFound(event.shiftKey ? -1 : 1);
    else if (event.key === "Escape") clear();
    else return;
    event.preventDefault();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || !active) return;
  const arrow = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" }[event.key];
  const actions = {
    "/": () => ui.query.focus(), " ": play, ",": () => stepBy(-1), ".": () => stepBy(1), f: showFailed, b: goBest, t: toggleTheme,
    c: () => active.fold(active.selected ?? ROOT), 0: () => active.fit(), 9: () => active.overview(), "+": () => active.scaleBy(1.3), "=": () => active.scaleBy(1.3),
    "-": () => active.scaleBy(1 / 1.3), "?": () => ui.keys.showModal(), n: () => nextFound(1), N: () => nextFound(-1), Escape: clear,
  };
  if (arrow && event.target !== ui.slider) {
    const next = active.neighbour(arrow);
    if (next !== undefined) select(active, next, { reveal: true });
    event.preventDefault();
  } else if (actions[event.key] && !(event.key === " " && event.target.tagName === "BUTTON")) {
    actions[event.key]();
    event.preventDefault();
  }
}

function clear() {
  if (ui.query.value) {
    ui.query.value = "";
    search();
  } else if (active) select(active, null);
  ui.query.blur();
}

function toggleTheme() {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  retheme();
}

function retheme() {
  for (const pane of panes) {
    pane.theme = new Theme();
    pane.refresh();
  }
}

// ----------------------------------------------------------------------------------------------------------- live

/** Take in one message, {pane, tree}: a tree that is `whole` is new or replaces the pane's, any other changes it. */
export function update(message) {
  const { pane: key, tree } = typeof message === "string" ? JSON.parse(message) : message;
  const pane = panes.find((one) => one.key === key);
  if (!pane) return addPane(tree, key);
  const position = +ui.slider.value;
  if (tree.whole) pane.replace(tree);
  else pane.tree.set(tree);
  pane.arrange();
  caption(pane);
  rangeChanged();
  pane.tree.at(following ? Infinity : position);
  if (following) pane.fresh = new Set(tree.nodes.id.filter((id) => pane.tree.nodes[id].rollout === pane.tree.lastRollout - 1));
  pane.refresh();
  if (ui.query.value) search();
  renderPanel();
}

function listen(address) {
  const source = new EventSource(address);
  const say = (text, name) => {
    ui.state.textContent = text;
    ui.state.className = `state ${name}`;
    ui.state.hidden = false;
  };
  source.addEventListener("open", () => say("live", "live"));
  source.addEventListener("tree", (event) => update(event.data));
  source.addEventListener("end", () => {
    source.close();
    for (const pane of panes) {
      pane.fresh = null;
      pane.draw();
    }
    say("search ended", "ended");
  });
  source.addEventListener("error", () => say("connection lost, trying again", "lost"));
}

/** For tests and consoles: what is shown. */
export const state = () => ({
  position: +ui.slider.value, playing: timer !== 0, active: panes.indexOf(active),
  panes: panes.map((pane) => ({
    selected: pane.selected, failed: pane.failed, best: pane.tree.best, hits: pane.hits && [...pane.hits], shown: [...pane.layout.places.keys()],
    present: pane.tree.nodes.filter((node) => node.present).map((node) => node.id), transform: [pane.transform.x, pane.transform.y, pane.transform.k],
    statistics: pane.tree.nodes.map((node) => [node.n, node.w]),
  })),
});

/** Where a node's card is in the window, as [left, top, right, bottom] in CSS pixels. */
export function box(at, id) {
  const pane = panes[at];
  const { x, y } = pane.layout.places.get(id);
  const frame = pane.canvas.getBoundingClientRect();
  const { transform } = pane;
  return [frame.left + transform.applyX(x), frame.top + transform.applyY(y), frame.left + transform.applyX(x + WIDTH), frame.top + transform.applyY(y + HEIGHT)];
}

/** Show a pane at a scale, 0 for the whole tree, from its start. */
export function zoomTo(at, scale) {
  panes[at].overview({ least: scale, smooth: false });
}

start();
