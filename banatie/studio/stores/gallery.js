/** The pictures that are made: what the address's filters list, what is selected, and changes. */
import { request } from "../api.js";
import { hush, navigate, reconnections, route, say, sayError, session, view } from "../store.js";
import { latest, made, tabs } from "./jobs.js";
import { computed, effect, signal, untracked } from "../vendor/signals-core.js";

export const PAGE = 60;
const AT_ONCE = 4;
const ZIP_PICTURES = 200;
const FILTERS = { q: "q", template: "template", model: "model", flow: "flowId", favourite: "favourite" };

/** A stretch of the list without gaps, newest first. @type {import("../vendor/signals-core.js").Signal<any[]>} */
export const pictures = signal([]);

/** How many pictures the filters list; null until the server has answered. @type {import("../vendor/signals-core.js").Signal<number | null>} */
export const total = signal(null);

/** Whether there are older and newer ones than those that are here. */
export const hasOlder = signal(false);
export const hasNewer = signal(false);

/** The months that have pictures. @type {import("../vendor/signals-core.js").Signal<{ month: string, count: number }[]>} */
export const months = signal([]);

/** The ids of what is selected. @type {import("../vendor/signals-core.js").Signal<Set<string>>} */
export const selected = signal(new Set());

/** The picture that the keyboard is at. */
export const current = signal("");

/** What the address asks for, as the API's parameters. */
const filters = computed(() => {
  const query = new URLSearchParams({ status: "success" });
  for (const [name, parameter] of Object.entries(FILTERS)) {
    const value = route.value.query.get(name);
    if (value) query.set(parameter, value);
  }
  return query.toString();
});

/** The month to begin at, such as 2026-11; empty for the newest. */
const start = computed(() => route.value.query.get("month") ?? "");

/** Whether the address filters at all. */
export const isFiltered = computed(() => filters.value !== "status=success");

let loads = 0;
let anchor = "";
/** Ids that are deleted here, which a late event must not bring back. */
const deleted = new Set();

/** The last change that was made here; null before the first. @type {import("../vendor/signals-core.js").Signal<any>} */
export const lastChange = signal(null);
let changes = 0;
/** By id, the last change and its number; a list that was asked for before it is older. */
const changed = new Map();

const placeOf = (generation) => `${generation.createdAt}_${generation.id}`;

function endOf(month) {
  const [year, number] = month.split("-").map(Number);
  return number === 12 ? `${year + 1}-01` : `${year}-${String(number + 1).padStart(2, "0")}`;
}

/** List anew. */
export async function load() {
  const turn = ++loads;
  const since = changes;
  const before = /^\d{4}-\d\d$/.test(start.value) ? `&before=${endOf(start.value)}-01T00:00:00Z` : "";
  try {
    const [page, counts] = await Promise.all([
      request("GET", `api/v1/generations?${filters.value}&limit=${PAGE}${before}`, undefined, { whole: true }),
      request("GET", `api/v1/generations/months?${filters.value}`),
    ]);
    if (turn !== loads) return;
    const newest = (picture) => {
      const change = changed.get(picture.id);
      return change?.number > since ? { ...picture, ...change.generation } : picture;
    };
    pictures.value = page.data
      .filter(({ id, outputImage }) => outputImage && !deleted.has(id))
      .map(newest);
    total.value = page.pagination.total;
    hasOlder.value = page.pagination.hasMore;
    hasNewer.value = before !== "";
    months.value = counts.months;
  } catch (error) {
    if (turn !== loads) return;
    total.value ??= 0;
    sayError(error);
  }
}

/** Read on to older pictures, or to newer ones. @param {"before" | "after"} direction */
export async function loadMore(direction) {
  const more = direction === "before" ? hasOlder : hasNewer;
  const end = direction === "before" ? pictures.value.at(-1) : pictures.value[0];
  if (!more.value || !end) return;
  const turn = loads;
  more.value = false;
  const path = `api/v1/generations?${filters.value}&limit=${PAGE}&${direction}=${placeOf(end)}`;
  try {
    const page = await request("GET", path, undefined, { whole: true });
    if (turn !== loads) return;
    const known = new Set(pictures.value.map(({ id }) => id));
    const fresh = page.data.filter(({ id, outputImage }) => outputImage && !known.has(id) && !deleted.has(id));
    pictures.value = direction === "before" ? [...pictures.value, ...fresh] : [...fresh, ...pictures.value];
    more.value = page.pagination.hasMore;
  } catch (error) {
    // Scrolling tries again.
    if (turn === loads) more.value = true;
    sayError(error);
  }
}

/** Change a filter in the address; an empty value takes it away. */
export function filter(name, value) {
  const query = new URLSearchParams(route.value.query);
  if (name !== "month") query.delete("month");
  if (value) query.set(name, value);
  else query.delete(name);
  navigate("/", query, { replace: name === "q" });
}

/** Select or leave out one picture; with `isRange`, all from the last one to it. */
export function select(id, isRange = false) {
  const ids = pictures.value.map((picture) => picture.id);
  const next = new Set(selected.value);
  const [from, to] = [ids.indexOf(anchor), ids.indexOf(id)].sort((a, b) => a - b);
  if (isRange && from >= 0) for (const each of ids.slice(from, to + 1)) next.add(each);
  else if (!next.delete(id)) next.add(id);
  anchor = id;
  selected.value = next;
}

