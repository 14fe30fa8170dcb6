// Pointer and tools: what a mouse, a pen or fingers do on the canvas.

// `icon` is an outline of 16×16.
export const TOOLS = [
  { name: "whole", title: "Whole region", key: "r", icon: "M2 4V2h2M7 2h2M12 2h2v2M14 7v2M14 12v2h-2M9 14H7M4 14H2v-2M2 9V7M5 5h6v6H5z" },
  { name: "segment", title: "Superpixel", key: "s", icon: "M8 1.5l5.6 3.2v6.6L8 14.500l-5.600-3.200V4.700zM8 8v6.500M8 8l5.600-3.300M8 8L2.400 4.700" },
  { name: "brush", title: "Brush", key: "b", icon: "M14 2L7 9M9 5.500l1.500 1.500M7 9c-1.500-1-3 0-3.200 1.500C3.600 12 3 13 1.500 13.500c2.500 1 5.500.500 6-2 .200-1-.100-2-.500-2.500z" },
  { name: "polygon", title: "Polygon", key: "p", icon: "M3 12L5 4l7-2 2 6-5 6zM3 12h.010M5 4h.010M12 2h.010M14 8h.010M9 14h.010" },
  { name: "fill", title: "Fill", key: "f", icon: "M7 2l6 6-5 5-6-6zM7 2L5.500.500M2.500 7.500h10M14 11c1 1.500 1 2.500 0 3-1-.500-1-1.500 0-3z" },
];

// Pixels of the screen within which a tap is no drag.
const NEAR = { mouse: 12, pen: 12, touch: 24 };
// The radius of the ring around a polygon's first corner, in pixels of the screen, at least and at most: a click in it
// closes the polygon, one beside it sets a corner. It is smaller than any side, so that thin things can be outlined.
const RING = { mouse: [3, 6], pen: [3, 6], touch: [8, 18] };
const OF_A_SIDE = 0.45;

const apart = ([ax, ay], [bx, by]) => Math.hypot(ax - bx, ay - by);

export class Painter {
  // `host`: {region, value, segmentation, click(chosen), changed(done, box), closed(), pick(value)}; `value` is undefined
  // while no class is chosen, and `box` is what of the region changed.
  constructor(view, host) {
    this.view = view;
    this.host = host;
    this.tool = "whole";
    this.width = 8;
    this.pointers = new Map();
    this.mouse = null;
    this.kind = "mouse";
    this.last = null; // where the last stroke ended: a straight line goes on from there
    this.straight = false; // Shift is held
    this.tap = null; // where a finger that does not paint as it goes has come down
    this.near = NEAR.mouse;
    this.space = false; // held down: the pointer moves the image
    this.moved = false; // it has, since
    const { canvas } = view;
    canvas.addEventListener("pointerdown", (e) => this.#down(e));
    canvas.addEventListener("pointermove", (e) => this.#move(e));
    canvas.addEventListener("pointerup", (e) => this.#up(e));
    canvas.addEventListener("pointercancel", (e) => this.#up(e, true));
    canvas.addEventListener("pointerleave", () => this.#hover(null));
    canvas.addEventListener("dblclick", () => this.tool === "polygon" && this.#closeHere());
    canvas.addEventListener("contextmenu", (e) => e.preventDefault());
    canvas.addEventListener("wheel", (e) => this.#wheel(e), { passive: false });
    view.above = (pen) => this.#draw(pen);
  }

  choose(tool) {
    this.tool = tool;
    this.view.ask();
  }

  // They stay with their region, whichever tool or question comes between.
  get corners() {
    return this.host.region?.corners ?? [];
  }

  get stroking() {
    return this.stroke !== undefined;
  }

  get #ready() {
    return this.view.bitmap && this.host.region && !this.view.point;
  }

  // ── Pointers ──

  #wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : 1;
    this.view.zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0018)), this.view.at(event));
  }

  #down(event) {
    const at = this.view.at(event);
    this.pointers.set(event.pointerId, at);
    this.view.canvas.setPointerCapture(event.pointerId);
    this.tap = null;
    if (this.pointers.size === 2) this.#cancel(); // two fingers zoom
    if (this.pointers.size > 1) return;
    this.kind = event.pointerType in RING ? event.pointerType : "mouse";
    this.near = NEAR[this.kind];
    this.straight = event.shiftKey;
    if (event.altKey && event.button === 0 && this.#ready) {
      this.mode = "pick";
      this.pick(at);
      event.preventDefault();
      return;
    }
    this.mode = this.space || event.button === 1 || event.button === 2 ? "pan" : "paint";
    if (this.mode === "paint" && event.button === 0 && this.#ready) {
      // A finger may be the first of two, or about to move the image: it acts when it is lifted.
      if (event.pointerType === "touch" && this.tool !== "brush") this.tap = at;
      else this.#press(at);
    }
    event.preventDefault();
    this.view.canvas.focus({ preventScroll: true });
  }

  #move(event) {
    const at = this.view.at(event), before = this.pointers.get(event.pointerId);
    this.straight = event.shiftKey;
    this.#hover(event.pointerType === "touch" ? null : at);
    if (!before) return;
    if (this.tap && apart(at, this.tap) > this.near * this.view.ratio) {
      this.tap = null;
      this.mode = "pan";
    }
    if (this.pointers.size === 2) this.#pinch(event.pointerId, at);
    else if (this.mode === "pan" || (this.view.point && this.mode === "paint")) {
      this.moved = true;
      this.view.pan(at[0] - before[0], at[1] - before[1]);
    } else if (this.stroking) {
      // A slow page gets many places in one event.
      const steps = event.getCoalescedEvents?.() ?? [];
      for (const step of steps.length ? steps : [event]) this.#strokeTo(this.view.at(step));
    }
    this.pointers.set(event.pointerId, at);
  }

