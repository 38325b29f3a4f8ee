/** Getting in with an API key, where no link with a token was opened. */
import { html, live } from "../parts/html.js";
import { signIn } from "../store.js";
import { signal } from "../vendor/signals-core.js";

const problem = signal("");
const isBusy = signal(false);

async function enter(event) {
  event.preventDefault();
  const apiKey = String(new FormData(event.target).get("key")).trim();
  isBusy.value = true;
  problem.value = "";
  try {
    await signIn({ apiKey });
  } catch (error) {
    problem.value = error.message;
  }
  isBusy.value = false;
}

export const SignIn = live(
  () => html`<main class="sign-in">
    <h1>Come in</h1>
    <p>
      Open the address that <code>banatie open</code> prints, or enter an API key.
      This browser stays signed in; the key itself is not kept here.
    </p>
    <form onSubmit=${enter}>
      <input type="text" name="username" value="Banatie" autocomplete="username" hidden />
      <label for="key">API key</label>
      <input id="key" name="key" type="password" required autocomplete="current-password"
        placeholder="bnt_…" aria-describedby="key-problem" />
      <p id="key-problem" class="problem" role="alert">${problem.value}</p>
      <button class="primary" disabled=${isBusy.value}>Sign in</button>
    </form>
    <p class="soft">
      No key at hand? <code>banatie keys create --name studio</code> prints a new one.
    </p>
  </main>`,
  { mounted: () => document.getElementById("key")?.focus() },
);
