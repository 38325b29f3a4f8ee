/** `html` for templates, and `live` for components that follow signals. */
import htm from "../vendor/htm.js";
import { Component, h } from "../vendor/preact.js";
import { effect } from "../vendor/signals-core.js";

export const html = htm.bind(h);

/**
 * A component that renders again when a signal changes that it has read while rendering.
 *
 * `view` gets the properties and the component itself, whose `refs` object lives as long as it.
 * @template P
 * @param {(props: P, component: any) => any} view
 * @param {{ mounted?: (component: any) => void | (() => void), updated?: (component: any) => void }} [hooks]
 *   `mounted` may return what is to be done when the component goes.
 */
export function live(view, hooks = {}) {
  return class Live extends Component {
    refs = {};
    stop = () => {};
    clean = /** @type {void | (() => void)} */ (undefined);

    componentDidMount() {
      this.clean = hooks.mounted?.(this);
    }

    componentDidUpdate() {
      hooks.updated?.(this);
    }

    componentWillUnmount() {
      this.stop();
      this.clean?.();
    }

    render(props) {
      this.stop();
      let shown;
      let isRendering = true;
      this.stop = effect(() => {
        if (isRendering) shown = view(props, this);
        else this.setState({});
      });
      isRendering = false;
      return shown;
    }
  };
}
