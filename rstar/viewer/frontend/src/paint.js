// Draws what is in sight of a tree on a canvas: edges, then cards, with less detail the smaller they are.

import { COLUMN, HEIGHT, WIDTH } from "./layout.js";
import { verdict } from "./model.js";

const TITLES_FROM = 0.5;
const FIGURES_FROM = 0.65;
const EDGES_FROM = 0.05;
const FONT = 'system-ui, "Segoe UI", Roboto, sans-serif';
const TITLE_FONT = `600 12.5px ${FONT}`;
const LINE_FONT = "11px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace";
const FIGURES_FONT = `11px ${FONT}`;
const PAD = 13;
const SIGN = 8;

/** `view`: {layout, transform, width, height, theme, selected, hits, hovered, fresh, folded}; sizes in CSS pixels. */
export function paint(context, view) {
  const { transform, width, height, theme } = view;
  const ratio = devicePixelRatio;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.fillStyle = theme.page;
  context.fillRect(0, 0, width * ratio, height * ratio);
  context.setTransform(ratio * transform.k, 0, 0, ratio * transform.k, ratio * transform.x, ratio * transform.y);
  const sight = {
    left: transform.invertX(0), right: transform.invertX(width),
    top: transform.invertY(0), bottom: transform.invertY(height),
  };
  if (transform.k >= EDGES_FROM) paintEdges(context, view, sight);
  const draw = transform.k >= TITLES_FROM ? paintCard : paintBlock;
  for (const place of inSight(view.layout, sight, transform.k)) draw(context, view, place);
}

/** Nodes in sight that have come by now; at most about one per row of pixels in a column. */
function* inSight(layout, sight, scale) {
  const least = 0.7 / scale;
  const [from, to] = columnsBetween(layout, sight.left, sight.right);
  for (const column of layout.columns.slice(from, to)) {
    const [first, end] = layout.between(column, sight.top, sight.bottom);
    let drawn = -Infinity;
    for (let at = first; at < end; at++) {
      const place = column[at];
      if (!place.data.present || (place.y - drawn < least && !layout.tree.onBest.has(place.data.id))) continue;
      drawn = place.y;
      yield place;
    }
  }
}

function columnsBetween(layout, left, right) {
  return [Math.max(0, Math.floor(left / COLUMN) - 1), Math.min(layout.columns.length, Math.ceil(right / COLUMN) + 1)];
}

/** Each edge: out of the parent to the right, down, and with a rounded corner into the child. The first node below what is
 * in sight counts too: its edge may come from above. */
function paintEdges(context, { layout, theme, transform }, sight) {
  const { tree } = layout;
  const groups = new Map();
  const best = [];
  const [from, to] = columnsBetween(layout, sight.left, sight.right);
  const least = 0.7 / transform.k;
  for (const column of layout.columns.slice(Math.max(1, from), to)) {
    const [first, end] = layout.between(column, sight.top, sight.bottom);
    let drawn = -Infinity;
    for (let at = first; at < Math.min(end + 1, column.length); at++) {
      const place = column[at];
      if (!place.data.present) continue;
      if (tree.onBest.has(place.data.id)) best.push(place);
      else if (place.y - drawn >= least) {
        drawn = place.y;
        const share = place.data.n / Math.max(1, tree.nodes[0].n);
        const weight = Math.round(2 * Math.sqrt(share) * 3) / 2 + 1.25;
        if (!groups.has(weight)) groups.set(weight, []);
        groups.get(weight).push(place);
      }
    }
  }
  context.lineJoin = context.lineCap = "round";
  context.strokeStyle = theme.line;
  for (const [weight, places] of groups) strokeEdges(context, places, weight);
  context.strokeStyle = theme.accent;
  strokeEdges(context, best, Math.max(3.5, 1.6 / transform.k));
}

function strokeEdges(context, places, weight) {
  context.lineWidth = weight;
  context.beginPath();
  for (const { x, y, parent } of places) {
    const row = y + HEIGHT / 2;
    const parentRow = parent.y + HEIGHT / 2;
    const bend = parent.x + WIDTH + 16;
    context.moveTo(parent.x + WIDTH, parentRow);
    if (row > parentRow) {
      context.arcTo(bend, parentRow, bend, row, 8);
      context.arcTo(bend, row, x, row, 8);
    }
    context.lineTo(x, row);
  }
  context.stroke();
}

/** A node too small to read: its Q-value's colour, and its verdict as a block at the end. */
function paintBlock(context, { theme, selected, hits, transform, layout }, { x, y, data: node }) {
  const least = 1.5 / transform.k;
  const height = Math.max(HEIGHT, least);
  const found = verdict(node);
  context.globalAlpha = dimmed(node, hits, selected) ? 0.25 : 1;
  context.fillStyle = found === "failed" ? theme.line : theme.q(node);
  context.fillRect(x, y, WIDTH, height);
  if (found !== "open" && found !== "failed") {
    context.fillStyle = theme[found];
    context.fillRect(x + WIDTH * 0.72, y, WIDTH * 0.28, height);
  }
  const marked = node.id === selected || hits?.has(node.id);
  if (marked || (layout.tree.onBest.has(node.id) && transform.k > 0.1)) {
    context.strokeStyle = node.id === selected ? theme.ink : hits?.has(node.id) ? theme.hit : theme.accent;
    context.lineWidth = 2.5 / transform.k;
    context.strokeRect(x, y, WIDTH, height);
  }
  context.globalAlpha = 1;
}

