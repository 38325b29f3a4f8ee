/** The machine: what paints, and its models. */
import { html, live } from "../parts/html.js";
import { info } from "../store.js";

export const Machine = live(
  () => html`<main class="machine">
    <h1>Machine</h1>
    ${info.value.workers.map(
      (worker) => html`<p>${worker.device}: ${worker.state}</p><p class="soft">${worker.plan}</p>`,
    )}
  </main>`,
);
