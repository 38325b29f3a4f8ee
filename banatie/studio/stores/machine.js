/** What the machine's page shows, and what can be done there. It is watched while it is open. */
import { request } from "../api.js";
import { info, loadInfo, say, sayError } from "../store.js";
import { computed, signal } from "../vendor/signals-core.js";

const QUICK_MILLISECONDS = 1000;
const CALM_MILLISECONDS = 4000;

/** `/api/admin/machine`; null until it has answered. @type {import("../vendor/signals-core.js").Signal<any>} */
export const machine = signal(null);
/** `/api/admin/models`. @type {import("../vendor/signals-core.js").Signal<any>} */
export const models = signal(null);
/** The downloads and imports, newest first. @type {import("../vendor/signals-core.js").Signal<any[]>} */
export const installations = signal([]);
/** The keys that are neither revoked nor expired. @type {import("../vendor/signals-core.js").Signal<any[]>} */
export const keys = signal([]);
/** The browsers that are signed in. @type {import("../vendor/signals-core.js").Signal<any[]>} */
export const sessions = signal([]);
/** The doctor's findings; null until he was asked. @type {import("../vendor/signals-core.js").Signal<any>} */
export const findings = signal(null);
export const isExamining = signal(false);
/** A key that was just made: its text is shown this once. @type {import("../vendor/signals-core.js").Signal<any>} */
export const newKey = signal(null);

/** Whether this session may look after the machine. */
export const isOwner = computed(() => info.value?.key?.type === "master");

const isInstalling = computed(() =>
  installations.value.some((each) => ["waiting", "running"].includes(each.state)),
);
/** The model that is chosen while the workers still have another one; empty if they agree. */
export const loading = computed(() => {
  const chosen = models.value?.models.find((each) => each.kind === "painting" && each.inUse)?.name;
  const loaded = machine.value?.workers.map((each) => each.paintingModel) ?? [];
  return chosen && loaded.some((name) => name !== chosen) ? chosen : "";
});

let timer = 0;

/** Ask again and again until the function that is returned is called. */
export function watch() {
  let isOver = false;
  if (!isOwner.value) return () => {};
  const turn = async () => {
    if (!document.hidden) await look();
    const wait = isInstalling.value || loading.value ? QUICK_MILLISECONDS : CALM_MILLISECONDS;
    if (!isOver) timer = setTimeout(turn, wait);
  };
  turn();
  loadAccess();
  return () => {
    isOver = true;
    clearTimeout(timer);
    newKey.value = null;
  };
}

async function look() {
  const wasInstalling = isInstalling.value;
  try {
    [machine.value, installations.value] = await Promise.all([
      request("GET", "api/admin/machine"),
      request("GET", "api/admin/models/installations"),
    ]);
    if (models.value === null || loading.value || wasInstalling !== isInstalling.value) {
      await loadModels();
    }
  } catch {
    // The bar says that the server is away, and the next turn comes.
  }
}

async function loadModels() {
  models.value = await request("GET", "api/admin/models");
  await loadInfo();
}

async function loadAccess() {
  try {
    const [all, signedIn] = await Promise.all([
      request("GET", "api/admin/keys?limit=100"),
      request("GET", "api/v1/sessions"),
    ]);
    keys.value = all.filter((each) => each.isActive);
    sessions.value = signedIn;
  } catch (error) {
    sayError(error);
  }
}

/** Paint with another model; shown at once, and taken back if the server refuses. */
export async function use(name) {
  const before = models.value;
  const switched = (each) => (each.kind === "painting" ? { ...each, inUse: each.name === name } : each);
  models.value = { ...before, models: before.models.map(switched) };
  try {
    await request("PUT", "api/admin/models/painting", { name });
    await loadModels();
  } catch (error) {
    models.value = before;
    sayError(error);
  }
}

/** Download or import a model, as the API's body says; what is wrong with it, or "". */
export async function install(body) {
  try {
    const row = await request("POST", "api/admin/models/installations", body);
    installations.value = [row, ...installations.value];
    return "";
  } catch (error) {
    return error.message;
  }
}

/** Download a model of the list. */
export async function pull(name) {
  const problem = await install({ pull: name });
  if (problem) say(problem);
}

/** Stop a download or an import. */
export async function stop(id) {
  await act(request("POST", `api/admin/models/installations/${id}/cancel`), look);
}

/** Make a key; what is wrong with it, or "". */
export async function createKey(body) {
  try {
    newKey.value = await request("POST", "api/admin/keys", body);
    await loadAccess();
    return "";
  } catch (error) {
    return error.message;
  }
}

export async function revokeKey(id) {
  keys.value = keys.value.filter((each) => each.id !== id);
  await act(request("DELETE", `api/admin/keys/${id}`), loadAccess);
}

export async function endSession(id) {
  sessions.value = sessions.value.filter((each) => each.id !== id);
  await act(request("DELETE", `api/v1/sessions/${id}`), loadAccess);
}

/** Ask the doctor, which takes seconds. */
export async function examine() {
  isExamining.value = true;
  try {
    findings.value = await request("GET", "api/admin/doctor");
  } catch (error) {
    sayError(error);
  }
  isExamining.value = false;
}

async function act(sent, then) {
  try {
    await sent;
  } catch (error) {
    sayError(error);
  }
  await then();
}
