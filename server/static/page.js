// Takes pictures in, keeps the API key of this tab, and shows answers, the model's card and the service's figures.
import { rememberKey, rememberedKey } from "./api.js";
import { t, translate } from "./messages.js";
import { showModel } from "./model.js";
import { resultCard } from "./results.js";
import { showSamples } from "./samples.js";
import { watch } from "./strip.js";

const UNAUTHORIZED = 401;
const element = (id) => document.getElementById(id);
let version = null; // of the model whose card is shown

translate();
takePictures();
takeAnswers();
keepKey();
watch(load);

function takePictures() {
  const drop = element("drop");
  for (const input of drop.querySelectorAll("input")) {
    input.onchange = () => {
      classify(input.files);
      input.value = ""; // the same file may be chosen again
    };
  }
  document.ondragover = (event) => {
    event.preventDefault(); // else the browser leaves the page for the picture
    drop.classList.add("over");
  };
  document.ondragleave = (event) => drop.classList.toggle("over", event.relatedTarget !== null);
  document.ondrop = (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    classify(event.dataTransfer.files);
  };
  document.onpaste = (event) => {
    if (event.target !== element("key")) classify(event.clipboardData.files);
  };
}

function classify(files) {
  complain(files.length ? "" : t("nofile"));
  if (!files.length) return;
  const cards = [...files].map(resultCard);
  element("results").prepend(...cards);
  cards[0].scrollIntoView({ block: "nearest" });
}

function takeAnswers() {
  const results = element("results");
  results.addEventListener("answer", ({ detail }) => {
    element("announcer").textContent = detail.said;
    if (detail.version !== version) version = null; // the model has changed: load() fetches its card
    if (element("key").ariaInvalid) acceptKey(); // it was refused by a process that had not read it yet
  });
  results.addEventListener("refusal", ({ detail }) => {
    element("announcer").textContent = detail.said;
    if (detail.status === UNAUTHORIZED) wantKey();
  });
}

function keepKey() {
  element("key").value = rememberedKey();
  element("key").onchange = () => {
    rememberKey(element("key").value);
    acceptKey();
  };
}

function acceptKey() {
  element("key").ariaInvalid = null;
  version = null;
  load();
}

function wantKey() {
  element("key").ariaInvalid = "true";
  element("key").focus();
}

function complain(text) {
  if (element("problem").textContent !== text) element("problem").textContent = text; // else it is read out again
  element("problem").hidden = !text;
}

/** Shows the card and the samples, unless they are shown already, or a key is needed first. */
async function load() {
  if (version !== null || element("key").ariaInvalid) return;
  try {
    await showSamples((file) => classify([file]));
    version = await showModel();
    complain("");
  } catch (problem) {
    complain(problem.message);
    if (problem.status === UNAUTHORIZED) wantKey();
  }
}
