// Scrolling back in the piano roll: wheel, drag and keys.

const KEYS = { ArrowUp: 0.1, ArrowDown: -0.1, PageUp: 0.9, PageDown: -0.9, Home: Infinity, End: -Infinity }; // in views

/** `now()` returns the present in seconds; `onScroll` is called after each move. */
export function connectScrolling(canvas, presentButton, roll, now, onScroll) {
  function scroll(seconds) {
    roll.scroll(seconds, now());
    presentButton.hidden = roll.back === 0;
    onScroll();
  }

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    scroll((-event.deltaY / canvas.clientHeight) * roll.visibleSecs);
  }, { passive: false });

  canvas.addEventListener("keydown", (event) => {
    if (!(event.key in KEYS)) return;
    event.preventDefault();
    scroll(KEYS[event.key] * roll.visibleSecs);
  });

  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    scroll((event.movementY / canvas.clientHeight) * roll.visibleSecs);
  });

  presentButton.onclick = () => scroll(-Infinity);
}
