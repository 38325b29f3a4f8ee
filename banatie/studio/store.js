/** What the whole page knows: the session, the route, the server's capabilities, and its word. */
import { ApiError, address, request, watchAnswers } from "./api.js";
import { computed, effect, signal } from "./vendor/signals-core.js";

const CHECK_MILLISECONDS = 1500;
const TOAST_MILLISECONDS = 8000;

/** What `/api/info` says; null until it has answered. @type {import("./vendor/signals-core.js").Signal<any>} */
export const info = signal(null);

/** "unknown" until the server has answered, then "in" or "out". */
export const session = signal("unknown");

/** Whether the server answers. */
export const isOnline = signal(true);

/** Counts the times that the server came back after it had been gone. */
export const reconnections = signal(0);

/** @typedef {{ text: string, action?: string, act?: () => void }} Toast */
/** A word at the bottom of the page, with something to do about it. @type {import("./vendor/signals-core.js").Signal<Toast | null>} */
export const toast = signal(null);

/** The address: the path after `#` in its parts, and the parameters. */
export const route = signal(parseRoute());

/** The view: "home" (Make and Gallery, with a picture open or not) or "machine". */
export const view = computed(() => (route.value.parts[0] === "machine" ? "machine" : "home"));

/** "auto", "light" or "dark". */
export const theme = signal(remembered("banatie.theme", "auto"));

let toastTimer = 0;

function parseRoute() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return {
    parts: path.split("/").filter(Boolean).map(decoded),
    query: new URLSearchParams(query),
  };
}

/**
 * Go to a path such as `/picture/ID`, keeping the parameters unless others are given.
 * @param {string} path
 * @param {URLSearchParams} [query]
 * @param {{ replace?: boolean }} [options] `replace`: without an entry in the history
 */
export function navigate(path, query = route.value.query, { replace = false } = {}) {
  const text = query.toString();
  history[replace ? "replaceState" : "pushState"](null, "", `#${path}${text ? `?${text}` : ""}`);
  route.value = parseRoute();
}

/** The address of a path, for links. */
export function linkTo(path) {
  return `#${path}`;
}

/** Say a word for eight seconds. */
export function say(text, action, act) {
  clearTimeout(toastTimer);
  toast.value = { text, action, act };
  toastTimer = setTimeout(() => (toast.value = null), TOAST_MILLISECONDS);
}

/** Say what went wrong. */
export function sayError(error) {
  say(error instanceof ApiError ? error.message : String(error));
}

/** Take the word away. */
export function hush() {
  clearTimeout(toastTimer);
  toast.value = null;
}

/** Enter with `{ token }` or `{ apiKey }`. Raises ApiError. */
export async function signIn(credentials) {
  await request("POST", "api/v1/sessions", credentials);
  await loadInfo();
}

/** End this session. */
export async function signOut() {
  await request("DELETE", "api/v1/sessions/current");
  session.value = "out";
}

/** Ask the server what it can do, and whether there is a session. Raises ApiError. */
export async function loadInfo() {
  info.value = await request("GET", "api/info");
  session.value = info.value.key ? "in" : "out";
}

/** Begin: with the token of the address if there is one, else with the session's cookie. */
export async function start() {
  const token = /^#token=([^&]+)/.exec(location.hash)?.[1];
  if (token) {
    history.replaceState(null, "", location.pathname + location.search + "#/");
    route.value = parseRoute();
    try {
      await signIn({ token: decoded(token) });
      return;
    } catch (error) {
      sayError(error);
    }
  }
  await loadInfo().catch(() => {});
}

/**
 * The address of a picture on this server, in the size that is needed.
 * @param {{ id: string, storageUrl: string }} image
 * @param {number} [width] in pixels; left out, the file itself
 */
export function pictureUrl(image, width) {
  const key = info.value?.key;
  if (width && key) {
    const path = `cdn/${key.organization}/${key.project}/img/${image.id}`;
    return address(`${path}?w=${width}&format=webp`).href;
  }
  // The server's public address may be another than the one that this page was opened at.
  const path = new URL(image.storageUrl).pathname;
  return address(path.slice(path.indexOf("/storage/") + 1)).href;
}

/** A value that this browser keeps, or `otherwise`. */
export function remembered(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(name) ?? "null") ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** Keep a value in this browser; without storage it is forgotten with the page. */
export function remember(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch {
    // Storage is full or forbidden: nothing but comfort depends on it.
  }
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

addEventListener("hashchange", () => (route.value = parseRoute()));
addEventListener("popstate", () => (route.value = parseRoute()));

watchAnswers((error) => {
  const answers = error === null || error.status !== 0;
  if (answers && !isOnline.value) reconnections.value++;
  isOnline.value = answers;
  if (error?.status === 401) session.value = "out";
});

effect(() => {
  if (isOnline.value) return undefined;
  const timer = setInterval(() => loadInfo().catch(() => {}), CHECK_MILLISECONDS);
  return () => clearInterval(timer);
});

effect(() => {
  remember("banatie.theme", theme.value);
  document.documentElement.dataset.theme = theme.value;
});
