/** Whether this project has no picture yet. */
import { request } from "../api.js";
import { session } from "../store.js";
import { computed, effect, signal } from "../vendor/signals-core.js";
import { made } from "./jobs.js";

const hadNone = signal(false);

/** Whether there is no picture; false until that is known. */
export const hasNone = computed(() => hadNone.value && made.value.length === 0);

effect(() => {
  if (session.value !== "in") return;
  request("GET", "api/v1/generations?limit=1").then(
    (generations) => (hadNone.value = generations.length === 0),
    // The gallery says what is wrong.
    () => {},
  );
});
