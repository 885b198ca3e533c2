// The panel beside the tree: a node's figures, code and output, its path, what follows it; or the question and its answers.

import { h } from "./dom.js";
import { ROOT, verdict } from "./model.js";
import { signed } from "./paint.js";

const ANSWERS_SHOWN = 8;
const VERDICTS = {
  right: "right answer", wrong: "wrong answer", answer: "answer, not judged", dead: "dead end", failed: "failed to run", open: "step",
};
const ENDS = {
  code_errors: "every step tried here failed to run", max_depth: "as deep as a tree may be, without an answer",
  unparsable: "does not follow the step format", context_overflow: "cut by a token limit, or no room for a next step",
};

/** The panel's content for a node of a pane; `go(id)` selects another. */
export function detail(pane, id, go) {
  const { tree } = pane;
  return id === null || id === ROOT ? overview(tree, go) : step(tree, tree.nodes[id], go);
}

function overview(tree, go) {
  const answers = tree.answers();
  const failed = tree.numFailed;
  return [
    h("h2", {}, "Question"),
    h("p", { className: "question" }, tree.question),
    figures([
      ["rollouts", tree.position === tree.lastRollout ? tree.num_rollouts : `${tree.position} of ${tree.num_rollouts}`],
      ["steps", (tree.nodes.filter((node) => node.present).length - 1).toLocaleString("en")],
      ["failed to run", failed],
      ["tokens", tree.num_tokens.toLocaleString("en")],
      ["executions", tree.num_executions.toLocaleString("en")],
      ["Q of the root", tree.nodes[ROOT].n ? signed(tree.nodes[ROOT].q) : "–"],
    ]),
    h("h3", {}, answers.length ? "Answers" : "No answer yet"),
    h("ul", { className: "rows" }, answers.slice(0, ANSWERS_SHOWN).map(({ answer, verified, count, first }) =>
      row(verified === null ? "answer" : verified ? "right" : "wrong", answer, `×${count}`, () => go(first)))),
    answers.length > ANSWERS_SHOWN ? h("p", { className: "note" }, `and ${answers.length - ANSWERS_SHOWN} others, given less often`) : null,
    ...nextSteps(tree, tree.nodes[ROOT], "First steps", go),
    h("h3", {}, "Signs"),
    h("ul", { className: "rows legend" },
      [["right", "right"], ["wrong", "wrong"], ["answer", "not judged"], ["dead", "dead end"], ["failed", "failed to run"]].map(([sign, text]) =>
        h("li", {}, h("i", { className: `sign ${sign}` }), text)),
      h("li", {}, h("i", { className: "scale" }), "Q −1 to +1"),
      h("li", {}, h("i", { className: "best" }), "best path")),
  ];
}

function step(tree, node, go) {
  const found = verdict(node);
  const path = tree.path(node.id);
  return [
    h("h2", {}, h("i", { className: `sign ${found}` }), `${VERDICTS[found]}`, h("small", {}, `node ${node.id}, depth ${node.depth}`)),
    figures([
      ["Q", node.n ? signed(node.q) : "–"],
      ["N", node.n],
      ["PPM", node.initial_value === null ? "–" : signed(node.initial_value)],
      ["prior", Math.exp(node.mean_logprob).toFixed(2)],
      ["sampled", `×${node.multiplicity}`],
      ["rollout", node.rollout + 1],
    ]),
    node.over && ENDS[node.terminal] ? h("p", { className: "note" }, ENDS[node.terminal]) : null,
    node.answer !== null ? h("p", { className: `answer ${found}` }, node.answer) : null,
    h("h3", {}, node.kind === "answer" ? "Answer" : node.kind === null ? "Text" : "Code"),
    code(node),
    node.stdout ? h("h3", {}, "Output") : null,
    node.stdout ? h("pre", { className: "output" }, node.stdout) : null,
    node.error ? h("h3", {}, "Error") : null,
    node.error ? h("pre", { className: "error" }, node.error) : null,
    h("h3", {}, "Path from the question"),
    h("ol", { className: "rows path" }, path.map((id) => nodeRow(tree.nodes[id], () => go(id), id === node.id))),
    ...nextSteps(tree, node, "Next steps", go),
    path.length > 1 ? solution(tree, path) : null,
  ];
}

/** All steps of a path with what they printed. */
function solution(tree, path) {
  const steps = path.map((id) => tree.nodes[id]);
  return h("details", {}, h("summary", {}, "Whole solution up to here"), steps.flatMap((node) =>
    [code(node), node.stdout ? h("pre", { className: "output" }, node.stdout) : null]));
}

function nextSteps(tree, node, title, go) {
  const children = node.children.map((id) => tree.nodes[id]).filter((child) => child.present);
  children.sort((a, b) => tree.onBest.has(b.id) - tree.onBest.has(a.id) || b.live - a.live || b.n - a.n || b.q - a.q);
  return children.length
    ? [h("h3", {}, `${title} (${children.length})`), h("ul", { className: "rows next" }, children.map((child) => nodeRow(child, () => go(child.id))))]
    : [];
}

function nodeRow(node, go, current = false) {
  const value = !node.live ? node.execution : node.n ? `Q ${signed(node.q)}  N ${node.n}` : "N 0";
  return row(verdict(node), node.title, value, go, { current: current ? "step" : null, id: node.id });
}

function row(sign, text, value, go, { current = null, id = null } = {}) {
  const button = h("button", { type: "button", onclick: go }, h("i", { className: `sign ${sign}` }), h("span", {}, text), h("b", {}, value));
  if (current) button.setAttribute("aria-current", current);
  if (id !== null) button.dataset.node = id;
  return h("li", {}, button);
}

function figures(pairs) {
  return h("dl", {}, pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value)))));
}

/** The step as written; comments set apart from code. */
function code(node) {
  const lines = node.text.replace(/^\n+|\s+$/g, "").split("\n");
  const isCode = node.kind === "code" || node.kind === "final_code";
  return h("pre", { className: "code" }, lines.flatMap((line, at) => [
    at ? "\n" : null,
    isCode && line.trim().startsWith("#") ? h("em", {}, line) : line,
  ]));
}
