// Numbers, sizes and times as people read them.

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** 1234567 as "1,234,567". */
export const number = (value) => WHOLE.format(value);

/** A rate with as many digits as tell something; a dash where it is not known. */
export function rate(value) {
  if (value === null || value === undefined) return "–";
  return value < 10 ? String(Math.round(value * 10) / 10) : number(value);
}

/** Bytes in powers of 1024, with three digits at most. */
export function bytes(value) {
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

/** A time that has passed, in its largest two units; below a minute in seconds. */
export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** A time that was measured: 0.213 as "0.21 s", 12.3 as "12.3 s". */
export const measured = (seconds) => `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;

/** The time of day of unix seconds. */
export const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");

/** "1 restart", "3 restarts". */
export const counted = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

/** A share of a whole between 0 and 1; 0 of nothing. */
export const share = (part, whole) => (whole > 0 ? Math.min(1, Math.max(0, part / whole)) : 0);
