/** The word at the bottom of the page. A dialog shows it too: what lies below one cannot be used. */
import { hush, toast } from "../store.js";
import { html, live } from "./html.js";
import { Icon } from "./icons.js";

export const Toast = live(() => {
  const said = toast.value;
  return html`<div class="toast-place" role="status" aria-live="polite">
    ${said &&
    html`<div class="toast">
      <span>${said.text}</span>
      ${said.action &&
      html`<button class="quiet" onClick=${() => { hush(); said.act?.(); }}>${said.action}</button>`}
      <button class="quiet icon-only" aria-label="Close" onClick=${hush}><${Icon} name="x" /></button>
    </div>`}
  </div>`;
});
