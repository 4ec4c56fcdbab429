// What every part of the page is built with.
import { named, percent } from "./messages.js";

/** An element with these properties and children. Text goes in as text, never as HTML. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** A list of classes with their ratios (0..1), each as a bar and in figures. */
export function bars(rows) {
  const list = make("ol", { className: "bars" });
  for (const [label, ratio] of rows) {
    const bar = make("span", { className: "bar", ariaHidden: "true" });
    bar.style.setProperty("--ratio", ratio);
    list.append(make("li", {}, make("span", { className: "label" }, named(label)), bar, make("b", {}, percent(ratio))));
  }
  return list;
}
