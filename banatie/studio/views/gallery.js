/** The pictures by day, newest first: found, selected, downloaded, deleted. */
import { address } from "../api.js";
import { Toolbar } from "../parts/gallery_toolbar.js";
import { html, live } from "../parts/html.js";
import { Icon } from "../parts/icons.js";
import { ratioStyle } from "../parts/ratio.js";
import { navigate, pictureUrl } from "../store.js";
import * as store from "../stores/gallery.js";
import { signal } from "../vendor/signals-core.js";

const { current, hasNewer, hasOlder, isFiltered, pictures, select, selected, selection, total } = store;
const CHUNK = 60;
const AHEAD = "1500px";
const DAY = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long", year: "numeric" });

/** Whether the list of keys is shown. */
const isHelpShown = signal(false);

function dayOf(time) {
  const date = new Date(time);
  const days = (new Date().setHours(0, 0, 0, 0) - new Date(time).setHours(0, 0, 0, 0)) / 86_400_000;
  if (Math.round(days) === 0) return "Today";
  if (Math.round(days) === 1) return "Yesterday";
  return DAY.format(date);
}

/** The pictures in days, and each day in pieces that are shown or left out as a whole. */
function chunksOf(all) {
  const chunks = [];
  for (const picture of all) {
    const last = chunks.at(-1);
    const day = dayOf(picture.createdAt);
    if (last?.day === day && last.pictures.length < CHUNK) last.pictures.push(picture);
    else chunks.push({ day, isFirst: last?.day !== day, pictures: [picture] });
  }
  return chunks;
}

function open(event, id) {
  if (event.metaKey || event.ctrlKey || event.button > 0) return;
  event.preventDefault();
  current.value = id;
  if (event.shiftKey || selected.value.size) select(id, event.shiftKey);
  else navigate(`/picture/${id}`);
}

