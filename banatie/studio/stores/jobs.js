/** The generations that wait or are painted, and what has become of them since the page opened. */
import { listen, request } from "../api.js";
import { hush, info, loadInfo, reconnections, say, sayError, session } from "../store.js";
import { effect, signal, untracked } from "../vendor/signals-core.js";

const BUSY_MILLISECONDS = 2000;
const IDLE_MILLISECONDS = 10_000;
/** A browser opens six connections to a server at once, and other tabs want some. */
const MAX_FOLLOWED = 2;

/**
 * @typedef {object} Job
 * @property {string} key of its card
 * @property {any} generation as the server told it last; until it has answered, what was asked for
 * @property {boolean} isSent whether the server has accepted it
 * @property {number} position in the queue, from 1; 0 while it is painted
 * @property {number} step
 * @property {number} steps
 * @property {string | null} preview
 */

/** Oldest first; a failed one stays until it is dismissed. @type {import("../vendor/signals-core.js").Signal<Job[]>} */
export const jobs = signal([]);

/** The generations that have succeeded since the page opened, newest first. @type {import("../vendor/signals-core.js").Signal<any[]>} */
export const made = signal([]);

/** The last of them, until it is dismissed. */
export const latest = signal(null);

/** Tells this browser's other tabs; `{ made }` after each success. */
export const tabs = new BroadcastChannel("banatie");

/** @type {Map<string, () => void>} */
const followed = new Map();
let keys = 0;

/** Make pictures. Raises ApiError for the first request that is refused. */
export async function submit(bodies) {
  const added = bodies.map((body) => newJob(`new-${++keys}`, asGeneration(body), false));
  jobs.value = [...jobs.value, ...added];
  for (const [index, body] of bodies.entries()) {
    const { key } = added[index];
    try {
      const generation = await request("POST", "api/v1/generations", body, {
        headers: { Prefer: "respond-async", "Idempotency-Key": crypto.randomUUID?.() ?? `${key}-${Date.now()}` },
      });
      change(key, { generation, isSent: true });
    } catch (error) {
      const left = new Set(added.slice(index).map((job) => job.key));
      jobs.value = jobs.value.filter((job) => !left.has(job.key));
      throw error;
    }
  }
  tabs.postMessage({ isSubmitted: true });
  await keepFresh();
}

/** Stop a job; its card goes at once and comes back if the server refuses. @param {Job} job */
export async function cancel(job) {
  dismiss(job);
  try {
    await request("POST", `api/v1/generations/${job.generation.id}/cancel`);
    say("Cancelled", "Make again", () => again(job));
  } catch (error) {
    jobs.value = [...jobs.value, job];
    sayError(error);
  }
}

/** Make a job again that has failed or was cancelled. @param {Job} job */
export async function again(job) {
  hush();
  try {
    const generation = await request("POST", `api/v1/generations/${job.generation.id}/regenerate`);
    dismiss(job);
    jobs.value = [...jobs.value, newJob(job.key, generation, true)];
    await keepFresh();
  } catch (error) {
    sayError(error);
  }
}

/** Take the card away. @param {Job} job */
export function dismiss(job) {
  jobs.value = jobs.value.filter((other) => other.key !== job.key);
}

/** Whether it still waits or is painted. @param {Job} job */
export function isRunning(job) {
  return job.generation.status === "pending" || job.generation.status === "processing";
}

/** Ask for everything that waits or runs, in this tab or elsewhere, and how what is gone ended. */
export async function refresh() {
  const lists = await Promise.all(
    ["processing", "pending"].map((status) =>
      request("GET", `api/v1/generations?limit=100&status=${status}`),
    ),
  ).catch(() => null);
  if (!lists) return;
  const [processing, pending] = lists.map((list) => list.reverse());
  const known = new Map(jobs.value.map((job) => [job.generation.id, job]));
  const place = (generation, position) => {
    const job = known.get(generation.id);
    known.delete(generation.id);
    if (job) return update(job.key, generation, position);
    jobs.value = [...jobs.value, { ...newJob(generation.id, generation, true), position }];
  };
  for (const generation of processing) place(generation, 0);
  for (const [index, generation] of pending.entries()) place(generation, index + 1);
  for (const job of known.values()) {
    if (!job.isSent || !isRunning(job)) continue;
    const generation = await request("GET", `api/v1/generations/${job.generation.id}`).catch(
      (error) => error,
    );
    if (generation.code === "GENERATION_NOT_FOUND") dismiss(job);
    else if (generation.id) update(job.key, generation, job.position);
  }
}

