/** One picture over the page. */
import { request } from "../api.js";
import { html, live } from "../parts/html.js";
import { Icon } from "../parts/icons.js";
import { Prompts } from "../parts/prompts.js";
import { navigate, pictureUrl, sayError } from "../store.js";

const close = () => navigate("/");

/** @type {any} */
export const Viewer = live(
  ({ id }, self) => {
    const generation = self.state.generation;
    return html`<dialog class="viewer" aria-label="Picture" onCancel=${close}
      ref=${(dialog) => dialog && !dialog.open && dialog.showModal()}>
      <button class="quiet icon-only" aria-label="Close" onClick=${close}><${Icon} name="x" /></button>
      ${generation?.id === id && html`<img src=${pictureUrl(generation.outputImage)} alt=${generation.originalPrompt} />
        <${Prompts} generation=${generation} />`}
    </dialog>`;
  },
  {
    mounted: (self) =>
      void request("GET", `api/v1/generations/${self.props.id}`)
        .then((generation) => self.setState({ generation }))
        .catch(sayError),
  },
);
