// The controls below the piano roll and their current values.

const $ = (id) => document.getElementById(id);

/** Set up the controls from the server's values; returns the settings and calls `onChange` with new ones. */
export function connectSettings(about, onChange) {
  const [threshold, gain, lookAhead] = [$("threshold"), $("gain"), $("look-ahead")];
  threshold.value = about.threshold;
  [gain.min, gain.max] = about.gains_db;
  gain.value = 0;
  [lookAhead.min, lookAhead.max] = about.look_aheads;
  lookAhead.value = about.look_ahead;

  function read() {
    const settings = {
      threshold: threshold.valueAsNumber,
      gain_db: gain.valueAsNumber,
      look_ahead_frames: lookAhead.valueAsNumber,
    };
    $("threshold-value").textContent = settings.threshold.toFixed(3);
    $("gain-value").textContent = `${settings.gain_db > 0 ? "+" : ""}${settings.gain_db} dB`;
    $("look-ahead-value").textContent = `${Math.round(1000 * settings.look_ahead_frames * about.frame_secs)} ms`;
    return settings;
  }

  for (const control of [threshold, gain]) control.oninput = () => onChange(read());
  lookAhead.oninput = read;
  lookAhead.onchange = () => onChange(read()); // restarts the stream, so only on release
  $("settings").onsubmit = (event) => event.preventDefault();
  return read();
}

/** The list of MIDI outputs, which the browser reveals after asking the user. */
export function connectMidiOut(midiOut, onWarning) {
  const list = $("midi-out");
  if (!midiOut.constructor.isSupported) {
    list.disabled = true;
    $("midi-out-help").textContent = "This browser has no Web MIDI; Chrome, Edge and Firefox have.";
    return;
  }
  const ask = new Option("Choose an output…", "ask");
  list.add(ask);

  function update() {
    const chosen = list.value;
    list.replaceChildren(new Option("Off", ""), ...midiOut.outputs.map(({ id, name }) => new Option(name, id)));
    list.value = midiOut.outputs.some(({ id }) => id === chosen) ? chosen : "";
    midiOut.select(list.value || null);
  }

  list.onchange = async () => {
    if (list.value !== "ask") {
      midiOut.select(list.value || null);
      return;
    }
    list.value = "";
    try {
      await midiOut.open(update);
      update();
      if (midiOut.outputs.length === 0) onWarning("The browser found no MIDI output. Connect one to see it in the list.");
    } catch {
      onWarning("This page may not use MIDI. Allow it in the browser's address bar, then try again.");
    }
  };
}
