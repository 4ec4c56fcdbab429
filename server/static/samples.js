// Pictures to try: our drawings, or those of the service's --samples folder.
import { ask } from "./api.js";
import { make } from "./dom.js";

/** Shows them as buttons, once; `choose` gets the file of one that is pressed. Throws a Refusal. */
export async function showSamples(choose) {
  const section = document.getElementById("samples");
  if (!section.hidden) return; // new buttons would take the focus from the old ones, and keep their pictures in memory
  const names = await (await ask("samples")).json();
  const buttons = await Promise.all(names.map((name) => sampleButton(name, choose).catch(() => "")));
  section.querySelector("ul").replaceChildren(...buttons);
  section.hidden = !names.length;
}

async function sampleButton(name, choose) {
  const blob = await (await ask(`samples/${name.split("/").map(encodeURIComponent).join("/")}`)).blob();
  const picture = make("img", { src: URL.createObjectURL(blob), alt: name.replace(/\.\w+$/, "") });
  await picture.decode();
  const file = await asFile(name, blob, picture); // now, so that pictures pressed one after another keep their order
  return make("li", {}, make("button", { type: "button", onclick: () => choose(file) }, picture));
}

/** A drawing (SVG) becomes a PNG: the model needs pixels. */
async function asFile(name, blob, picture) {
  if (blob.type !== "image/svg+xml") return new File([blob], name);
  const canvas = make("canvas", { width: picture.naturalWidth, height: picture.naturalHeight });
  canvas.getContext("2d").drawImage(picture, 0, 0);
  const png = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return new File([png], name.replace(/svg$/, "png"));
}
