/** Search, filters and the jump to a month; all of it stands in the address. */
import { info, navigate, route } from "../store.js";
import { filter, isFiltered, months, pictures, total } from "../stores/gallery.js";
import { html, live } from "./html.js";
import { Icon } from "./icons.js";

const TYPING_MILLISECONDS = 250;
const MONTH = new Intl.DateTimeFormat(undefined, { month: "long", year: "numeric", timeZone: "UTC" });

let typing = 0;

function search(event) {
  clearTimeout(typing);
  const text = event.target.value.trim();
  // Without a letter or digit there is nothing to look for yet.
  typing = setTimeout(() => filter("q", /[\p{L}\p{N}]/u.test(text) ? text : ""), TYPING_MILLISECONDS);
}

const Choice = ({ name, label, value, options }) => html`<select aria-label=${label} value=${value}
  onChange=${(event) => filter(name, event.target.value)}>
  <option value="">${label}</option>
  ${options.map(([key, text]) => html`<option value=${key} selected=${key === value}>${text}</option>`)}
</select>`;

export const Toolbar = live(() => {
  const query = route.value.query;
  const get = (name) => query.get(name) ?? "";
  const same = (names) => names.map((name) => [name, name]);
  const models = [...new Set([get("model"), ...pictures.value.map(({ model }) => model)])].filter(Boolean);
  const count = total.value ?? 0;
  return html`<form class="toolbar" role="search" aria-label="Find pictures" onSubmit=${(event) => event.preventDefault()}>
    <label class="search"><${Icon} name="search" /><span class="hidden-label">Search prompts</span>
      <input type="search" placeholder="Search prompts" maxlength="200" value=${get("q")} onInput=${search} /></label>
    <button type="button" class="quiet" aria-pressed=${get("favourite") === "true"}
      onClick=${() => filter("favourite", get("favourite") ? "" : "true")}><${Icon} name="star" />Favourites</button>
    <${Choice} name="template" label="Any template" value=${get("template")} options=${same(info.value.templates)} />
    ${(models.length > 1 || get("model")) &&
    html`<${Choice} name="model" label="Any model" value=${get("model")} options=${same(models)} />`}
    ${(months.value.length > 1 || get("month")) &&
    html`<${Choice} name="month" label="Newest" value=${get("month")}
      options=${months.value.map((each) => [each.month, `${MONTH.format(new Date(`${each.month}-01`))} (${each.count})`])} />`}
    ${get("flow") && html`<button type="button" class="small" onClick=${() => filter("flow", "")}>One flow<${Icon} name="x" /></button>`}
    <span class="soft count" role="status">${count.toLocaleString()} ${count === 1 ? "picture" : "pictures"}</span>
    ${isFiltered.value && html`<button type="button" class="quiet small"
      onClick=${() => navigate("/", new URLSearchParams())}>Clear</button>`}
  </form>`;
});
