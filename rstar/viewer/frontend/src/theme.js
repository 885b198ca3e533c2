// Colours for the canvas, from the style sheet's variables, and the scale from low to high Q: orange to blue, which every
// kind of colour vision tells apart. No meaning rests on colour alone: verdicts have signs, Q-values are written out.

import { interpolateRgb, piecewise, quantize } from "d3-interpolate";

const LEVELS = 41;
const NAMES = ["page", "card", "ink", "soft", "line", "accent", "right", "wrong", "dead", "answer", "hit", "q-low", "q-mid", "q-high"];

export class Theme {
  constructor() {
    const style = getComputedStyle(document.documentElement);
    for (const name of NAMES) this[name] = style.getPropertyValue(`--${name}`).trim();
    this.qColours = quantize(piecewise(interpolateRgb, [this["q-low"], this["q-mid"], this["q-high"]]), LEVELS);
    this.qTints = this.qColours.map((colour) => interpolateRgb(this.card, colour)(0.16));
  }

  level(q) {
    return Math.round(((Math.max(-1, Math.min(1, q)) + 1) / 2) * (LEVELS - 1));
  }

  /** Colour of a node's Q-value; grey if it has none. */
  q(node) {
    return node.n ? this.qColours[this.level(node.q)] : this.line;
  }

  tint(node) {
    return node.n ? this.qTints[this.level(node.q)] : this.card;
  }
}
