// Where nodes go. Depth runs to the right; the best child of a node stands in its row, below it the others, first those that
// nothing follows. So the best path is a straight line along the top and a subtree's nodes are together. Rows are packed per
// depth: a row that one depth needs is free to others. No two edges cross.

import { bisector } from "d3-array";
import { hierarchy } from "d3-hierarchy";
import { ROOT } from "./model.js";

export const WIDTH = 200;
export const HEIGHT = 60;
export const COLUMN = WIDTH + 36;
export const ROW = HEIGHT + 8;
const FAMILY_GAP = 10;

const byRow = bisector((place) => place.y);

export class Layout {
  /** `failed`: show candidates that failed to run. `folded`: ids of nodes whose children are not shown. */
  constructor(tree, { failed, folded }) {
    this.tree = tree;
    const shown = (node) => node.children.map((id) => tree.nodes[id]).filter((child) => failed || child.live);
    this.root = hierarchy(tree.nodes[ROOT], (node) => (folded.has(node.id) ? null : shown(node)));
    const order = (a, b) =>
      tree.mainLine.has(b.id) - tree.mainLine.has(a.id) || b.live - a.live || b.visit_count - a.visit_count || b.value_sum - a.value_sum || a.id - b.id;
    this.root.sort((a, b) => order(a.data, b.data));
    this.root.each((place) => {
      if (place.children) place.children = leavesSecond(place.children);
    });
    this.columns = Array.from({ length: this.root.height + 1 }, () => []);
    this.places = new Map();
    this.place(this.root);
    this.width = (this.root.height + 1) * COLUMN - (COLUMN - WIDTH);
    this.height = this.columns.reduce((height, column) => Math.max(height, column.at(-1).y), 0) + HEIGHT;
  }

  /** Put a node and the chain of first children below it into one row, then, from the deepest up, their other children. */
  place(node) {
    const chain = [];
    for (let next = node; next; next = next.children?.[0]) chain.push(next);
    let y = 0;
    for (const { depth } of chain) {
      const last = this.columns[depth].at(-1);
      if (last) y = Math.max(y, last.y + ROW + (depth > node.depth ? FAMILY_GAP : 0));
    }
    for (const one of chain) {
      one.y = y;
      one.x = one.depth * COLUMN;
      this.columns[one.depth].push(one);
      this.places.set(one.data.id, one);
    }
    for (const one of chain.reverse()) for (const child of one.children?.slice(1) ?? []) this.place(child);
  }

  /** The place of a node, or of its nearest ancestor that is shown. */
  placeOf(id) {
    while (!this.places.has(id)) id = this.tree.nodes[id].parent;
    return this.places.get(id);
  }

  /** Indices [first, end) of the nodes of a column that reach into the rows between two heights. */
  between(column, top, bottom) {
    return [byRow.left(column, top - HEIGHT), byRow.right(column, bottom)];
  }

  /** The place under a point; undefined if there is none. */
  hit(x, y) {
    const depth = Math.floor(x / COLUMN);
    if (x - depth * COLUMN > WIDTH || !this.columns[depth]) return undefined;
    const place = this.columns[depth][byRow.right(this.columns[depth], y) - 1];
    return place && y - place.y <= HEIGHT ? place : undefined;
  }
}

/** The first child, then those without children, then the others. */
function leavesSecond([first, ...others]) {
  return [first, ...others.filter((place) => !place.children), ...others.filter((place) => place.children)];
}
