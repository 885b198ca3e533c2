// Elements from values. Text is always text: nothing here, or anywhere in the page, reads HTML from a tree.

/** An element with properties (`style` and `dataset` take objects) and children: elements, texts, or null for none. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "style" || name === "dataset") Object.assign(element[name], value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}
