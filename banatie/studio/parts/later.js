/** A component whose module is fetched when it is first shown, so that the first view is quick. */
import { sayError } from "../store.js";
import { signal } from "../vendor/signals-core.js";
import { html, live } from "./html.js";

/** @param {() => Promise<any>} load resolves to the component */
export function later(load) {
  const loaded = signal(/** @type {any} */ (null));
  let isLoading = false;
  const begin = async () => {
    isLoading = true;
    try {
      loaded.value = await load();
    } catch (error) {
      // The next time that it is to be shown tries again.
      sayError(error);
    }
    isLoading = false;
  };
  return live((props) => {
    const Component = loaded.value;
    if (Component) return html`<${Component} ...${props} />`;
    if (!isLoading) begin();
    return null;
  });
}
