/** What the prompt became: both texts, with what was added marked, and what to do about it. */
import { submit } from "../stores/jobs.js";
import { randomSeed, requestFor } from "../stores/draft.js";
import { sayError } from "../store.js";
import { html, live } from "./html.js";
import { Icon } from "./icons.js";
import { wordDiff } from "./word_diff.js";

const MARKS = { added: "ins", removed: "del" };

/** `after`, with the words marked that are new against `before`. */
export function Marked({ before, after }) {
  return wordDiff(before, after)
    .filter((piece) => piece.kind !== "removed" || piece.text.trim())
    .map(({ kind, text }) => {
      if (kind === "same") return text;
      return html`<${MARKS[kind]}>${text}<//>`;
    });
}

const make = (generation, changes) => submit([requestFor(generation, changes)]).catch(sayError);

/**
 * @param {{ generation: any }} props
 */
export const Prompts = live(({ generation }, self) => {
  const { originalPrompt, prompt, autoEnhance } = generation;
  const editing = self.state.editing;
  const edit = (which) => self.setState({ editing: which });
  const send = (event) => {
    event.preventDefault();
    const text = String(new FormData(event.target).get("text"));
    edit(undefined);
    // What was enhanced already is painted as it stands; the same seed shows what the words do.
    make(generation, { prompt: text, autoEnhance: editing === "original" && autoEnhance });
  };
  const block = (which, title, text, shown) => html`<div class="prompt-block">
    <h3>${title}
      ${editing !== which &&
      html`<button class="quiet icon-only small" onClick=${() => edit(which)}
        aria-label=${`Edit: ${title}`} title="Edit"><${Icon} name="pencil" /></button>`}
    </h3>
    ${editing === which
      ? html`<form onSubmit=${send}>
          <textarea name="text" dir="auto" rows="5" aria-label=${title} required
            ref=${(box) => box && !self.refs.focused && ((self.refs.focused = box), box.focus())}
          >${text}</textarea>
          <div class="row">
            <button class="primary small">Make this</button>
            <button type="button" class="quiet small" onClick=${() => edit(undefined)}>Leave it</button>
          </div>
        </form>`
      : html`<p dir="auto">${shown}</p>`}
  </div>`;
  if (!editing) self.refs.focused = null;
  if (!autoEnhance) {
    return html`<section class="prompts" aria-label="Prompt">
      ${block("original", "Your words, as they are", originalPrompt, originalPrompt)}
      <div class="row">
        <button class="small" title="The same seed, with added words"
          onClick=${() => make(generation, { autoEnhance: true })}>
          <${Icon} name="sparkles" />Enhance them</button>
      </div>
    </section>`;
  }
  return html`<section class="prompts" aria-label="What the prompt became">
    ${block("original", "You wrote", originalPrompt, originalPrompt)}
    ${block("enhanced", "It became", prompt, html`<${Marked} before=${originalPrompt} after=${prompt} />`)}
    <div class="row">
      <button class="small" title="The same picture from your words alone, with the same seed"
        onClick=${() => make(generation, { autoEnhance: false })}>Use mine as it is</button>
      <button class="small" title="Other words and another seed"
        onClick=${() => make(generation, { seed: randomSeed() })}>
        <${Icon} name="sparkles" />Enhance again</button>
    </div>
  </section>`;
});