/** Select nothing. */
export function clearSelection() {
  anchor = "";
  selected.value = new Set();
}

/** The pictures that are selected, newest first. */
export const selection = computed(() => pictures.value.filter(({ id }) => selected.value.has(id)));

/** Show a change of a generation wherever it is shown. */
export function replace(generation) {
  changed.set(generation.id, { number: ++changes, generation });
  lastChange.value = generation;
  const change = (other) => (other.id === generation.id ? { ...other, ...generation } : other);
  pictures.value = pictures.value.map(change);
  made.value = made.value.map(change);
  if (latest.value) latest.value = change(latest.value);
}

/** Mark generations as favourites, or not; at once, and taken back if the server refuses. */
export async function favourite(generations, isFavourite) {
  for (const generation of generations) replace({ ...generation, favourite: isFavourite });
  const refused = await each(generations, async ({ id }) => {
    await request("PUT", `api/v1/generations/${id}`, { favourite: isFavourite });
    const change = changed.get(id);
    if (change) change.number = ++changes;
  });
  for (const { item, error } of refused) {
    replace(item);
    sayError(error);
  }
  tabs.postMessage({ isGalleryChanged: true });
}

/** Delete into the bin, with the offer to undo it. */
export async function remove(generations) {
  if (!generations.length) return;
  const ids = new Set(generations.map(({ id }) => id));
  takeOut(ids);
  say(generations.length === 1 ? "Deleted" : `${generations.length} pictures deleted`, "Undo", () =>
    restore(generations),
  );
  const refused = await each(generations, ({ id }) =>
    request("DELETE", `api/v1/generations/${id}?soft=true`),
  );
  if (refused.length) {
    putBack(refused.map(({ item }) => item));
    sayError(refused[0].error);
  }
  tabs.postMessage({ isGalleryChanged: true });
}

async function restore(generations) {
  hush();
  const refused = await each(generations, ({ id }) =>
    request("POST", `api/v1/generations/${id}/restore`),
  );
  const gone = new Set(refused.map(({ item }) => item.id));
  putBack(generations.filter(({ id }) => !gone.has(id)));
  if (refused.length) sayError(refused[0].error);
  tabs.postMessage({ isGalleryChanged: true });
}

function takeOut(ids) {
  for (const id of ids) deleted.add(id);
  const stays = ({ id }) => !ids.has(id);
  const before = pictures.value.length;
  pictures.value = pictures.value.filter(stays);
  total.value = Math.max(0, (total.value ?? 0) - (before - pictures.value.length));
  made.value = made.value.filter(stays);
  if (latest.value && ids.has(latest.value.id)) latest.value = null;
  clearSelection();
}

function putBack(generations) {
  for (const { id } of generations) deleted.delete(id);
  insert(generations);
}

function insert(generations) {
  const known = new Set(pictures.value.map(({ id }) => id));
  const fresh = generations.filter(({ id, outputImage }) => outputImage && !known.has(id) && !deleted.has(id));
  if (!fresh.length) return;
  const newestFirst = (a, b) => (placeOf(a) < placeOf(b) ? 1 : -1);
  pictures.value = [...pictures.value, ...fresh].sort(newestFirst);
  total.value = (total.value ?? 0) + fresh.length;
}

/** By id, the last request that changes it. @type {Map<string, Promise<any>>} */
const turns = new Map();

/** Send what changes a picture after what was asked before: requests overtake each other. */
async function inTurn(id, work) {
  const turn = (turns.get(id) ?? Promise.resolve()).then(work, work);
  turns.set(id, turn);
  try {
    return await turn;
  } finally {
    if (turns.get(id) === turn) turns.delete(id);
  }
}

/** Do something with each, a few at a time; what was refused. */
async function each(items, work) {
  const waiting = [...items];
  const refused = [];
  const run = async () => {
    for (let item = waiting.shift(); item; item = waiting.shift()) {
      try {
        await inTurn(item.id, () => work(item));
      } catch (error) {
        refused.push({ item, error });
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, run));
  return refused;
}

/** The paths of the zip files that hold these pictures. */
export function zipPaths(generations) {
  const paths = [];
  for (let first = 0; first < generations.length; first += ZIP_PICTURES) {
    const ids = generations.slice(first, first + ZIP_PICTURES).map(({ id }) => id);
    paths.push(`api/v1/generations/zip?ids=${ids.join(",")}`);
  }
  return paths;
}

effect(() => {
  const isShown = session.value === "in" && view.value === "home";
  if (!isShown || filters.value === null || start.value === null || reconnections.value < 0) return;
  untracked(() => {
    clearSelection();
    load();
  });
});

/** What was just made stands at the head, unless the list begins elsewhere or is filtered. */
effect(() => {
  const fresh = made.value;
  untracked(() => {
    if (!fresh.length || total.value === null || hasNewer.value) return;
    const known = new Set(pictures.value.map(({ id }) => id));
    const isNew = fresh.some(({ id }) => !known.has(id) && !deleted.has(id));
    if (!isFiltered.value) insert(fresh);
    else if (isNew && fresh[0].id !== current.value) load();
  });
});

tabs.addEventListener("message", ({ data }) => {
  if (data.isGalleryChanged && session.value === "in") load();
});
