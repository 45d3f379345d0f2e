// Canvas colours. Velocity: viridis (van der Walt and Smith, 2015), which reads as an order with all common types of
// colour vision; loud notes stand out most on either background. They are also wider.

const DARK_RAMP = ["#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
const LIGHT_RAMP = ["#22a384", "#1f958b", "#26828e", "#31688e", "#3e4989", "#482878", "#440154"];
const [SOFT, LOUD] = [20, 110]; // velocities at the ends of the ramp: few notes are beyond
const darkScheme = matchMedia("(prefers-color-scheme: dark)");

/** The current colours; `onColours` listeners are called when they change. */
export const colours = { velocity: [], spectrum: [0, 0, 0] }; // and CSS colours by name
const listeners = [];

export function onColours(listener) {
  listeners.push(listener);
}

function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

function update() {
  const ramp = (darkScheme.matches ? DARK_RAMP : LIGHT_RAMP).map(rgb);
  colours.velocity = Array.from({ length: 128 }, (_, velocity) => {
    const share = Math.max(0, Math.min(1, (velocity - SOFT) / (LOUD - SOFT)));
    const place = share * (ramp.length - 1);
    const low = Math.min(Math.floor(place), ramp.length - 2);
    const mixed = ramp[low].map((value, i) => Math.round(value + (ramp[low + 1][i] - value) * (place - low)));
    return `rgb(${mixed})`;
  });
  const style = getComputedStyle(document.documentElement);
  for (const name of ["text", "quiet", "line", "lane", "background", "white-key", "black-key", "key-edge", "key-text"]) {
    colours[name] = style.getPropertyValue(`--${name}`).trim();
  }
  colours.spectrum = rgb(style.getPropertyValue("--spectrum").trim());
  for (const listener of listeners) listener();
}

darkScheme.addEventListener("change", update);
update();
