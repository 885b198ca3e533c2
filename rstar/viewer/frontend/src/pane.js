// One tree on a canvas: pan and zoom, what is under the pointer, what is selected, folded and found.

import { select } from "d3-selection";
import "d3-transition";
import { zoom, zoomIdentity } from "d3-zoom";
import { h } from "./dom.js";
import { HEIGHT, Layout, WIDTH } from "./layout.js";
import { Minimap } from "./minimap.js";
import { ROOT, Tree } from "./model.js";
import { paint } from "./paint.js";

const MARGIN = 28;
const READABLE = 0.7;
const LARGEST = 2.5;

export class Pane {
  /** `on`: {select(pane, id), focus(pane)} is told of clicks. */
  constructor(plain, on) {
    this.tree = new Tree(plain);
    this.on = on;
    this.failed = false;
    this.folded = new Set();
    this.selected = null;
    this.hovered = null;
    this.hits = null;
    this.fresh = null;
    this.transform = zoomIdentity;
    this.canvas = h("canvas", { tabIndex: 0, role: "application", ariaLabel: `search tree, ${plain.label}` });
    this.map = h("canvas", { className: "map", title: "the whole tree: drag to go there" });
    this.heading = h("header");
    this.body = h("div", { className: "sheet" }, this.canvas, this.map);
    this.element = h("section", { className: "pane" }, this.heading, this.body);
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.minimap = new Minimap(this.map, (x, y) => this.centre(x, y, { smooth: false }));
    this.listen();
    this.arrange();
  }

  listen() {
    this.zoom = zoom()
      .filter((event) => (event.type === "wheel" ? event.ctrlKey || event.metaKey : !event.button))
      .clickDistance(4)
      .on("zoom", ({ transform }) => {
        this.transform = transform;
        this.draw();
      });
    this.surface = select(this.canvas).call(this.zoom).on("dblclick.zoom", null);
    this.canvas.addEventListener("wheel", (event) => this.scroll(event), { passive: false });
    for (const name of ["pointerdown", "focus"]) this.canvas.addEventListener(name, () => this.on.focus(this));
    this.canvas.addEventListener("click", (event) => {
      const place = this.under(event);
      if (place) this.on.select(this, place.data.id);
    });
    this.canvas.addEventListener("dblclick", (event) => {
      const place = this.under(event);
      if (place) this.fold(place.data.id);
    });
    this.canvas.addEventListener("pointermove", (event) => this.hover(event.buttons ? null : (this.under(event)?.data.id ?? null)));
    this.canvas.addEventListener("pointerleave", () => this.hover(null));
  }

