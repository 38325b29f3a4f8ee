/* Before the first paint, so that the page does not flash in the other colours. */
try {
  document.documentElement.dataset.theme = JSON.parse(localStorage.getItem("banatie.theme"));
} catch {
  // Without storage the system's theme is used.
}