function newJob(key, generation, isSent) {
  const { step = 0, steps = 0 } = generation.progress ?? {};
  return { key, generation, isSent, position: 0, step, steps, preview: null };
}

function asGeneration(body) {
  return {
    ...{ id: "", status: "pending", warnings: [], enhancement: null, referencedImages: [] },
    ...{ aspectRatio: "1:1", size: null, ...body, originalPrompt: body.prompt },
  };
}

function change(key, part) {
  jobs.value = jobs.value.map((job) => (job.key === key ? { ...job, ...part } : job));
}

function update(key, generation, position) {
  if (generation.status === "success") return finish(key, generation);
  if (generation.errorMessage === "Cancelled") return dismiss(/** @type {Job} */ ({ key }));
  const { step, steps } = generation.progress ?? {};
  // What was painted before a worker died is gone.
  const painted = generation.status === "pending" ? { step: 0, preview: null } : {};
  change(key, { generation, position, ...painted, ...(steps ? { step, steps } : {}) });
}

function finish(key, generation) {
  jobs.value = jobs.value.filter((job) => job.key !== key);
  made.value = [generation, ...made.value.filter((other) => other.id !== generation.id)];
  latest.value = generation;
}

function follow(job) {
  const { key } = job;
  const current = () => jobs.value.find((other) => other.key === key)?.generation;
  const patch = (part) => change(key, { generation: { ...current(), ...part } });
  return listen(`api/v1/generations/${job.generation.id}/events`, {
    status: ({ status }) => {
      // How it ended comes with its own event.
      if (status === "success" || status === "failed") return;
      patch({ status });
      if (status === "processing") change(key, { position: 0 });
    },
    prompt: (data) => patch({ ...data, enhancement: current()?.enhancement ?? {} }),
    progress: ({ step, steps, preview }) =>
      change(key, { step, steps, position: 0, ...(preview ? { preview } : {}) }),
    success: (generation) => finish(key, generation),
    failed: (generation) => update(key, generation, 0),
    closed: () => refresh(),
  });
}

/** Follow the oldest that run, and no others. */
effect(() => {
  const running = document.hidden ? [] : jobs.value.filter((job) => job.isSent && isRunning(job));
  const wanted = new Map(running.slice(0, MAX_FOLLOWED).map((job) => [job.generation.id, job]));
  for (const [id, stop] of followed) {
    if (wanted.has(id)) continue;
    stop();
    followed.delete(id);
  }
  for (const [id, job] of wanted) if (!followed.has(id)) followed.set(id, follow(job));
});

const isBusy = () => jobs.value.some(isRunning);
const isReady = () => info.value.workers.some((worker) => worker.state === "ready");
let timer = 0;

async function keepFresh() {
  clearTimeout(timer);
  if (session.value !== "in" || !info.value || document.hidden) return;
  // A worker that loads its models tells nobody when it is ready.
  if (isBusy() && !isReady()) await loadInfo().catch(() => {});
  await refresh();
  clearTimeout(timer);
  timer = setTimeout(keepFresh, isBusy() ? BUSY_MILLISECONDS : IDLE_MILLISECONDS);
}

effect(() => {
  if (session.value === "in" && reconnections.value >= 0) untracked(keepFresh);
});
document.addEventListener("visibilitychange", () => {
  jobs.value = [...jobs.value];
  keepFresh();
});
tabs.addEventListener("message", ({ data }) => data.isSubmitted && keepFresh());
