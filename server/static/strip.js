// The service's own figures: the differences between two looks at its Prometheus metrics.
import { ask } from "./api.js";
import { number, t } from "./messages.js";

const EVERY_MS = 2000;
const WINDOW_MS = 10_000;
const ASKS_THE_MODEL = /route="[^"]*(predict|infer)"/;

/** Looks for ever, while the tab is visible. Calls `onAnswer` after every look that the service answered. */
export async function watch(onAnswer) {
  for (let looks = []; ; await new Promise((resolve) => setTimeout(resolve, EVERY_MS))) {
    if (document.hidden) continue;
    let down = false;
    try {
      looks = await lookAgain(looks);
      tell("", down);
    } catch (refusal) {
      looks = [];
      down = refusal.status === 0;
      tell(down ? refusal.message : t("nofigures"), down);
    }
    show(looks);
    if (!down) await onAnswer();
  }
}

/** The looks of the last seconds and a new one, without those from before the service was restarted. */
async function lookAgain(looks) {
  const answer = await ask("metrics", undefined, AbortSignal.timeout(5 * EVERY_MS));
  const look = read(await answer.text());
  const isOfUse = (earlier) => look.at - earlier.at < WINDOW_MS && earlier.requests <= look.requests;
  return [...looks.filter(isOfUse), look];
}

function tell(text, bad) {
  const health = document.getElementById("health");
  health.classList.toggle("problem", bad);
  if (health.textContent !== text) health.textContent = text; // else it is read out again
}

/** Prometheus's text → {at (ms), requests, images, batches, buckets: Map of upper bounds (s) to requests within}. */
function read(text) {
  const look = { at: performance.now(), requests: 0, images: 0, batches: 0, buckets: new Map() };
  for (const [, name, labels = "", text_value] of text.matchAll(/^cifar_(\w+)(\{.*\})? (\S+)/gm)) {
    const value = Number(text_value);
    if (name === "batch_size_images_sum") look.images = value;
    if (name === "batch_size_images_count") look.batches = value;
    if (!ASKS_THE_MODEL.test(labels)) continue;
    if (name === "requests_total") look.requests += value;
    if (name === "request_duration_seconds_bucket") {
      const bound = Number(/le="([^"]+)"/.exec(labels)[1].replace("+Inf", "Infinity"));
      look.buckets.set(bound, (look.buckets.get(bound) ?? 0) + value);
    }
  }
  return look;
}

function show(looks) {
  const figures = document.getElementById("figures");
  figures.hidden = !looks.length;
  if (!looks.length) return;
  const [earlier, look] = [looks[0], looks.at(-1)];
  const requests = look.requests - earlier.requests;
  const batches = look.batches - earlier.batches;
  const shown = [
    number((1000 * requests) / Math.max(look.at - earlier.at, 1), 1),
    batches ? number((look.images - earlier.images) / batches, 1) : "–",
    requests ? milliseconds(quantile(0.5, earlier, look)) : "–",
    requests ? milliseconds(quantile(0.99, earlier, look)) : "–",
  ];
  figures.querySelectorAll("dd").forEach((figure, place) => { figure.textContent = shown[place]; });
}

const milliseconds = (seconds) => `${number(1000 * seconds, seconds < 0.01 ? 1 : 0)} ms`;

/** Seconds in which that part (0..1) of the requests between two looks was answered, interpolated as by Prometheus. */
function quantile(part, earlier, look) {
  const bounds = [...look.buckets.keys()].sort((a, b) => a - b);
  const within = bounds.map((bound) => look.buckets.get(bound) - (earlier.buckets.get(bound) ?? 0));
  const rank = part * within.at(-1);
  const place = within.findIndex((count) => count >= rank);
  const [low, below] = place ? [bounds[place - 1], within[place - 1]] : [0, 0];
  if (bounds[place] === Infinity) return low;
  return low + ((bounds[place] - low) * (rank - below)) / (within[place] - below);
}
