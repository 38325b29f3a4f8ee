/** What runs and waits, each in a card, and the last picture that was made. */
import { Icon } from "../parts/icons.js";
import { html, live } from "../parts/html.js";
import { Marked, Prompts } from "../parts/prompts.js";
import { ratioStyle } from "../parts/ratio.js";
import { info, navigate, pictureUrl } from "../store.js";
import { again, cancel, dismiss, isRunning, jobs, latest } from "../stores/jobs.js";

const isEnhanced = ({ generation }) =>
  generation.enhancement || generation.prompt !== generation.originalPrompt;

function stateOf(job) {
  const { generation, position, step, steps } = job;
  if (generation.status === "failed") return "Failed";
  if (generation.status === "processing") return steps ? `Painting ${step} of ${steps}` : "Painting";
  if (position <= 1 && info.value.workers.every((worker) => worker.state === "starting")) {
    return info.value.workers.length ? "The model is loading" : "No worker is running";
  }
  if (generation.autoEnhance && !isEnhanced(job) && position <= 1) return "Enhancing the prompt";
  return position > 1 ? `#${position} in the queue` : "Next";
}

const Card = ({ job }) => {
  const { generation, preview, step, steps } = job;
  const hasFailed = generation.status === "failed";
  const words = generation.prompt;
  return html`<li class=${`card ${generation.status}`}>
    <div class="place" style=${ratioStyle(generation)}>
      ${preview && html`<img src=${preview} alt="" />`}
      <span class="state" role="status">${stateOf(job)}</span>
    </div>
    <progress max=${steps || 1} value=${generation.status === "processing" ? step : 0}
      aria-label="Steps"></progress>
    ${hasFailed
      ? html`<p class="problem" role="alert">${generation.errorMessage}</p>`
      : html`<p class="words" dir="auto" title=${words}>
          ${isEnhanced(job) ? html`<${Marked} before=${generation.originalPrompt} after=${words} />` : words}
        </p>`}
    <div class="row">
      ${hasFailed &&
      html`<button class="small" onClick=${() => again(job)}><${Icon} name="rotate-ccw" />Again</button>
        <button class="quiet small" onClick=${() => dismiss(job)}>Dismiss</button>`}
      ${isRunning(job) &&
      html`<button class="quiet small" disabled=${!job.isSent} onClick=${() => cancel(job)}>
        <${Icon} name="x" />Cancel</button>`}
    </div>
  </li>`;
};

const Latest = ({ generation }) => {
  const image = generation.outputImage;
  return html`<article class="latest" aria-label="Just made">
    <a class="place" href=${`#/picture/${generation.id}`} style=${ratioStyle(generation)}
      onClick=${(event) => { event.preventDefault(); navigate(`/picture/${generation.id}`); }}>
      <img src=${pictureUrl(image)} alt=${generation.originalPrompt} width=${image.width}
        height=${image.height} />
    </a>
    <div class="beside">
      <button class="quiet icon-only small close" aria-label="Close" onClick=${() => (latest.value = null)}>
        <${Icon} name="x" /></button>
      <${Prompts} generation=${generation} key=${generation.id} />
      ${generation.warnings.map((text) => html`<p class="warning"><${Icon} name="triangle-alert" />${text}</p>`)}
    </div>
  </article>`;
};

export const Cards = live(
  () => html`
    ${jobs.value.length > 0 &&
    html`<section aria-label="Now">
      <ul class="cards">${jobs.value.map((job) => html`<${Card} key=${job.key} job=${job} />`)}</ul>
    </section>`}
    ${latest.value && html`<${Latest} generation=${latest.value} />`}
  `,
);