const Tile = live(({ picture }) => {
  const { id, outputImage, originalPrompt } = picture;
  const isSelected = selected.value.has(id);
  const isStop = current.value === id || (!current.value && pictures.value[0]?.id === id);
  return html`<li class=${isSelected ? "selected" : ""} style=${ratioStyle(picture)}>
    <a href=${`#/picture/${id}`} data-picture=${id} tabindex=${isStop ? 0 : -1}
      onFocus=${() => (current.value = id)} onClick=${(event) => open(event, id)}>
      <img src=${pictureUrl(outputImage, 320)} alt=${originalPrompt} loading="lazy" decoding="async"
        width=${outputImage.width} height=${outputImage.height} />
    </a>
    <input type="checkbox" tabindex="-1" checked=${isSelected} aria-label=${`Select: ${originalPrompt}`}
      onClick=${(event) => { select(id, event.shiftKey); current.value = id; }} />
    ${picture.favourite && html`<span class="mark" role="img" aria-label="Favourite"><${Icon} name="star" /></span>`}
  </li>`;
});

/** A piece of a day; far from the window, a spacer of its height. */
const Chunk = live(
  ({ chunk }, self) => {
    const height = self.state.isFar ? self.refs.height : 0;
    return html`<div class="chunk" ref=${(place) => (self.refs.place = place)}>
      ${chunk.isFirst && html`<h2>${chunk.day}</h2>`}
      ${height
        ? html`<div class="spacer" style=${{ "--height": `${height}px` }}></div>`
        : html`<ul class="grid">
            ${chunk.pictures.map((picture) => html`<${Tile} key=${picture.id} picture=${picture} />`)}
          </ul>`}
    </div>`;
  },
  {
    mounted: (self) => {
      const watch = new IntersectionObserver((entries) => {
        const entry = entries[entries.length - 1];
        const list = self.refs.place?.querySelector(".grid");
        const isFar = !entry.isIntersecting && !list?.contains(document.activeElement);
        if (list) self.refs.height = list.offsetHeight;
        if (isFar !== Boolean(self.state.isFar)) self.setState({ isFar });
      }, { rootMargin: AHEAD });
      watch.observe(self.refs.place);
      return () => watch.disconnect();
    },
  },
);

/** The end of what is here; coming near it loads more. */
const Edge = live(
  ({ direction }, self) => html`<p class="edge" role="status" ref=${(place) => (self.refs.place = place)}>
    ${(direction === "before" ? hasOlder : hasNewer).value ? "Loading …" : ""}</p>`,
  {
    mounted: (self) => {
      const watch = new IntersectionObserver((entries) => {
        if (entries[entries.length - 1].isIntersecting) store.loadMore(self.props.direction);
      }, { rootMargin: AHEAD });
      watch.observe(self.refs.place);
      return () => watch.disconnect();
    },
  },
);

/** Move the keyboard to a picture that is shown. */
export function focusPicture(id) {
  current.value = id;
  const link = document.querySelector(`[data-picture="${CSS.escape(id)}"]`);
  if (link instanceof HTMLElement) link.focus();
}

function besides(id, key) {
  const links = [...document.querySelectorAll("[data-picture]")];
  const index = links.findIndex((link) => link.getAttribute("data-picture") === id);
  const isRightToLeft = getComputedStyle(document.body).direction === "rtl";
  const steps = { ArrowLeft: isRightToLeft ? 1 : -1, ArrowRight: isRightToLeft ? -1 : 1 };
  if (key in steps) return links[index + steps[key]];
  if (key === "Home") return links[0];
  if (key === "End") return links.at(-1);
  const here = links[index].getBoundingClientRect();
  const center = (here.left + here.right) / 2;
  const sign = key === "ArrowUp" ? -1 : 1;
  const distance = (link) => {
    const there = link.getBoundingClientRect();
    const down = sign * (there.top - here.top);
    return down < 4 ? Infinity : down * 10 + Math.abs((there.left + there.right) / 2 - center);
  };
  const nearest = links.reduce((best, link) => (distance(link) < distance(best) ? link : best));
  return distance(nearest) < Infinity ? nearest : undefined;
}

const MOVES = new Set(["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"]);

function onKeyDown(event) {
  const id = event.target.getAttribute?.("data-picture");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && selected.value.size) store.clearSelection();
  if (!id) return;
  const here = pictures.value.find((picture) => picture.id === id);
  const chosen = selected.value.size ? selection.value : [here];
  if (MOVES.has(event.key)) {
    const next = besides(id, event.key)?.getAttribute("data-picture");
    if (next) focusPicture(next);
    if (next && event.shiftKey) {
      if (!selected.value.has(id)) select(id);
      select(next, true);
    }
  } else if (event.key === " ") select(id, event.shiftKey);
  else if (event.key === "f") store.favourite(chosen, !chosen.every((picture) => picture.favourite));
  else if (event.key === "Delete" || event.key === "Backspace") removeAll(chosen);
  else return;
  event.preventDefault();
}

function removeAll(chosen) {
  const gone = new Set(chosen.map(({ id }) => id));
  const ids = pictures.value.map(({ id }) => id);
  const first = ids.findIndex((id) => gone.has(id));
  const next = ids.slice(first).find((id) => !gone.has(id)) ?? ids.slice(0, first).at(-1);
  store.remove(chosen);
  if (next) requestAnimationFrame(() => focusPicture(next));
}

function onHelpKey(event) {
  const isTyping = event.target.closest?.("input, textarea, select, dialog");
  if (event.key === "?" && !isTyping) isHelpShown.value = true;
}

const SelectionBar = live(() => {
  const chosen = selection.value;
  if (!chosen.length) return null;
  const isAll = chosen.every((picture) => picture.favourite);
  return html`<div class="selection" role="toolbar" aria-label="Selected pictures">
    <span role="status">${chosen.length} selected</span>
    ${chosen.length === 2 &&
    html`<button class="quiet" onClick=${() => navigate(`/picture/${chosen[1].id}`, withOther(chosen[0].id))}>
      <${Icon} name="columns-2" />Compare</button>`}
    <button class="quiet" onClick=${() => store.favourite(chosen, !isAll)}><${Icon} name="star" />
      ${isAll ? "No favourite" : "Favourite"}</button>
    ${store.zipPaths(chosen).map((path, index, all) => html`<a class="button" download href=${address(path).href}>
      <${Icon} name="download" />${all.length > 1 ? `Download ${index + 1} of ${all.length}` : "Download"}</a>`)}
    <button class="quiet" onClick=${() => removeAll(chosen)}><${Icon} name="trash-2" />Delete</button>
    <button class="quiet icon-only" aria-label="Select nothing" onClick=${store.clearSelection}>
      <${Icon} name="x" /></button>
  </div>`;
});

function withOther(id) {
  return new URLSearchParams([["with", id]]);
}

const KEYS = [
  ["/", "Prompt"], ["Ctrl or ⌘ Enter", "Make"], ["Arrows", "Next picture"], ["Enter", "Open"],
  ["Space", "Select"], ["Shift arrows", "Select more"], ["F", "Favourite"], ["Delete", "Delete"],
  ["Esc", "Back"], ["?", "These keys"],
];

const Help = live(() =>
  isHelpShown.value && html`<dialog class="keys" aria-label="Keys" onClose=${() => (isHelpShown.value = false)}
    ref=${(dialog) => dialog && !dialog.open && dialog.showModal()}>
    <form method="dialog"><h2>Keys</h2>
      <button class="quiet icon-only" aria-label="Close"><${Icon} name="x" /></button></form>
    <dl>${KEYS.map(([key, what]) => html`<dt><kbd>${key}</kbd></dt><dd>${what}</dd>`)}</dl>
  </dialog>`,
);

export const Gallery = live(
  () => {
    const isEmpty = total.value !== null && !pictures.value.length && !hasOlder.value;
    return html`<section class="gallery" aria-label="Gallery" onKeyDown=${onKeyDown}>
      <h1 class="hidden-label">Pictures</h1>
      ${(isFiltered.value || pictures.value.length > 0) && html`<${Toolbar} />`}
      <${SelectionBar} />
      ${isEmpty && isFiltered.value && html`<p class="soft nothing">No picture is like that.
        <button class="small" onClick=${() => navigate("/", new URLSearchParams())}>Show all</button></p>`}
      ${hasNewer.value && html`<${Edge} direction="after" />`}
      ${chunksOf(pictures.value).map((chunk) => html`<${Chunk} key=${chunk.day + chunk.pictures.at(-1).id} chunk=${chunk} />`)}
      ${pictures.value.length > 0 && html`<${Edge} direction="before" key=${`edge ${pictures.value.length}`} />`}
      <${Help} />
    </section>`;
  },
  {
    mounted: () => {
      document.addEventListener("keydown", onHelpKey);
      return () => document.removeEventListener("keydown", onHelpKey);
    },
  },
);
