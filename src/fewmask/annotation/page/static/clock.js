// Measures working time: the time between two actions of a person, at most IDLE for each pause, and none while the tab
// is hidden.

export const IDLE = 30_000;

export class Clock {
  constructor(now = () => performance.now()) {
    this.now = now;
    this.total = 0;
    this.last = now();
    this.away = false;
  }

  // Called when the person does something.
  beat() {
    const now = this.now();
    if (!this.away) this.total += Math.min(now - this.last, IDLE);
    this.last = now;
  }

  hide(away) {
    this.beat();
    this.away = away;
  }

  // The seconds of work since the last call.
  take() {
    this.beat();
    const seconds = this.total / 1000;
    this.total = 0;
    return seconds;
  }
}
