/** Who gets in: API keys and the browsers that are signed in. */
import { createKey, endSession, keys, newKey, revokeKey, sessions } from "../stores/machine.js";
import { say } from "../store.js";
import { signal } from "../vendor/signals-core.js";
import { html, live } from "./html.js";
import { Icon } from "./icons.js";
import { moment } from "./units.js";

const problem = signal("");
/** The key that is revoked with the next click: it cannot be undone. */
const asked = signal("");

async function make(event) {
  event.preventDefault();
  const form = event.target;
  const data = new FormData(form);
  problem.value = await createKey({ name: String(data.get("name")).trim(), type: data.get("type") });
  if (!problem.value) form.reset();
}

async function copy() {
  try {
    await navigator.clipboard.writeText(newKey.value.apiKey);
    say("Copied");
  } catch {
    say("The browser does not let this page copy: select the key and copy it");
  }
}

const Key = ({ each }) => html`<li class="entry">
  <div class="grow">
    <p><strong>${each.name}</strong>${each.type === "master" && html` <span class="badge">Master</span>`}</p>
    <p class="soft">${[
      `${each.hint}…`,
      `${each.organizationSlug}/${each.projectSlug}`,
      each.requestsPerHour === 0 ? "no limit" : each.requestsPerHour ? `${each.requestsPerHour} an hour` : "",
      each.expiresAt ? `until ${moment(each.expiresAt)}` : "does not expire",
    ].filter(Boolean).join(" · ")}</p>
  </div>
  ${asked.value === each.id
    ? html`<button class="small danger" onClick=${() => revokeKey(each.id)}>Revoke ${each.name} for good</button>
        <button class="quiet small" onClick=${() => (asked.value = "")}>Keep</button>`
    : html`<button class="quiet small" aria-label=${`Revoke ${each.name}`}
        onClick=${() => (asked.value = each.id)}>Revoke</button>`}
</li>`;

const Session = ({ each }) => html`<li class="entry">
  <div class="grow">
    <p><strong>${browserName(each.name)}</strong>${each.isCurrent && html` <span class="badge">This one</span>`}</p>
    <p class="soft" title=${each.name}>${each.keyName} · since ${moment(each.createdAt)}</p>
  </div>
  <button class="quiet small" aria-label=${`Sign out ${browserName(each.name)}`}
    onClick=${() => endSession(each.id)}>Sign out</button>
</li>`;

/** Browser and system, as far as the User-Agent tells. */
function browserName(agent) {
  const browser = /(Firefox|Edg|OPR|HeadlessChrome|Chrome|Safari)\//.exec(agent)?.[1] ?? agent;
  const system = /(Android|iPhone|iPad|Windows|Mac OS|Linux)/.exec(agent)?.[1];
  const names = { Edg: "Edge", OPR: "Opera", HeadlessChrome: "Chrome" };
  return [names[browser] ?? browser, system].filter(Boolean).join(" on ") || "A browser";
}

export const Access = live(
  () => html`<section aria-labelledby="access-title">
    <h2 id="access-title">Access</h2>
    <h3>API keys</h3>
    <ul class="entries">${keys.value.map((each) => html`<${Key} key=${each.id} each=${each} />`)}</ul>
    ${newKey.value &&
    html`<div class="new-key" role="status">
      <p>The new key, shown only now:</p>
      <div class="row"><code>${newKey.value.apiKey}</code>
        <button class="small" onClick=${copy}><${Icon} name="copy" />Copy</button></div>
    </div>`}
    <form class="inline" onSubmit=${make}>
      <label for="key-name">New key <span class="soft">for a program, or for somebody else</span></label>
      <input id="key-name" name="name" required placeholder="What it is for" autocomplete="off"
        aria-describedby="key-problem" />
      <select name="type" aria-label="Rights">
        <option value="project">Makes pictures</option>
        <option value="master">Runs this machine too</option>
      </select>
      <button><${Icon} name="key-round" />Create</button>
      <p id="key-problem" class="problem" role="alert">${problem.value}</p>
    </form>
    <h3>Signed in</h3>
    <ul class="entries">${sessions.value.map((each) => html`<${Session} key=${each.id} each=${each} />`)}</ul>
  </section>`,
);