  /** Scrolling moves the tree; with Ctrl, or by pinching, it zooms (d3-zoom). */
  scroll(event) {
    if (event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const unit = event.deltaMode === 1 ? 16 : 1;
    const [x, y] = event.shiftKey && !event.deltaX ? [event.deltaY, 0] : [event.deltaX, event.deltaY];
    this.zoom.translateBy(this.surface, (-x * unit) / this.transform.k, (-y * unit) / this.transform.k);
  }

  under(event) {
    const place = this.layout.hit(this.transform.invertX(event.offsetX), this.transform.invertY(event.offsetY));
    return place?.data.present ? place : undefined;
  }

  hover(id) {
    if (id === this.hovered) return;
    this.hovered = id;
    this.canvas.style.cursor = id === null ? "" : "pointer";
    this.canvas.title = id === null ? "" : this.tree.nodes[id].title;
    this.draw();
  }

  /** Another tree in place of this one. */
  replace(plain) {
    this.tree = new Tree(plain);
    this.folded.clear();
    this.hovered = null;
    if (this.selected >= this.tree.nodes.length) this.selected = null;
  }

  /** Lay the tree out, after what is shown of it has changed. */
  arrange() {
    this.layout = new Layout(this.tree, this);
    this.resized();
  }

  /** The pane has another size, theme or layout. */
  resized() {
    if (!this.body.clientWidth || !this.theme) return;
    const { layout } = this;
    const whole = Math.min((this.body.clientWidth - 2 * MARGIN) / layout.width, (this.body.clientHeight - 2 * MARGIN) / layout.height);
    this.map.hidden = whole >= READABLE;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    [this.width, this.height] = [width, height];
    this.canvas.width = width * devicePixelRatio;
    this.canvas.height = height * devicePixelRatio;
    this.zoom.scaleExtent([Math.min(whole * 0.8, READABLE), LARGEST]);
    this.zoom.translateExtent([[-width, -height], [layout.width + width, layout.height + height]]);
    this.refresh();
  }

  /** The numbers on the cards have changed. */
  refresh() {
    if (!this.theme) return;
    if (!this.map.hidden && this.height) this.minimap.draw(this.layout, this.theme, this.height);
    this.draw();
  }

  /** Draw with the next frame, once. */
  draw() {
    if (this.pending || !this.width) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      paint(this.context, this);
      if (!this.drawn) this.drawn = performance.mark("drawn");
      if (!this.map.hidden) this.minimap.frame(this.transform, this.width, this.height);
    });
  }

  show(position) {
    const before = this.tree.position;
    this.tree.at(position);
    const step = this.tree.position - before === 1;
    this.fresh = step ? new Set(this.tree.nodes.filter((node) => node.rollout === before && node.id !== ROOT).map((node) => node.id)) : null;
    this.refresh();
  }

  /** The whole tree if it is readable then, else its start at a readable size. */
  fit(smooth = true) {
    const { layout, width, height } = this;
    const k = Math.min(1.15, Math.max(READABLE, Math.min((width - 2 * MARGIN) / layout.width, (height - 2 * MARGIN) / layout.height)));
    const y = Math.max(MARGIN, Math.min((height - layout.height * k) / 2, height / 5));
    this.move(zoomIdentity.translate(MARGIN, y).scale(k), smooth);
  }

  /** All of it, however small, or its start at the scale `least`. */
  overview({ least = 0, smooth = true } = {}) {
    const { layout, width, height } = this;
    const k = Math.max(least, Math.min(1, (width - 2 * MARGIN) / layout.width, (height - 2 * MARGIN) / layout.height));
    this.move(zoomIdentity.translate(Math.max(MARGIN, (width - layout.width * k) / 2), MARGIN).scale(k), smooth);
  }

  centre(x, y, { smooth = true } = {}) {
    const { k } = this.transform;
    this.move(zoomIdentity.translate(this.width / 2 - x * k, this.height / 2 - y * k).scale(k), smooth);
  }

  scaleBy(factor) {
    this.zoom.scaleBy(this.surface, factor);
  }

  move(transform, smooth) {
    const still = !smooth || matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.zoom.transform(still ? this.surface.interrupt() : this.surface.transition().duration(220), transform);
  }

  /** Bring a node into sight, unfolding what hides it, at a readable size. */
  reveal(id) {
    if (!this.tree.nodes[id].live && !this.failed) this.failed = true;
    for (const above of [ROOT, ...this.tree.path(id).slice(0, -1)]) this.folded.delete(above);
    if (!this.layout.places.has(id)) this.arrange();
    const { x, y } = this.layout.placeOf(id);
    const k = Math.max(this.transform.k, READABLE);
    const [left, top] = [this.transform.applyX(x), this.transform.applyY(y)];
    const inside = left >= 0 && top >= 0 && left + WIDTH * k <= this.width && top + HEIGHT * k <= this.height;
    if (inside && k === this.transform.k) return;
    // In the middle, but with no empty margin where there is more of the tree to show.
    const centred = (size, at, extent) => Math.max(Math.min(size / 2 - at * k, MARGIN), Math.min(MARGIN, size - extent * k - MARGIN));
    const { layout } = this;
    this.move(zoomIdentity.translate(centred(this.width, x + WIDTH / 2, layout.width), centred(this.height, y + HEIGHT / 2, layout.height)).scale(k), true);
  }

  fold(id) {
    if (!this.tree.nodes[id].children.length) return;
    if (!this.folded.delete(id)) this.folded.add(id);
    this.arrange();
  }

  /** The node next to the selected one: its parent, best child, or the one above or below at the same depth. */
  neighbour(direction) {
    const place = this.layout.placeOf(this.selected ?? ROOT);
    const here = (one) => one?.data.present;
    if (direction === "left") return place.parent?.data.id;
    if (direction === "right") return place.children?.find(here)?.data.id;
    const column = this.layout.columns[place.depth].filter(here);
    return column[column.indexOf(place) + (direction === "up" ? -1 : 1)]?.data.id;
  }
}