  #up(event, cancelled = false) {
    const { tap } = this;
    this.tap = null;
    if (!this.pointers.delete(event.pointerId)) return;
    if (tap && !cancelled && this.#ready) this.#press(tap);
    if (!this.stroking) return;
    if (cancelled) this.#cancel();
    else this.#end();
  }

  #pinch(id, at) {
    const before = this.pointers.get(id), [other] = [...this.pointers].filter(([k]) => k !== id).map(([, p]) => p);
    this.view.pan((at[0] - before[0]) / 2, (at[1] - before[1]) / 2);
    const middle = [(at[0] + other[0]) / 2, (at[1] + other[1]) / 2];
    this.view.zoom(apart(at, other) / Math.max(apart(before, other), 1), middle);
  }

  // What is drawn at the pointer moves: where it was and where it is are drawn again, and nothing else.
  #hover(at) {
    const before = this.mouse;
    this.mouse = at;
    if (this.corners.length) this.#over();
    else if (this.tool === "brush") {
      const line = this.straight && this.last ? [this.view.onScreen(this.last)] : [];
      const places = [before, at, ...line].filter(Boolean);
      if (this.lined || line.length) this.#over();
      else if (places.length) this.view.askPart(around(places, (this.width / 2) * this.view.scale + 6 * this.view.ratio));
      this.lined = line.length > 0;
    }
  }

  #over() {
    this.view.askPart(null);
  }

  // The class that shows at a place is chosen.
  pick(at = this.mouse) {
    if (!at || !this.#ready) return;
    const { region } = this.host, [x, y] = this.view.inBox(at).map(Math.floor);
    if (x < 0 || y < 0 || x >= region.width || y >= region.height) return;
    this.host.pick(region.shown(y * region.width + x));
  }

  // ── Tools ──

  #press(at) {
    const { host, view } = this, { region, value } = host;
    if (value === undefined) {
      host.click(false);
      return;
    }
    const place = view.inBox(at), [x, y] = place.map(Math.floor);
    const here = x >= 0 && y >= 0 && x < region.width && y < region.height && region.has(y * region.width + x);
    if (this.tool === "polygon") {
      host.click(true);
      this.#corner(at, place);
    } else if (this.tool === "brush") {
      host.click(true);
      region.begin();
      this.stroke = this.straight && this.last ? this.last : place;
      this.#strokeTo(at);
    } else if (here) {
      host.click(true);
      region.begin();
      const i = y * region.width + x;
      if (this.tool === "whole") region.whole(value);
      else if (this.tool === "fill") region.flood(i, value);
      else if (host.segmentation) region.segment(host.segmentation, i, value);
      this.#end();
    }
  }

  #strokeTo(at) {
    const to = this.view.inBox(at), { region, value } = this.host;
    const box = region.stroke(this.stroke, to, this.width / 2, value);
    this.last = this.stroke = to;
    this.host.changed(false, box);
  }

  #end() {
    this.stroke = undefined;
    const { region } = this.host;
    this.host.changed(region.end(), region.touched);
  }

  #cancel() {
    if (!this.stroking) return;
    this.stroke = undefined;
    this.host.region.cancel();
    this.host.changed(false);
  }

  // Another question is shown: what is being drawn on this one ends as it is.
  leave() {
    if (this.stroking) this.#end();
    this.last = this.tap = null;
  }

  // The radius of the ring around the first corner, in pixels of the canvas.
  get ring() {
    const [least, most] = RING[this.kind].map((pixels) => pixels * this.view.ratio);
    const points = this.corners.map((corner) => this.view.onScreen(corner));
    const sides = points.slice(1).map((point, i) => apart(point, points[i]));
    return Math.max(Math.min(most, OF_A_SIDE * Math.min(...sides)), least);
  }

  #inRing(at) {
    return at && this.corners.length > 2 && apart(at, this.view.onScreen(this.corners[0])) <= this.ring;
  }

  #corner(at, place) {
    if (this.#inRing(at)) this.#closeHere();
    else if (apart(place, this.corners.at(-1) ?? [Infinity, Infinity]) > 1e-6) this.corners.push(place);
    this.#over();
  }

  // Ends the polygon or the stroke that is being drawn; whether there was one.
  close() {
    if (this.stroking) return true; // it ends where the button is let go
    const { corners, host } = this;
    if (corners.length < 3) return this.drop();
    host.region.begin();
    host.region.polygon(corners.splice(0), host.value);
    this.#end();
    return true;
  }

  // By the pointer: whoever presses Enter too, out of habit, does not mean the question.
  #closeHere() {
    if (this.close()) this.host.closed();
  }

  // Gives up the polygon; whether there was one.
  drop() {
    const there = this.corners.splice(0).length > 0;
    if (there) this.#over();
    return there;
  }

  // Takes the polygon's last corner back; whether there was one.
  shorten() {
    const there = this.corners.pop() !== undefined;
    if (there) this.#over();
    return there;
  }

  #draw(pen) {
    const { view, mouse } = this;
    const both = (draw) => {
      for (const [colour, wide] of [["black", 3.5], ["white", 1.5]]) {
        pen.strokeStyle = colour;
        pen.lineWidth = wide * view.ratio;
        pen.beginPath();
        draw();
        pen.stroke();
      }
    };
    if (mouse && this.tool === "brush" && this.#ready && !this.space) {
      both(() => pen.arc(...mouse, Math.max((this.width / 2) * view.scale, 2), 0, 7));
      if (this.straight && this.last && !this.stroking) both(() => [view.onScreen(this.last), mouse].forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y))));
    }
    if (!this.corners.length) return;
    const points = this.corners.map((corner) => view.onScreen(corner)), closes = this.#inRing(mouse);
    both(() => [...points, ...(mouse ? [closes ? points[0] : mouse] : [])].forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y))));
    pen.fillStyle = "rgb(255 255 255 / 85%)";
    if (closes) {
      pen.beginPath();
      pen.arc(...points[0], this.ring, 0, 7);
      pen.fill();
    }
    both(() => pen.arc(...points[0], points.length > 2 ? this.ring : 2 * view.ratio, 0, 7));
  }
}

// The box of the screen that holds some places, and as much around them.
function around(places, margin) {
  const xs = places.map(([x]) => x), ys = places.map(([, y]) => y);
  return [Math.min(...xs) - margin, Math.min(...ys) - margin, Math.max(...xs) + margin, Math.max(...ys) + margin];
}
