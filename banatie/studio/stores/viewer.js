/** The picture that is open: its record, its name, its neighbours, and what it is compared with. */
import { address, request } from "../api.js";
import { info, navigate, route, say, sayError, session } from "../store.js";
import { requestFor } from "./draft.js";
import { made, submit } from "./jobs.js";
import { hasOlder, lastChange, loadMore, pictures } from "./gallery.js";
import { computed, effect, signal, untracked } from "../vendor/signals-core.js";

const NEAR_END = 5;
const SEARCH_WORDS = 8;
const SEARCH_CHARACTERS = 190;

/** The id that the address names; empty while no picture is open. */
export const openId = computed(() => {
  const [kind, id] = route.value.parts;
  return kind === "picture" && session.value === "in" ? (id ?? "") : "";
});

const fetched = signal(/** @type {any} */ (null));
const fetchedOther = signal(/** @type {any} */ (null));

/** The image's row, which knows its alias. */
export const image = signal(/** @type {any} */ (null));

/** Why the picture cannot be shown. */
export const problem = signal("");

/** What else was painted from the same words or seed, to be compared with. */
export const counterpart = signal(/** @type {any} */ (null));

const known = (id) => [...pictures.value, ...made.value].find((picture) => picture.id === id);

/** The generation that is open. */
export const opened = computed(() => {
  const id = openId.value;
  return known(id) ?? (fetched.value?.id === id ? fetched.value : null);
});

/** The generation beside it in the comparison, if the address names one. */
export const other = computed(() => {
  const id = openId.value && route.value.query.get("with");
  if (!id) return null;
  return known(id) ?? (fetchedOther.value?.id === id ? fetchedOther.value : null);
});

/** The ids of the pictures before and after it in the list. */
export const neighbours = computed(() => {
  const index = pictures.value.findIndex((picture) => picture.id === openId.value);
  if (index < 0) return { newer: "", older: "" };
  return { newer: pictures.value[index - 1]?.id ?? "", older: pictures.value[index + 1]?.id ?? "" };
});

function queryWithout(name) {
  const query = new URLSearchParams(route.value.query);
  query.delete(name);
  return query;
}

/** Show another picture of the list, in place of this one. */
export function goTo(id) {
  if (id) navigate(`/picture/${id}`, queryWithout("with"), { replace: true });
}

/** Back to the list. */
export function close() {
  navigate("/", queryWithout("with"));
}

/** Compare with this generation; without one, end the comparison. */
export function compareWith(id) {
  const query = queryWithout("with");
  if (id) query.set("with", id);
  navigate(`/picture/${openId.value}`, query, { replace: true });
}

/** Make it with changes, and say so. */
export async function makeLike(generation, changes, word) {
  try {
    await submit([requestFor(generation, changes)]);
    say(word, "Show", close);
  } catch (error) {
    sayError(error);
  }
}

/** Give the image a name in the project, or none. Raises ApiError. @param {string | null} alias */
export async function nameImage(alias) {
  image.value = await request("PUT", `api/v1/images/${image.value.id}/alias`, { alias });
}

/** Where the picture is downloaded in a format. */
export function downloadUrl(generation, format) {
  const { organization, project } = info.value.key;
  return address(`cdn/${organization}/${project}/img/${generation.outputImage.id}?format=${format}`).href;
}

function json(value) {
  return JSON.stringify(value, null, 2);
}

/** The request that makes the picture, for a shell. */
export function asCurl(generation) {
  const body = json(requestFor(generation)).replaceAll("'", "'\\''");
  return `curl ${address("api/v1/generations").href} \\
  -H "X-API-Key: $BANATIE_KEY" -H 'Content-Type: application/json' -H 'Prefer: wait=120' \\
  -d '${body}'
`;
}

/** The request that makes the picture, in Python with its standard library. */
export function asPython(generation) {
  return `import json
import os
import urllib.request

request = urllib.request.Request(
    ${JSON.stringify(address("api/v1/generations").href)},
    data=rb"""${asciiJson(requestFor(generation))}""",
    headers={
        "X-API-Key": os.environ["BANATIE_KEY"],
        "Content-Type": "application/json",
        "Prefer": "wait=120",
    },
)
with urllib.request.urlopen(request) as response:
    print(json.load(response)["data"]["outputImage"]["storageUrl"])
`;
}

/** JSON of ASCII alone, which a raw Python string holds as it is. */
function asciiJson(value) {
  return json(value).replace(
    /[^\x20-\x7e\n]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** Put a text on the clipboard, and say so. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`${what} copied`);
  } catch {
    say("This browser lets nothing be copied here: open the page at localhost or over HTTPS");
  }
}

async function fetchInto(target, id) {
  try {
    target.value = await request("GET", `api/v1/generations/${id}`);
  } catch (error) {
    if (openId.value === id) problem.value = error.message;
    else sayError(error);
  }
}

async function findCounterpart(generation) {
  const words = generation.originalPrompt.match(/[\p{L}\p{N}]+/gu) ?? [];
  const search = words.slice(0, SEARCH_WORDS).join(" ").slice(0, SEARCH_CHARACTERS);
  if (!search) return;
  const query = new URLSearchParams({ status: "success", limit: "100", q: search });
  const found = await request("GET", `api/v1/generations?${query}`).catch(() => []);
  if (openId.value !== generation.id) return;
  const alike = found.filter(
    (each) =>
      each.id !== generation.id &&
      each.outputImage &&
      each.aspectRatio === generation.aspectRatio &&
      each.originalPrompt === generation.originalPrompt,
  );
  const isOtherWay = (each) => each.seed === generation.seed && each.autoEnhance !== generation.autoEnhance;
  counterpart.value = alike.find(isOtherWay) ?? alike.find((each) => each.seed === generation.seed) ?? null;
}

effect(() => {
  const id = openId.value;
  untracked(() => {
    problem.value = "";
    image.value = null;
    counterpart.value = null;
    if (id && !known(id)) fetchInto(fetched, id);
    const index = pictures.value.findIndex((picture) => picture.id === id);
    if (index >= 0 && index >= pictures.value.length - NEAR_END && hasOlder.value) loadMore("before");
  });
});

effect(() => {
  const change = lastChange.value;
  untracked(() => {
    for (const one of [fetched, fetchedOther]) {
      if (change && one.value?.id === change.id) one.value = { ...one.value, ...change };
    }
  });
});

effect(() => {
  const id = openId.value && route.value.query.get("with");
  if (id) untracked(() => known(id) || fetchInto(fetchedOther, id));
});

const imageId = computed(() => opened.value?.outputImage?.id ?? "");

effect(() => {
  const id = imageId.value;
  if (!id) return;
  untracked(() => {
    request("GET", `api/v1/images/${id}`)
      .then((found) => imageId.value === id && (image.value = found))
      .catch(sayError);
    findCounterpart(opened.value);
  });
});
