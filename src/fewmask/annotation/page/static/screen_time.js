// Measures how long a question has been on the screen. An answer counts only after a moment: a second press of a key, or
// the second half of a double click, was meant for the question before.

export const LEAST_SHOWN = 400; // milliseconds

export class ScreenTime {
  // `onChange(true)` is called when the question on the screen may be answered, `onChange(false)` when it changes.
  constructor(onChange, now = () => performance.now()) {
    this.onChange = onChange;
    this.now = now;
    this.since = Infinity;
  }

  // Something new is drawn with the next frame. With the frame after that it is on the screen.
  renew() {
    clearTimeout(this.timer);
    this.since = Infinity;
    this.onChange(false);
    const mark = (this.mark = {});
    const frame = (next) => requestAnimationFrame(() => mark === this.mark && next());
    frame(() => frame(() => {
      this.since = this.now();
      this.timer = setTimeout(() => this.onChange(true), LEAST_SHOWN + 20);
    }));
  }

  // There is no question to be answered.
  forget() {
    clearTimeout(this.timer);
    this.mark = null;
    this.since = Infinity;
    this.onChange(false);
  }

  // Whether the question had been on the screen for long enough when a key or button was pressed.
  longEnough(pressed = this.now()) {
    return pressed - this.since >= LEAST_SHOWN;
  }
}
