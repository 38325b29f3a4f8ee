/** Numbers as people read them. */
const UNITS = ["B", "kB", "MB", "GB", "TB"];

/** Bytes with two digits that matter. @param {number} bytes */
export function size(bytes) {
  let unit = 0;
  let number = bytes;
  while (number >= 999.5 && unit < UNITS.length - 1) {
    number /= 1000;
    unit++;
  }
  const digits = unit && number < 9.95 ? 1 : 0;
  return `${number.toFixed(digits)} ${UNITS[unit]}`;
}

/** The time of a moment, with the day unless that is today. @param {string} time */
export function moment(time) {
  const date = new Date(time);
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday
    ? date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })
    : date.toLocaleDateString([], { day: "numeric", month: "short", year: "numeric" });
}
