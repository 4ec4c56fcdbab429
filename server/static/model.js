// The model's card: what it is, what it scored, class by class.
import { ask } from "./api.js";
import { bars, make } from "./dom.js";
import { named, number, percent, t } from "./messages.js";

const LARGEST_MATRIX = 50; // classes; of 1,000 it would have a million cells

/** Asks for the card and shows it. Returns the version shown. Throws a Refusal. */
export async function showModel() {
  const { model, card } = await (await ask("card")).json();
  const section = document.getElementById("model");
  const parts = card.scores ? scores(card.scores, card.classes) : [make("p", {}, t("unscored"))];
  section.querySelector("div").replaceChildren(...parts, facts(model, card));
  section.hidden = false;
  return model.version;
}

function scores({ n, accuracy, interval: [low, high], per_class, confusion }, classes) {
  const parts = [
    make("p", { className: "score" }, percent(accuracy)),
    make("p", {}, t("accuracy", { n: number(n) })),
    make("p", { className: "faint" }, t("interval", { low: percent(low), high: percent(high) })),
    make("h3", {}, t("perClass")),
    bars(classes.map((label) => [label, per_class[label] ?? 0])),
  ];
  if (classes.length > LARGEST_MATRIX) parts.push(make("p", { className: "faint" }, t("confusionElsewhere")));
  if (!confusion.length || classes.length > LARGEST_MATRIX) return [make("div", {}, ...parts)];
  const help = make("p", { className: "faint" }, t("confusionHelp"));
  return [make("div", {}, ...parts), make("div", {}, make("h3", {}, t("confusion")), help, matrix(confusion, classes))];
}

function matrix(confusion, classes) {
  const heading = (label, scope) => make("th", { scope }, make("span", {}, label));
  const head = make("tr", {}, make("td"), ...classes.map((label) => heading(label, "col")));
  const rows = confusion.map((row, shown) => {
    const images = row.reduce((sum, count) => sum + count, 0);
    const cells = row.map((count, said) => {
      const cell = make("td", { className: said === shown ? "right" : "" }, count ? number(count) : "");
      cell.style.setProperty("--ratio", images ? count / images : 0);
      return cell;
    });
    return make("tr", {}, heading(named(classes[shown]), "row"), ...cells);
  });
  const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
  return make("div", { className: "scrolls", tabIndex: 0, role: "region", ariaLabel: t("confusion") }, table);
}

function facts(model, { architecture, input_size, training, scores }) {
  const rows = [
    [t("name"), `${model.name} ${model.version}`],
    [t("architecture"), architecture],
    [t("input"), t("pixels", { size: input_size })],
  ];
  if (training) {
    const { images, data, seconds, hardware } = training;
    rows.push([t("trained"), t("trainedOn", { n: number(images), data, minutes: number(seconds / 60, seconds < 600 ? 1 : 0), hardware })]);
  }
  if (scores) rows.push([t("calibration"), t("calibrationHelp", { error: percent(scores.calibration_error) })]);
  const list = make("dl", { className: "facts" });
  for (const [name, value] of rows) list.append(make("div", {}, make("dt", {}, name), make("dd", {}, value)));
  return list;
}
