// Asks the service, with the API key of this tab, and turns failures into sentences.
import { t } from "./messages.js";

const KEY = "cifar-api-key";
let key = "";
try {
  key = sessionStorage.getItem(KEY) ?? "";
} catch {
  // the browser stores nothing for this page: the key lasts until the page is left
}

/** Why there is no answer: the message is for people; `status` is HTTP's, or 0 where there was no answer at all. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const rememberedKey = () => key;

/** Keeps the key for this tab, until it is closed; without what is not visible ASCII, which a header cannot hold. */
export function rememberKey(typed) {
  key = typed.replace(/[^\x21-\x7e]/g, "");
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // as above
  }
}

/** The service's answer to a GET, or to a POST of the body. Throws a Refusal. */
export async function ask(path, body, signal) {
  const options = { method: body ? "POST" : "GET", body, signal, headers: key ? { "X-API-Key": key } : {} };
  const answer = await fetch(path, options).catch(() => { throw new Refusal(0, t("down")); });
  if (answer.ok) return answer;
  const status = answer.status;
  if (status === 401) throw new Refusal(status, t("unauthorized"));
  const { detail } = await answer.json().catch(() => ({})); // a proxy's own page is not JSON
  throw new Refusal(status, detail ? t("refused", { detail }) : t("failed", { status }));
}
