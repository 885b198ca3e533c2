// A tree as the page holds it: nodes with links, their statistics after any number of rollouts, the best path.
//
// Legend: N = visits, W = value sum, Q = W / N. Every terminal node is backed up exactly once, when it turned out to be
// terminal (rstar/mcts.py), so its value is its own W without the first visit that a value model may have given it; from
// these values the statistics of every earlier moment follow.

export const ROOT = 0;

export class Tree {
  /** `plain`: a tree as rstar/viewer/columns.py writes it, nodes as columns. */
  constructor(plain) {
    this.nodes = [];
    this.set(plain);
  }

  /** Take on new head values, and columns for the nodes `plain.nodes.id`: known ones change, others are added at the end. */
  set(plain) {
    const { nodes: columns, ...head } = plain;
    Object.assign(this, head);
    const names = Object.keys(columns);
    columns.id.forEach((id, at) => {
      const node = (this.nodes[id] ??= { children: [] });
      for (const name of names) node[name] = columns[name][at];
    });
    for (const node of this.nodes) node.children = [];
    for (const node of this.nodes) {
      if (node.id !== ROOT) this.nodes[node.parent].children.push(node.id);
      node.depth = node.id === ROOT ? 0 : this.nodes[node.parent].depth + 1;
      node.live = node.execution === "ok";
      node.title = node.id === ROOT ? this.question : titleOf(node);
      node.line = lineOf(node);
      node.haystack = undefined;
      node.fitted = undefined;
    }
    this.lastRollout = this.nodes.reduce((last, node) => Math.max(last, node.rollout + 1), this.num_rollouts);
    this.at(Infinity);
    this.mainLine = this.onBest;
  }

  /** Set n, w, q and `present`, `over` of every node to what they were after `position` rollouts; the stored ones at the end. */
  at(position) {
    this.position = Math.min(position, this.lastRollout);
    const complete = this.position === this.lastRollout;
    for (const node of this.nodes) {
      node.present = node.id === ROOT || node.rollout < this.position;
      node.over = node.terminal !== null && this.endedIn(node) < this.position;
      node.n = complete ? node.visit_count : 0;
      node.w = complete ? node.value_sum : 0;
    }
    if (!complete) this.recompute();
    for (const node of this.nodes) node.q = node.n ? node.w / node.n : 0;
    this.best = this.bestPath();
    this.onBest = new Set(this.best);
  }

  recompute() {
    for (const node of this.nodes) {
      if (node.present && scored(node)) {
        node.n += 1;
        node.w += node.initial_value;
      }
      if (!node.over) continue;
      const value = node.value_sum - (scored(node) ? node.initial_value : 0);
      for (let id = node.id; id !== -1; id = this.nodes[id].parent) {
        this.nodes[id].n += 1;
        this.nodes[id].w += value;
      }
    }
  }

  /** In which rollout a terminal node ended: a dead end when its children failed, any other when it was added. */
  endedIn(node) {
    return node.children.length ? this.nodes[node.children[0]].rollout : node.rollout;
  }

  /** Node ids from the root's child down to `id`. */
  path(id) {
    const path = [];
    for (; id > ROOT; id = this.nodes[id].parent) path.push(id);
    return path.reverse();
  }

  /** The answered path that is verified, then has the highest mean Q; before there is an answer, the most visited path. */
  bestPath() {
    let best = [];
    let bestKey = [-1, -Infinity];
    for (const node of this.nodes) {
      if (!node.present || !node.over || node.terminal !== "answered") continue;
      const path = this.path(node.id);
      const key = [node.verified === true ? 1 : 0, path.reduce((sum, id) => sum + this.nodes[id].q, 0) / path.length];
      if (key[0] > bestKey[0] || (key[0] === bestKey[0] && key[1] > bestKey[1])) [best, bestKey] = [path, key];
    }
    return best.length ? best : this.mostVisited();
  }

  mostVisited() {
    const path = [];
    for (let id = ROOT; ; ) {
      const visited = this.nodes[id].children.map((child) => this.nodes[child]).filter((node) => node.present && node.live && node.n > 0);
      if (!visited.length) return path;
      id = visited.reduce((best, node) => (node.n > best.n || (node.n === best.n && node.q > best.q) ? node : best)).id;
      path.push(id);
    }
  }

  /** Distinct answers with how often candidates gave them, those that are right first, then the most frequent. */
  answers() {
    const found = new Map();
    for (const node of this.nodes) {
      if (!node.present || !node.over || node.terminal !== "answered") continue;
      const entry = found.get(node.answer) ?? { answer: node.answer, verified: node.verified, count: 0, first: node.id };
      entry.count += node.multiplicity;
      found.set(node.answer, entry);
    }
    return [...found.values()].sort((a, b) => (b.verified === true) - (a.verified === true) || b.count - a.count);
  }

  /** Ids of the nodes that hold `text` (in step, output, error or answer, any case), or the one that `#ID` names. */
  search(text) {
    const wanted = text.trim().toLowerCase();
    if (!wanted) return [];
    if (/^#\d+$/.test(wanted)) return this.nodes[+wanted.slice(1)] ? [+wanted.slice(1)] : [];
    return this.nodes.filter((node) => haystack(node, this).includes(wanted)).map((node) => node.id);
  }

  get numFailed() {
    return this.nodes.reduce((count, node) => count + (node.live ? 0 : 1), 0);
  }
}

/** The value model gave the node its first visit, which was not backed up. */
export function scored(node) {
  return node.initial_value !== null && node.terminal !== "answered";
}

/** What became of a node, as a word for the eye: right, wrong, answer (nobody judged), dead, failed, or open. */
export function verdict(node) {
  if (!node.live) return "failed";
  if (!node.over) return "open";
  if (node.terminal !== "answered") return "dead";
  return node.verified === null ? "answer" : node.verified ? "right" : "wrong";
}

function haystack(node, tree) {
  node.haystack ??= [node.id === ROOT ? tree.question : node.text, node.stdout, node.error, node.answer ?? ""].join("\n").toLowerCase();
  return node.haystack;
}

/** One line for a step: its answer, else its first comment, else its first line of code. */
function titleOf(node) {
  if (node.answer !== null) return node.answer;
  const lines = node.text.split("\n").map((line) => line.trim()).filter(Boolean);
  const comment = lines.find((line) => line.startsWith("#"));
  return (comment ?? lines[0] ?? "(empty)").replace(/^#+\s*/, "");
}

/** One more line: the code below the first comment with what it printed, or the words of an answer. */
function lineOf(node) {
  const output = node.stdout.trim();
  const shown = output ? `→ ${output.split("\n").at(-1)}` : "";
  if (node.kind === "answer") return node.text.trim();
  const lines = node.text.split("\n").map((line) => line.trim()).filter((line) => line && !line.startsWith("#"));
  return [lines.join("; "), shown].filter(Boolean).join("  ");
}
