/** The page: the bar at the top, the view that the address names, and the word at the bottom. */
import { Icon } from "./parts/icons.js";
import { FirstMinutes } from "./parts/first_minutes.js";
import { html, live } from "./parts/html.js";
import { later } from "./parts/later.js";
import { Toast } from "./parts/toast.js";
import { info, isOnline, route, session, start, theme, view } from "./store.js";
import { Gallery } from "./views/gallery.js";
import { Cards } from "./views/cards.js";
import { Make } from "./views/make.js";
import { SignIn } from "./views/sign_in.js";
import { render } from "./vendor/preact.js";

const Machine = later(async () => (await import("./views/machine.js")).Machine);
const Viewer = later(async () => (await import("./views/viewer.js")).Viewer);

const THEMES = { auto: "light", light: "dark", dark: "auto" };

const Bar = live(() => {
  const current = (name) => (view.value === name ? "page" : undefined);
  return html`<header class="bar">
    <a class="brand" href="#/"><img src="studio/icon.svg" alt="" width="22" height="22" />Banatie</a>
    ${!isOnline.value && html`<span class="away" role="status">Reconnecting …</span>`}
    ${session.value === "in" &&
    html`<nav aria-label="Views">
      <a href="#/" aria-current=${current("home")}>Pictures</a>
      <a href="#/machine" aria-current=${current("machine")}>Machine</a>
    </nav>`}
    <button class="quiet icon-only" aria-label=${`Colours: ${theme.value}`}
      title=${`Colours: ${theme.value}`} onClick=${() => (theme.value = THEMES[theme.value] ?? "auto")}>
      <${Icon} name="sun-moon" />
    </button>
  </header>`;
});

const Home = live(() => {
  const [kind, id] = route.value.parts;
  return html`<main class="home">
    <h1 class="hidden-label">Make pictures</h1>
    <${Make} />
    <div class="pictures">
      <${Cards} />
      <${FirstMinutes} />
      <${Gallery} query=${route.value.query} />
    </div>
    ${kind === "picture" && id && html`<${Viewer} id=${id} />`}
  </main>`;
});

const App = live(() => {
  if (session.value === "unknown" || (session.value === "in" && info.value === null)) {
    return html`<${Bar} />`;
  }
  if (session.value === "out") return html`<${Bar} /><${SignIn} /><${Toast} />`;
  // The viewer lies over the page, and shows the word itself.
  const isCovered = route.value.parts[0] === "picture";
  return html`<${Bar} />${view.value === "machine" ? html`<${Machine} />` : html`<${Home} />`}
    ${!isCovered && html`<${Toast} />`}`;
});

const place = document.getElementById("app");
if (place) render(html`<${App} />`, place);
start();
