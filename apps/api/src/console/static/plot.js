// Lines and bars over time, in the page's colours.
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { html, number } from "./ui.js";

const COLOURS = { light: ["#1f6fb5", "#b4491e", "#2b7a41", "#7a4aa8"], dark: ["#6db3f2", "#f0905f", "#74cf92", "#bd95ea"] };
const DARK = matchMedia("(prefers-color-scheme: dark)");
const DAY = 86400;
const colour = (i) => COLOURS[DARK.matches ? "dark" : "light"][i % 4];
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
const day = (seconds) => new Date(seconds * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
const rounded = (value) => (value && Math.abs(value) < 1 ? Number(value).toLocaleString("en", { maximumSignificantDigits: 2 }) : number(value, value >= 100 ? 0 : 1));
const short = (value) => Number(value).toLocaleString("en", { ...(value < 10_000 ? {} : { notation: "compact" }), maximumFractionDigits: 6 });

/** `data` is [times, values, ...], in seconds; with `days` one bar a day. */
export function Plot({ title, labels, data, days = false, unit = "", height = 140 }) {
  const place = useRef(), plot = useRef();
  useEffect(() => {
    const ink = () => getComputedStyle(place.current).color;
    const grid = { stroke: "#8883", width: 1 };
    const shared = { stroke: ink, grid, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const series = labels.map((label, i) => ({
      label, stroke: () => colour(i), width: 2, points: { show: false },
      ...(days ? { fill: () => colour(i), paths: uPlot.paths.bars({ size: [0.6, 36] }) } : {}),
    }));
    const axes = [
      { ...shared, size: 26, values: (_, ticks) => ticks.map(days ? day : clock), space: days ? 60 : 80, ...(days ? { incrs: [DAY, 2 * DAY, 7 * DAY, 14 * DAY, 30 * DAY] } : {}) },
      { ...shared, size: (_, shown) => 18 + 7.5 * Math.max(2, ...(shown || []).map((one) => one.length)), values: (_, ticks) => ticks.map(short) },
    ];
    const scales = {
      x: { range: (_, from, to) => (days ? [Math.min(from, to - 13 * DAY) - DAY / 2, to + DAY / 2] : [from, Math.max(to, from + 10)]) },
      y: { range: (_, from, to) => [0, to > 0 ? to * 1.15 : 1] },
    };
    const size = () => ({ width: Math.max(180, place.current.clientWidth), height });
    plot.current = new uPlot({ ...size(), tzDate: days ? (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC") : undefined, series: [{}, ...series], axes, scales, padding: [8, days ? 16 : 28, 0, 0], legend: { show: false }, cursor: { show: false } }, data, place.current);
    const watch = new ResizeObserver(() => place.current && plot.current.setSize(size()));
    const recolour = () => plot.current.redraw(false, true);
    watch.observe(place.current);
    DARK.addEventListener("change", recolour);
    return () => { watch.disconnect(); DARK.removeEventListener("change", recolour); plot.current.destroy(); };
  }, [labels.join(), days]);
  useEffect(() => { plot.current && plot.current.setData(data); }, [data]);
  const last = labels.map((label, i) => `${rounded(data[i + 1].at(-1))}${unit} ${label}`.trim()).join(", ");
  return html`<figure class="card"><figcaption>${title} <b>${last}</b></figcaption><div ref=${place} role="img" aria-label=${`${title}: ${days ? "last " : ""}${last}`} /></figure>`;
}
