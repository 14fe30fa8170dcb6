// What the person can have seen: an answer counts when what it answers has been on the screen for a moment. A second
// press of a key, or the second half of a double click, is meant for what was there before.

export const SEEN = 400;

export class Seen {
  // `told(true)` when what is on the screen may be answered, `told(false)` when something new comes there.
  constructor(told, now = () => performance.now()) {
    this.told = told;
    this.now = now;
    this.since = Infinity;
  }

  // Something new is drawn with the next frame: with the one after it, it is on the screen.
  renew() {
    clearTimeout(this.timer);
    this.since = Infinity;
    this.told(false);
    const mark = (this.mark = {});
    const frame = (next) => requestAnimationFrame(() => mark === this.mark && next());
    frame(() => frame(() => {
      this.since = this.now();
      this.timer = setTimeout(() => this.told(true), SEEN + 20);
    }));
  }

  // Nothing is there to be answered.
  forget() {
    clearTimeout(this.timer);
    this.mark = null;
    this.since = Infinity;
    this.told(false);
  }

  // Whether it was long enough when a key or button was pressed.
  before(pressed = this.now()) {
    return pressed - this.since >= SEEN;
  }
}
