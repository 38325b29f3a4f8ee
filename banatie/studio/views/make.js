/** Making: the prompt and everything that shapes the picture. */
import { Icon } from "../parts/icons.js";
import { html, live } from "../parts/html.js";
import { Ratios, Templates } from "../parts/choices.js";
import { DropHint, References } from "../parts/reference.js";
import { Settings } from "../parts/settings.js";
import { info } from "../store.js";
import { change, draft, isUnfolded, requestsOf } from "../stores/draft.js";
import { submit } from "../stores/jobs.js";
import { signal } from "../vendor/signals-core.js";

const problem = signal("");

const SHORTCUT = /Mac|iPhone|iPad/.test(navigator.userAgent) ? "⌘↵" : "Ctrl ↵";

async function make(event) {
  event?.preventDefault();
  problem.value = "";
  if (!draft.value.prompt.trim()) {
    document.getElementById("prompt")?.focus();
    return;
  }
  isUnfolded.value = false;
  try {
    await submit(requestsOf());
  } catch (error) {
    problem.value = error.message;
    isUnfolded.value = true;
  }
}

function onKeyDown(event) {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) make(event);
}

const Prompt = live(() => {
  const limit = info.value.limits.promptCharacters;
  const { prompt, enhance } = draft.value;
  return html`<div class="prompt-box">
    <label for="prompt" class="hidden-label">Prompt</label>
    <textarea id="prompt" dir="auto" rows="4" placeholder="A red fox in the snow …" value=${prompt}
      aria-describedby="make-problem" onInput=${(event) => change({ prompt: event.target.value })}
    ></textarea>
    <div class="row under">
      <label class="switch" title="A language model on this machine adds detail; you see what it adds">
        <input type="checkbox" role="switch" checked=${enhance}
          onChange=${(event) => change({ enhance: event.target.checked })} />Enhance</label>
      ${prompt.length > limit * 0.8 &&
      html`<span class=${prompt.length > limit ? "count over" : "count"}>${prompt.length} of ${limit}</span>`}
    </div>
  </div>`;
});

/** `/` leads to the prompt from wherever nothing is being typed. */
function toPrompt(event) {
  const isTyping = event.target.closest?.("input, textarea, select, [contenteditable], dialog");
  if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  document.getElementById("prompt")?.focus();
}

export const Make = live(
  () => html`<form class=${`make ${isUnfolded.value ? "open" : ""}`} aria-label="Make" onSubmit=${make}
    onKeyDown=${onKeyDown}>
    <${Prompt} />
    <p id="make-problem" class="problem" role="alert">${problem.value}</p>
    <div class="foldable">
      <${Templates} />
      <${Ratios} />
      <${References} />
      <${Settings} />
    </div>
    <${DropHint} />
    <div class="row go">
      <button type="button" class="quiet unfold" aria-expanded=${isUnfolded.value}
        onClick=${() => (isUnfolded.value = !isUnfolded.value)}>
        ${isUnfolded.value ? "Less" : "More"}<${Icon} name="chevron-down" /></button>
      <button class="primary">${draft.value.count > 1 ? `Make ${draft.value.count}` : "Make"}
        <kbd aria-hidden="true">${SHORTCUT}</kbd></button>
    </div>
  </form>`,
  {
    mounted: () => {
      document.addEventListener("keydown", toPrompt);
      return () => document.removeEventListener("keydown", toPrompt);
    },
  },
);
