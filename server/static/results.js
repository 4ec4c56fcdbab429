// One picture: as sent, as the model sees it, what the model says and, on demand, which parts led to the answer.
import { Refusal, ask } from "./api.js";
import { bars, make } from "./dom.js";
import { named, number, percent, t } from "./messages.js";

const ORANGE = [235, 97, 0];
const BLUE = [30, 100, 235];
const UNPROCESSABLE = 422;
const HOPELESS = [413, 415, UNPROCESSABLE]; // statuses of a picture that will be refused again
const LEAST = 1; // the smallest fall of log-odds that is drawn in full colour

/** An element for a picture file, which fills itself. It fires `answer` or `refusal`, with what to read out. */
export function resultCard(file) {
  const pictures = make("div", { className: "pictures" }, figure(sentPicture(file), t("sent")));
  const words = make("div", { className: "words" });
  const card = make("li", { className: "result" }, pictures, words);
  fill(card, file, pictures, words);
  return card;
}

async function fill(card, file, pictures, words) {
  words.replaceChildren(make("p", { className: "faint" }, t("asking")));
  try {
    await file.slice(0, 1).arrayBuffer().catch(() => { throw new Refusal(UNPROCESSABLE, t("unreadable")); });
    const started = performance.now();
    // A large picture travels once: what comes back passes the model's decoder untouched.
    const seen = await (await ask("preview", file)).blob();
    const answer = await (await ask("predict?top_k=10", seen)).json();
    const ms = number(performance.now() - started, 1);
    await showAnswer(pictures, words, seen, answer, t("took", { file: file.name, ms, version: answer.model.version }));
    const said = t("answered", { file: file.name, label: named(answer.label), sure: howSure(answer) });
    tell(card, "answer", { said, version: answer.model.version });
  } catch (problem) {
    showProblem(words, problem, file.name, () => fill(card, file, pictures, words));
    tell(card, "refusal", { said: t("refusedFile", { file: file.name, why: problem.message }), status: problem.status });
  }
}

function tell(card, type, detail) {
  card.dispatchEvent(new CustomEvent(type, { bubbles: true, detail }));
}

function showProblem(words, problem, name, again) {
  words.replaceChildren(make("p", { className: "problem" }, problem.message), make("p", { className: "faint details" }, name));
  if (HOPELESS.includes(problem.status)) return;
  words.append(make("button", { type: "button", className: "button", onclick: again }, t("retry")));
}

async function showAnswer(pictures, words, seen, answer, details) {
  const picture = make("img", { src: URL.createObjectURL(seen), alt: "", className: "seen" });
  await picture.decode();
  pictures.append(figure(picture, t("seen", { size: picture.naturalWidth })), whyFigure(seen, picture.src, pictures));
  const headline = make("h3", {}, named(answer.label), " ", make("span", { className: "faint" }, howSure(answer)));
  const ranked = bars(answer.top.map(({ label, probability }) => [label, probability]));
  words.replaceChildren(headline, ranked, make("p", { className: "faint details" }, details));
}

function howSure({ confidence, uncertain }) {
  return percent(confidence) + (uncertain ? `, ${t("uncertain")}` : "");
}

function figure(content, caption) {
  return make("figure", {}, make("div", { className: "tile" }, content), make("figcaption", {}, caption));
}

function sentPicture(file) {
  const picture = make("img", { src: URL.createObjectURL(file), alt: file.name, decoding: "async" });
  picture.onerror = () => picture.replaceWith(make("p", { className: "faint" }, t("hidden")));
  return picture;
}

function whyFigure(seen, source, pictures) {
  const button = make("button", { type: "button", className: "why" }, t("explain"));
  const shown = make("figure", {}, make("div", { className: "tile" }, button));
  button.onclick = async () => {
    button.disabled = true;
    button.textContent = t("explaining");
    try {
      const explained = await (await ask("explain", seen)).json();
      const picture = make("img", { src: source, alt: "", className: "seen grey" });
      const tile = make("div", { className: "tile" }, picture, heat(explained));
      shown.replaceChildren(tile, make("figcaption", {}, t("why", { label: named(explained.label) })));
      say(pictures, whatSpoke(explained), "faint");
    } catch (problem) {
      button.disabled = false;
      button.textContent = t("explain");
      say(pictures, problem.message, "problem");
    }
  };
  return shown;
}

/** Shows text under the pictures. It takes the focus from the button, so that it is read out. */
function say(pictures, text, className) {
  pictures.querySelector(".said")?.remove();
  const said = make("p", { className: `said ${className}`, tabIndex: -1 }, text);
  pictures.append(said);
  said.focus({ preventScroll: true });
}

function whatSpoke({ label, probability, covered }) {
  return t("spoke", { label: named(label), from: percent(probability), to: percent(Math.min(...covered.flat())) });
}

/** Draws how much the log-odds fall where each place is covered: a sure network's probability would hardly move. */
function heat({ probability, covered }) {
  const canvas = make("canvas", { width: covered[0].length, height: covered.length, ariaHidden: "true" });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  const falls = covered.flat().map((left) => logOdds(probability) - logOdds(left));
  const strongest = Math.max(LEAST, ...falls.map(Math.abs));
  falls.forEach((fall, place) => {
    pixels.data.set([...(fall > 0 ? ORANGE : BLUE), (220 * Math.abs(fall)) / strongest], 4 * place);
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function logOdds(probability) {
  const within = Math.min(Math.max(probability, 1e-6), 1 - 1e-6); // six digits are what the service sends
  return Math.log(within / (1 - within));
}
