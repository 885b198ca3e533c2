// The whole tree in a strip, each direction at its own scale, with a frame around what is in sight; drag to go there.

import { HEIGHT, WIDTH } from "./layout.js";
import { verdict } from "./model.js";

const MAP_WIDTH = { desk: 92, phone: 50 };
const PADDING = 4;
const PHONE = "(max-width: 760px)";

export class Minimap {
  /** `go(x, y)`: bring this point of the tree to the middle of the view. */
  constructor(canvas, go) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.picture = document.createElement("canvas");
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    for (const name of ["pointerdown", "pointermove"])
      canvas.addEventListener(name, (event) => {
        if (event.buttons & 1) go((event.offsetX - PADDING) / this.scaleX, (event.offsetY - PADDING) / this.scaleY);
      });
  }

  /** Draw the tree anew in a strip `height` pixels high; the frame follows with `frame`. */
  draw(layout, theme, height) {
    const room = height - 2 * PADDING;
    const ratio = devicePixelRatio;
    const width = (this.width = matchMedia(PHONE).matches ? MAP_WIDTH.phone : MAP_WIDTH.desk);
    this.scaleX = width / layout.width;
    this.scaleY = Math.min(room / layout.height, this.scaleX * 2);
    this.height = Math.ceil(layout.height * this.scaleY);
    for (const canvas of [this.canvas, this.picture]) {
      canvas.width = width * ratio;
      canvas.height = room * ratio;
    }
    const context = this.picture.getContext("2d");
    context.scale(ratio, ratio);
    const rowHeight = Math.max(1, HEIGHT * this.scaleY);
    for (const column of layout.columns) {
      let drawn = -1;
      for (const { x, y, data: node } of column) {
        const row = Math.round(y * this.scaleY * ratio);
        const right = verdict(node) === "right" || layout.tree.onBest.has(node.id);
        if (!node.present || (row === drawn && !right)) continue;
        drawn = row;
        context.fillStyle = layout.tree.onBest.has(node.id) ? theme.accent : right ? theme.right : theme.q(node);
        context.fillRect(x * this.scaleX, row / ratio, Math.max(2, WIDTH * this.scaleX), rowHeight);
      }
    }
    this.theme = theme;
  }

  frame(transform, width, height) {
    const { context, theme } = this;
    const ratio = devicePixelRatio;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.drawImage(this.picture, 0, 0);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const left = transform.invertX(0) * this.scaleX;
    const top = transform.invertY(0) * this.scaleY;
    const right = transform.invertX(width) * this.scaleX;
    const bottom = Math.min(Math.max(transform.invertY(height) * this.scaleY, top + 3), this.height - 1);
    context.strokeStyle = theme.ink;
    context.lineWidth = 1.5;
    context.strokeRect(Math.max(1, left), Math.max(1, top), Math.min(this.width - 1, right) - Math.max(1, left), bottom - Math.max(1, top));
  }
}
