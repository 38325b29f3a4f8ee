/** The machine: what runs and waits, models, access, the disk, and the doctor. */
import { Icon } from "../parts/icons.js";
import { html, live } from "../parts/html.js";
import { Access } from "../parts/machine_access.js";
import { Models } from "../parts/machine_models.js";
import { size } from "../parts/units.js";
import { examine, findings, isExamining, isOwner, loading, machine, watch } from "../stores/machine.js";

const STATES = { ready: "Ready", starting: "Loading its models", broken: "Cannot paint" };
const NOBODY = "No worker is running: nothing is painted until `banatie serve` or `banatie worker` starts one.";
const MARKS = { ok: "check", warn: "triangle-alert", FAIL: "x" };
const WORDS = { ok: "Fine", warn: "Worth a look", FAIL: "Wrong" };

const Worker = ({ worker }) => {
  const [plan, reason] = (worker.plan ?? "").split(/: (.*)/s);
  const { deviceMemoryUsed: used, deviceMemoryTotal: total } = worker;
  return html`<li class="entry">
    <div class="grow">
      <p><strong>${worker.device ?? "A device"}</strong> <span class=${`badge ${worker.state}`}>${STATES[worker.state]}</span></p>
      ${worker.reason && html`<p class="warning"><${Icon} name="triangle-alert" />${worker.reason}</p>`}
      ${worker.paintingModel && html`<p>${worker.paintingModel} paints${worker.languageModel ? `, ${worker.languageModel} enhances prompts` : ""}</p>`}
      ${plan && html`<p>Memory: ${plan}</p>`}
      ${reason && html`<p class="soft">Because ${reason}</p>`}
      <p class="soft">${[
        worker.memory && `${size(worker.memory)} of main memory`,
        total && `${size(used)} of ${size(total)} on the device in use`,
      ].filter(Boolean).join(" · ")}</p>
    </div>
  </li>`;
};

const Running = ({ each }) => html`<li class="entry">
  <div class="grow"><p class="clip" dir="auto">${each.prompt}</p>
    ${each.isRunning && each.stage === "paint" && html`<progress aria-label="Steps" max=${each.steps || 1} value=${each.step}></progress>`}</div>
  <p class="soft">${each.isRunning ? (each.stage === "paint" ? `Step ${each.step} of ${each.steps ?? "?"}` : "Enhancing") : "Waits"} · ${each.project}</p>
</li>`;

const Now = live(() => {
  const { workers, queue, generations } = machine.value;
  const waiting = queue.enhancing.waiting + queue.painting.waiting;
  const running = queue.enhancing.running + queue.painting.running;
  return html`<section aria-labelledby="now-title">
    <h2 id="now-title">Now</h2>
    ${!workers.length && html`<p class="warning"><${Icon} name="triangle-alert" />${NOBODY}</p>`}
    ${loading.value && html`<p role="status">${loading.value} is loaded after the pictures that are being painted.</p>`}
    <ul class="entries">${workers.map((worker) => html`<${Worker} key=${worker.device} worker=${worker} />`)}</ul>
    <p class="soft">${running || waiting ? `${running} running, ${waiting} waiting` : "Nothing is running or waiting."}</p>
    <ul class="entries">${generations.map((each) => html`<${Running} key=${each.id} each=${each} />`)}</ul>
  </section>`;
});

const Disk = live(() => {
  const { disk } = machine.value;
  const used = disk.total - disk.free;
  return html`<section aria-labelledby="disk-title">
    <h2 id="disk-title">Disk</h2>
    <meter min="0" max=${disk.total} value=${used} high=${disk.total * 0.95} aria-label="Used"></meter>
    <p>${size(disk.free)} free of ${size(disk.total)}</p>
    <p class="soft">${disk.pictureCount} pictures take ${size(disk.pictures)}, the database ${size(disk.database)}. They lie in <code>${disk.folder}</code></p>
  </section>`;
});

const Doctor = live(() => {
  const isBusy = isExamining.value;
  return html`<section aria-labelledby="doctor-title">
    <div class="row"><h2 id="doctor-title">Doctor</h2>
      <button class="small" disabled=${isBusy} onClick=${examine}>${isBusy ? "Examining …" : findings.value ? "Examine again" : "Examine"}</button></div>
    ${!findings.value && html`<p class="soft">Checks everything that making a picture needs, in some seconds, and changes nothing.</p>`}
    <ul class="findings" aria-live="polite">
      ${findings.value?.checks.map((each) => html`<li class=${each.state.toLowerCase()}>
        <${Icon} name=${MARKS[each.state]} /><span class="hidden-label">${WORDS[each.state]}</span>
        <span class="check">${each.check}</span>
        <span>${each.found}${each.remedy && html`<br /><span class="soft">${each.remedy}</span>`}</span>
      </li>`)}
    </ul>
  </section>`;
});

export const Machine = live(
  () => html`<main class="machine">
    <h1>Machine</h1>
    ${!isOwner.value
      ? html`<p>This key makes pictures in its own project. To look after the machine, open the address that
          <code>banatie open</code> prints, or sign in with a master key.</p>`
      : machine.value === null
        ? html`<p class="soft" role="status">Looking …</p>`
        : html`<${Now} /><${Models} /><${Access} /><${Disk} /><${Doctor} />`}
  </main>`,
  { mounted: watch },
);