function paintCard(context, view, place) {
  const { theme, selected, hits, hovered, fresh, folded, transform, layout } = view;
  const { x, y, data: node } = place;
  const found = verdict(node);
  const onBest = layout.tree.onBest.has(node.id);
  context.globalAlpha = dimmed(node, hits, selected) ? 0.35 : 1;
  context.beginPath();
  context.roundRect(x, y, WIDTH, HEIGHT, 7);
  context.fillStyle = found === "failed" ? theme.page : theme.tint(node);
  context.fill();
  context.strokeStyle = node.id === selected ? theme.ink : hits?.has(node.id) ? theme.hit : onBest ? theme.accent : hovered === node.id ? theme.soft : theme.line;
  context.lineWidth = node.id === selected || hits?.has(node.id) ? 3 : onBest ? 2 : 1.25;
  if (found === "failed") context.setLineDash([4, 3]);
  context.stroke();
  context.setLineDash([]);
  context.fillStyle = found === "failed" ? theme.line : theme.q(node);
  context.fillRect(x + 4, y + 5, 4, HEIGHT - 10);

  const sign = found !== "open";
  const right = x + WIDTH - 9;
  if (sign) paintSign(context, theme, found, right - SIGN, y + 15);
  context.textBaseline = "alphabetic";
  context.textAlign = "left";
  context.font = TITLE_FONT;
  context.fillStyle = found === "failed" ? theme.soft : theme.ink;
  const room = WIDTH - PAD - 10 - (sign ? 2 * SIGN + 5 : 0);
  node.fitted ??= {};
  context.fillText((node.fitted.title ??= clipped(context, node.title, room)), x + PAD, y + 18);
  if (transform.k >= FIGURES_FROM) paintLine(context, theme, node, x, y);
  paintFigures(context, theme, node, found, x, y, right);
  if (fresh?.has(node.id)) paintDot(context, theme, x + WIDTH, y);
  if (folded.has(node.id) && node.children.length) paintFold(context, theme, place, layout.tree);
  context.globalAlpha = 1;
}

function paintLine(context, theme, node, x, y) {
  context.font = LINE_FONT;
  context.fillStyle = theme.soft;
  context.fillText((node.fitted.line ??= clipped(context, node.line, WIDTH - PAD - 10)), x + PAD, y + 34);
}

function paintFigures(context, theme, node, found, x, y, right) {
  context.font = FIGURES_FONT;
  context.fillStyle = theme.soft;
  const row = y + 51;
  if (found === "failed") {
    context.fillText((node.fitted.error ??= clipped(context, node.error || node.execution, WIDTH - PAD - 12)), x + PAD, row);
    return;
  }
  context.fillText(node.n ? `Q ${signed(node.q)}` : "Q –", x + PAD, row);
  context.fillText(`N ${node.n}`, x + PAD + 56, row);
  if (node.initial_value !== null) context.fillText(`PPM ${signed(node.initial_value)}`, x + PAD + 96, row);
  if (node.multiplicity > 1) {
    context.textAlign = "right";
    context.fillText(`×${node.multiplicity}`, right, row);
  }
}

/** A disc with a tick, a cross, an equals sign; a square with a bar where nothing follows; an empty ring for what failed. */
function paintSign(context, theme, found, x, y) {
  context.fillStyle = context.strokeStyle = theme[found] ?? theme.soft;
  context.lineWidth = 1.5;
  context.beginPath();
  if (found === "dead") context.roundRect(x - 7, y - 7, 14, 14, 3);
  else context.arc(x, y, 7.5, 0, 2 * Math.PI);
  if (found === "failed") context.stroke();
  else {
    context.fill();
    context.strokeStyle = theme.card;
  }
  context.lineWidth = 1.8;
  context.beginPath();
  const lines = {
    right: [[-3.5, 0, -1, 3], [-1, 3, 3.5, -3]],
    wrong: [[-3, -3, 3, 3], [-3, 3, 3, -3]],
    answer: [[-3, -1.6, 3, -1.6], [-3, 1.6, 3, 1.6]],
    dead: [[-3.2, 0, 3.2, 0]],
    failed: [[-2.5, -2.5, 2.5, 2.5], [-2.5, 2.5, 2.5, -2.5]],
  }[found];
  for (const [fromX, fromY, toX, toY] of lines) {
    context.moveTo(x + fromX, y + fromY);
    context.lineTo(x + toX, y + toY);
  }
  context.stroke();
}

function paintDot(context, theme, x, y) {
  context.beginPath();
  context.arc(x - 3, y + 3, 5, 0, 2 * Math.PI);
  context.fillStyle = theme.accent;
  context.fill();
}

/** How many nodes are folded away. */
function paintFold(context, theme, { x, y, data: node }, tree) {
  const text = `+${descendants(tree, node)}`;
  context.font = FIGURES_FONT;
  const width = context.measureText(text).width + 12;
  context.beginPath();
  context.roundRect(x + WIDTH + 4, y + HEIGHT / 2 - 9, width, 18, 9);
  context.fillStyle = theme.soft;
  context.fill();
  context.fillStyle = theme.card;
  context.textAlign = "left";
  context.fillText(text, x + WIDTH + 10, y + HEIGHT / 2 + 4);
}

function descendants(tree, node) {
  return node.children.reduce((count, id) => count + 1 + descendants(tree, tree.nodes[id]), 0);
}

function dimmed(node, hits, selected) {
  return hits !== null && !hits.has(node.id) && node.id !== selected;
}

/** The start of a text that fits into `room` pixels in the current font. */
function clipped(context, text, room) {
  if (context.measureText(text.slice(0, 200)).width <= room && text.length <= 200) return text;
  let [low, high] = [0, Math.min(text.length, 200)];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (context.measureText(`${text.slice(0, middle)}…`).width <= room) low = middle;
    else high = middle - 1;
  }
  return `${text.slice(0, low).trimEnd()}…`;
}

/** A number in [-1, 1] with its sign and two decimals. */
export function signed(value) {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
}
