/** The models: which paints, which are here, which can be had, and what is being installed. */
import { install, installations, loading, models, pull, stop, use } from "../stores/machine.js";
import { signal } from "../vendor/signals-core.js";
import { html, live } from "./html.js";
import { Icon } from "./icons.js";
import { size } from "./units.js";

const KINDS = { painting: "Painting", language: "Prompt enhancement", lora: "LoRAs" };
const SHOWN_ENDED = 2;

const problem = signal("");

const Model = ({ model }) => {
  const isHere = model.state === "installed";
  const canUse = model.kind === "painting" && isHere && !model.refusal && !model.inUse;
  const trouble = model.problem || (isHere && model.kind === "painting" ? model.refusal : "");
  return html`<li class="entry" aria-current=${model.inUse ? "true" : undefined}>
    <div class="grow">
      <p><strong>${model.title || model.name}</strong>
        ${model.inUse && html`<span class="badge"><${Icon} name="check" />${loading.value === model.name ? "Loading" : "In use"}</span>`}
        ${model.state === "partly" && html`<span class="badge">Partly here</span>`}
      </p>
      <p class="soft">${[model.name, size(model.bytes), model.licence].join(" · ")}</p>
      ${trouble && html`<p class="warning"><${Icon} name="triangle-alert" />${trouble}</p>`}
      ${model.needsToken && !isHere && html`<p class="soft">Accept its licence on the hub and set HF_TOKEN first.</p>`}
    </div>
    ${canUse && html`<button class="small" onClick=${() => use(model.name)}
      aria-label=${`Use ${model.name}`}>Use</button>`}
    ${model.canPull && html`<button class="small" disabled=${isComing(model.name)} onClick=${() => pull(model.name)}
      aria-label=${`Download ${model.name}`}><${Icon} name="download" />${model.state === "partly" ? "Resume" : "Download"}</button>`}
  </li>`;
};

const isComing = (name) =>
  installations.value.some((each) => each.source === name && ["waiting", "running"].includes(each.state));

const Installation = ({ row }) => {
  const isOver = !["waiting", "running"].includes(row.state);
  const share = row.bytesTotal ? `${size(row.bytesDone)} of ${size(row.bytesTotal)}` : "";
  const said = row.state === "waiting" ? "Waits for its turn" : [share, row.message].filter(Boolean).join(" · ");
  return html`<li class="entry">
    <div class="grow">
      <p><strong>${row.name ?? row.source}</strong> <span class="badge">${row.kind === "pull" ? "Download" : "Import"}${isOver ? `: ${row.state}` : ""}</span></p>
      ${!isOver && html`<progress aria-label=${`Progress of ${row.source}`} max=${row.bytesTotal || 1}
        value=${row.bytesTotal ? row.bytesDone : undefined}></progress>`}
      <p class=${row.state === "failed" ? "problem" : "soft"} role=${row.state === "failed" ? "alert" : undefined}>${said}</p>
    </div>
    ${!isOver && html`<button class="quiet small" onClick=${() => stop(row.id)} aria-label=${`Cancel ${row.source}`}>
      <${Icon} name="x" />Cancel</button>`}
    ${row.kind === "pull" && ["failed", "cancelled"].includes(row.state) && !isComing(row.source) &&
    html`<button class="small" onClick=${() => pull(row.source)} aria-label=${`Resume ${row.source}`}>
      <${Icon} name="rotate-ccw" />Resume</button>`}
  </li>`;
};

async function add(event) {
  event.preventDefault();
  const form = event.target;
  const source = String(new FormData(form).get("source")).trim();
  problem.value = await install(/^([/~]|[A-Za-z]:\\)/.test(source) ? { path: source } : { pull: source });
  if (!problem.value) form.reset();
}

export const Models = live(() => {
  const all = models.value?.models ?? [];
  const running = installations.value.filter((each) => ["waiting", "running"].includes(each.state));
  const ended = installations.value.filter((each) => !running.includes(each) && each.state !== "done");
  return html`<section aria-labelledby="models-title">
    <h2 id="models-title">Models</h2>
    <ul class="entries" aria-label="Being installed">
      ${[...running, ...ended.slice(0, SHOWN_ENDED)].map((row) => html`<${Installation} key=${row.id} row=${row} />`)}
    </ul>
    ${Object.entries(KINDS).map(([kind, title]) => {
      const own = all.filter((each) => each.kind === kind);
      const here = own.filter((each) => each.state !== "absent");
      const others = own.filter((each) => each.state === "absent");
      if (!own.length) return null;
      return html`<h3>${title}</h3>
        <ul class="entries">${here.map((model) => html`<${Model} key=${model.name} model=${model} />`)}</ul>
        ${others.length > 0 && html`<details open=${kind === "painting" && here.length < 2}>
          <summary>${others.length} more to download</summary>
          <ul class="entries">${others.map((model) => html`<${Model} key=${model.name} model=${model} />`)}</ul>
        </details>`}`;
    })}
    <form class="inline" onSubmit=${add}>
      <label for="model-source">Add a model or a LoRA
        <span class="soft">a path on this machine (checkpoint, LoRA, folder, archive), or OWNER/REPOSITORY of a hub</span></label>
      <input id="model-source" name="source" required placeholder="/home/me/Downloads/checkpoint.safetensors"
        autocomplete="off" spellcheck=${false} aria-describedby="model-problem" />
      <button>Add</button>
      <p id="model-problem" class="problem" role="alert">${problem.value}</p>
    </form>
  </section>`;
});
