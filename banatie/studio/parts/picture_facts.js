/** Everything that made a picture, and its name. */
import { navigate, pictureUrl } from "../store.js";
import { image, nameImage } from "../stores/viewer.js";
import { html, live } from "./html.js";

const TIME = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const KINDS = { "image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WebP" };

function factsOf(generation) {
  const { outputImage, enhancement } = generation;
  const seconds = generation.processingTimeMs === null ? null : generation.processingTimeMs / 1000;
  return [
    ["Model", generation.model],
    ["Size", outputImage && `${outputImage.width} × ${outputImage.height}`],
    ["Seed", String(generation.seed)],
    ["Steps", generation.steps],
    ["Guidance", generation.guidanceScale],
    ["Negative prompt", generation.negativePrompt],
    ["LoRAs", generation.loras.map(({ name, weight }) => `${name} (${weight})`).join(", ")],
    ["Style", generation.autoEnhance && generation.template],
    ["Enhanced by", enhancement && `${enhancement.model}, ${enhancement.mode}, ${enhancement.seconds.toFixed(1)} s`],
    ["Reference strength", generation.referenceImages.length ? generation.referenceStrength : null],
    ["Reference mode", generation.referenceMode],
    ["Enlarged", generation.upscale && `${generation.upscale} times`],
    ["Painted in", seconds && `${seconds.toFixed(1)} s`],
    ["Made", TIME.format(new Date(generation.createdAt))],
    ["File", outputImage && `${KINDS[outputImage.mimeType]}, ${Math.ceil(outputImage.fileSize / 1000).toLocaleString()} kB`],
    ["Id", generation.id],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false);
}

const Alias = live((_, self) => {
  if (!image.value) return null;
  const { alias } = image.value;
  const save = async (event) => {
    event.preventDefault();
    const text = String(new FormData(event.target).get("alias")).trim();
    const wanted = text && !text.startsWith("@") ? `@${text}` : text || null;
    if (wanted === alias) return;
    try {
      await nameImage(wanted);
      self.setState({ problem: "", word: wanted ? `Prompts can say ${wanted} now.` : "It has no name now." });
    } catch (error) {
      self.setState({ problem: error.details?.[0]?.message ?? error.message, word: "" });
    }
  };
  return html`<form class="alias" onSubmit=${save}>
    <label for="alias">Name, for prompts that refer to it</label>
    <div class="joined"><input id="alias" name="alias" value=${alias ?? ""} placeholder="@logo" maxlength="100"
      autocomplete="off" spellcheck=${false} key=${image.value.id} /><button class="small">Save</button></div>
    <p class="soft" role="status">${self.state.word}</p>
    <p class="problem" role="alert">${self.state.problem}</p>
  </form>`;
});

/** @param {{ generation: any }} props */
export const Facts = ({ generation }) => html`<section class="facts" aria-label="What made it">
  ${generation.referenceImages.length > 0 &&
  html`<ul class="used" aria-label="References">${generation.referenceImages.map(
    (each) => html`<li><img src=${pictureUrl(each, 160)} alt=${each.alias ?? "Reference"} width="72" height="72" /></li>`,
  )}</ul>`}
  <dl>${factsOf(generation).map(([name, value]) => html`<dt>${name}</dt><dd dir="auto">${value}</dd>`)}</dl>
  ${generation.flowId &&
  html`<button class="quiet small" onClick=${() => navigate("/", new URLSearchParams({ flow: generation.flowId }))}>
    Show the pictures of its flow</button>`}
  <${Alias} />
</section>`;
