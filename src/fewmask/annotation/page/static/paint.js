// The tools, and what a mouse, a pen or fingers do with them on the canvas.

import { borders, drawn, pixel, superpixel } from "./area.js";
import { Smart } from "./smart.js";

// `icon` is an outline of 16×16.
export const TOOLS = [
  { name: "whole", title: "Whole region", key: "r", icon: "M2 4V2h2M7 2h2M12 2h2v2M14 7v2M14 12v2h-2M9 14H7M4 14H2v-2M2 9V7M5 5h6v6H5z" },
  { name: "smart", title: "Smart select", key: "w", icon: "M2 14L9.500 6.500M8 5l3 3M12 1v3M10.500 2.500h3M14 7v2M13 8h2M5 2v2M4 3h2" },
  { name: "segment", title: "Superpixel", key: "s", icon: "M8 1.5l5.6 3.2v6.6L8 14.500l-5.600-3.200V4.700zM8 8v6.500M8 8l5.600-3.300M8 8L2.400 4.700" },
  { name: "brush", title: "Brush", key: "b", icon: "M14 2L7 9M9 5.500l1.500 1.500M7 9c-1.500-1-3 0-3.200 1.500C3.600 12 3 13 1.500 13.500c2.500 1 5.500.500 6-2 .200-1-.100-2-.500-2.500z" },
  { name: "polygon", title: "Polygon", key: "p", icon: "M3 12L5 4l7-2 2 6-5 6zM3 12h.010M5 4h.010M12 2h.010M14 8h.010M9 14h.010" },
  { name: "fill", title: "Fill", key: "f", icon: "M7 2l6 6-5 5-6-6zM7 2L5.500.500M2.500 7.500h10M14 11c1 1.500 1 2.500 0 3-1-.500-1-1.500 0-3z" },
];

// A pointer that moves by fewer pixels of the screen taps and does not drag.
const NEAR = { mouse: 12, pen: 12, touch: 24 };
// The least and the greatest radius of the ring around a polygon's first corner, in pixels of the screen. A click in the
// ring closes the polygon; a click beside it sets a corner. The ring is smaller than any side, so that thin things can
// be outlined.
const RING = { mouse: [3, 6], pen: [3, 6], touch: [8, 18] };
const OF_A_SIDE = 0.45;

const WIDER = 6; // of 255: the change of the reach with a turn of the wheel

const apart = ([ax, ay], [bx, by]) => Math.hypot(ax - bx, ay - by);

export class Painter {
  // `host`: {region, ready, automatic, valueFor(area, i), segmentation, selection(prompt), click(ready), changed(done, box),
  // painted(value), closed(), pick(value), hint(text), failed(error), reached(reach)}. `ready` says whether there is a class to
  // paint with, and `valueFor` which one an area gets that is painted from pixel i. `box` is the part that changed.
  constructor(view, host) {
    this.view = view;
    this.host = host;
    this.tool = "whole";
    this.width = 8;
    this.pointers = new Map();
    this.mouse = null;
    this.kind = "mouse";
    this.last = null; // the end of the last stroke, where a straight line goes on
    this.straight = false; // Shift is held
    this.tap = null; // the place where a finger has come down, for tools that act when it is lifted
    this.near = NEAR.mouse;
    this.space = false; // held down: the pointer moves the image
    this.moved = false; // whether the pointer has moved the image since
    this.shown = null; // the superpixel below the pointer: {segmentation, number, area, picture}
    this.lines = null; // the borders of superpixels: {segmentation, picture}
    this.frame = null; // the first corner, on the screen, of a box for smart select
    this.decided = null; // the last step, where the page and not the person chose its class
    this.smart = new Smart({
      get region() {
        return host.region;
      },
      selection: (prompt) => host.selection(prompt),
      valueFor: (area, i) => host.valueFor(area, i),
      painted: (done, value) => this.#changed(done, value),
      widened: () => host.click(true),
      previewed: () => this.#redraw(),
      failed: (error) => host.failed(error),
    });
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
    this.smart.forget();
    this.shown = null;
    this.view.requestDraw();
  }

  // The corners of the polygon. They stay with their region over other tools and questions.
  get corners() {
    return this.host.region?.corners ?? [];
  }

  get stroking() {
    return this.stroke !== undefined || this.smart.pending;
  }

  get #ready() {
    return this.view.bitmap && this.host.region && !this.view.point;
  }

  // ── Pointers ──

  #wheel(event) {
    event.preventDefault();
    const at = this.view.at(event);
    if (this.tool === "smart" && this.#ready && !event.ctrlKey) {
      this.widen(event.deltaY < 0 ? 1 : -1, at);
      return;
    }
    const lines = event.deltaMode === 1 ? 16 : 1;
    this.view.zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0018)), at);
  }

  #down(event) {
    const at = this.view.at(event);
    this.pointers.set(event.pointerId, at);
    this.view.canvas.setPointerCapture(event.pointerId);
    this.tap = this.frame = this.against = null;
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
      else if (this.tool === "smart") this.frame = at;
      else this.#press(at);
    }
    if (event.button === 2 && this.tool === "smart") this.against = at;
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
    if (this.against && apart(at, this.against) > NEAR.mouse / 3) this.against = null; // the image is being moved
    if (this.frame) this.#redraw();
    if (this.pointers.size === 2) this.#pinch(event.pointerId, at);
    else if (this.mode === "pan" || (this.view.point && this.mode === "paint")) {
      this.moved = true;
      this.view.pan(at[0] - before[0], at[1] - before[1]);
    } else if (this.stroke) {
      // A slow page gets many places in one event.
      const steps = event.getCoalescedEvents?.() ?? [];
      for (const step of steps.length ? steps : [event]) this.#strokeTo(this.view.at(step));
    }
    this.pointers.set(event.pointerId, at);
  }

  #up(event, cancelled = false) {
    const { tap, frame, against } = this, at = this.view.at(event);
    this.tap = this.frame = this.against = null;
    if (!this.pointers.delete(event.pointerId)) return;
    if (!cancelled && this.#ready) {
      if (tap) this.#press(tap);
      else if (against) this.#select(against, against, true);
      else if (frame) this.#select(frame, at, event.shiftKey);
    }
    if (!this.stroke) return;
    if (cancelled) this.#cancel();
    else this.#end();
  }

  #pinch(id, at) {
    const before = this.pointers.get(id), [second] = [...this.pointers].filter(([k]) => k !== id).map(([, p]) => p);
    this.view.pan((at[0] - before[0]) / 2, (at[1] - before[1]) / 2);
    const middle = [(at[0] + second[0]) / 2, (at[1] + second[1]) / 2];
    this.view.zoom(apart(at, second) / Math.max(apart(before, second), 1), middle);
  }

  // The pointer moves: only the places where it was and where it is are drawn again.
  #hover(at) {
    const before = this.mouse;
    this.mouse = at;
    if (this.corners.length) this.#redraw();
    else if (this.tool === "smart") this.pointers.size || this.smart.hover(this.#ready && at ? this.#here(at) : null);
    else if (this.tool === "segment") this.#point(at);
    else if (this.tool === "brush") {
      const line = this.straight && this.last ? [this.view.onScreen(this.last)] : [];
      const places = [before, at, ...line].filter(Boolean);
      if (this.lined || line.length) this.#redraw();
      else if (places.length) this.view.requestPart(around(places, (this.width / 2) * this.view.scale + 6 * this.view.ratio));
      this.lined = line.length > 0;
    }
  }

  // The place {x, y} in the region's box; null outside of the region.
  #here(at) {
    const { region } = this.host, [x, y] = this.view.inBox(at);
    const isInside = x >= 0 && y >= 0 && x < region.width && y < region.height && region.has(Math.floor(y) * region.width + Math.floor(x));
    return isInside ? { x, y } : null;
  }

  // Shows the superpixel at a place before it is painted.
  #point(at) {
    const { region, segmentation } = this.host, place = this.#ready && at && segmentation ? this.#here(at) : null;
    const i = place && Math.floor(place.y) * region.width + Math.floor(place.x), number = place ? segmentation.map[i] : null;
    if (number === (this.shown?.number ?? null) && segmentation === this.shown?.segmentation) return;
    const wasShown = this.shown !== null;
    const area = place && superpixel(segmentation, region.width, i);
    this.shown = place && { segmentation, number, area, picture: drawn(region, area) };
    if (wasShown || this.shown) this.#redraw();
  }

  #redraw() {
    this.view.requestPart(null);
  }

  // Chooses the class that shows at a place.
  pick(at = this.mouse) {
    if (!at || !this.#ready) return;
    const { region } = this.host, [x, y] = this.view.inBox(at).map(Math.floor);
    if (x < 0 || y < 0 || x >= region.width || y >= region.height) return;
    this.host.pick(region.shown(y * region.width + x));
  }

  // ── Tools ──

  #press(at) {
    const { host, view } = this, { region } = host;
    if (!host.ready) {
      host.click(false);
      return;
    }
    const place = view.inBox(at), [x, y] = place.map(Math.floor), here = this.#here(at), i = y * region.width + x;
    if (this.tool === "smart") this.#select(at, at, false);
    else if (this.tool === "polygon") {
      host.click(true);
      this.#corner(at, place);
    } else if (this.tool === "brush") {
      if (host.automatic && !here) {
        host.hint("The class is automatic: begin the stroke in the region.");
        return;
      }
      host.click(true);
      region.begin();
      this.stroke = this.straight && this.last ? this.last : place;
      this.value = host.valueFor(pixel(i, region.width), i);
      this.#strokeTo(at);
    } else if (here && this.tool === "segment") {
      if (!host.segmentation) return;
      host.click(true);
      region.begin();
      this.stroke = place;
      this.value = host.valueFor(superpixel(host.segmentation, region.width, i), i);
      this.#strokeTo(at);
    } else if (here) {
      host.click(true);
      this.#put(this.tool === "whole" ? region.whole : region.connected(i), i);
    }
  }

  #strokeTo(at) {
    const to = this.view.inBox(at), { value } = this, { region } = this.host;
    if (this.tool === "segment") {
      this.#throughSuperpixels(this.stroke, to);
      this.stroke = to;
      return;
    }
    const box = region.stroke(this.stroke, to, this.width / 2, value);
    this.last = this.stroke = to;
    this.host.changed(false, box);
  }

  // Paints every superpixel between two places.
  #throughSuperpixels([ax, ay], [bx, by]) {
    const { value } = this, { region, segmentation } = this.host, steps = Math.max(Math.ceil(2 * Math.hypot(bx - ax, by - ay)), 1);
    const numbers = new Map();
    for (let k = 0; k <= steps; k++) {
      const x = Math.floor(ax + ((bx - ax) * k) / steps), y = Math.floor(ay + ((by - ay) * k) / steps);
      if (x < 0 || y < 0 || x >= region.width || y >= region.height || !region.has(y * region.width + x)) continue;
      numbers.set(segmentation.map[y * region.width + x], y * region.width + x);
    }
    for (const i of numbers.values()) this.host.changed(false, region.put(superpixel(segmentation, region.width, i), value));
  }

  // Selects by a click or by a box from one place to another, or subtracts a place from the last selection.
  #select(from, to, subtracts) {
    const { host, view } = this;
    if (this.smart.pending) return;
    const [a, b] = [view.inBox(from), view.inBox(to)], clicked = apart(from, to) <= this.near * view.ratio;
    if (subtracts) {
      const place = this.#here(from);
      if (!place) return;
      host.click(true);
      if (this.smart.live) this.smart.subtract(place);
      else host.failed("select something first: then what does not belong to it can be taken away");
      return;
    }
    if (!host.ready) {
      host.click(false);
      return;
    }
    if (clicked) {
      const place = this.#here(from);
      if (!place) return;
      host.click(true);
      this.smart.choose({ points: [{ ...place, belongs: true }], frame: null });
      return;
    }
    const { region } = host, within = (v, most) => Math.min(Math.max(v, 0), most);
    const frame = {
      top: within(Math.min(a[1], b[1]), region.height), left: within(Math.min(a[0], b[0]), region.width),
      bottom: within(Math.max(a[1], b[1]), region.height), right: within(Math.max(a[0], b[0]), region.width),
    };
    if (frame.bottom - frame.top < 1 || frame.right - frame.left < 1) return;
    host.click(true);
    this.smart.choose({ points: [], frame });
  }

  // Makes the reach of selections wider or narrower.
  widen(by, at = this.mouse) {
    this.smart.widen(by * WIDER, at && this.#ready && this.#here(at));
    this.host.reached(this.smart.reach);
  }

  // Sets the reach by the slider. The last selection follows.
  reachTo(reach) {
    const { smart } = this, [place] = smart.live ? smart.chosen.prompt.points : [];
    smart.widen(reach - smart.reach, place);
  }

  // Paints an area as one step, with the class that it gets by a click on pixel i.
  #put(area, i) {
    const { region } = this.host;
    this.value = this.host.valueFor(area, i);
    region.begin();
    region.put(area, this.value);
    this.#end();
  }

  #end() {
    this.stroke = undefined;
    this.#changed(this.host.region.end(), this.value);
  }

  #changed(done, value) {
    const { host } = this;
    this.decided = done && host.automatic ? host.region.past.at(-1) : null;
    host.changed(done, host.region.touched);
    if (this.decided) host.painted(value);
  }

  // Gives what the last step painted another class, if the page chose its class. Returns whether it did.
  repaint(value) {
    const { host } = this, { region } = host;
    if (!this.decided || region.past.at(-1) !== this.decided) return false;
    const wasSelected = this.smart.live, done = region.repaint(value);
    if (wasSelected) this.smart.repainted(done ? value : null);
    this.decided = done ? region.past.at(-1) : null;
    host.changed(true, region.touched);
    return true;
  }

  #cancel() {
    if (!this.stroke) return;
    this.stroke = undefined;
    this.host.region.cancel();
    this.host.changed(false);
  }

  // Called before another question is shown: a stroke ends as it is.
  leave() {
    if (this.stroke) this.#end();
    this.last = this.tap = this.frame = this.against = this.shown = null;
    this.smart.forget();
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
    this.#redraw();
  }

  // Closes the polygon. Returns whether there was a polygon or a stroke.
  close() {
    if (this.stroking) return true; // the stroke ends when the button is released
    const { corners, host } = this;
    if (corners.length < 3) return this.drop();
    this.#put(host.region.polygon(corners.splice(0)));
    return true;
  }

  // The pointer closes the polygon: an Enter right after it, out of habit, does not answer the question.
  #closeHere() {
    if (this.close()) this.host.closed();
  }

  // Gives up the polygon. Returns whether there was one.
  drop() {
    const hadCorners = this.corners.splice(0).length > 0;
    if (hadCorners) this.#redraw();
    return hadCorners;
  }

  // Removes the polygon's last corner. Returns whether there was one.
  shorten() {
    const hadCorner = this.corners.pop() !== undefined;
    if (hadCorner) this.#redraw();
    return hadCorner;
  }

  #draw(pen) {
    const { view, mouse } = this;
    const strokeTwice = (draw) => {
      for (const [colour, wide] of [["black", 3.5], ["white", 1.5]]) {
        pen.strokeStyle = colour;
        pen.lineWidth = wide * view.ratio;
        pen.beginPath();
        draw();
        pen.stroke();
      }
    };
    this.#areas(pen);
    if (mouse && this.frame && apart(mouse, this.frame) > this.near * view.ratio) {
      strokeTwice(() => pen.rect(...this.frame, mouse[0] - this.frame[0], mouse[1] - this.frame[1]));
    }
    if (mouse && this.tool === "brush" && this.#ready && !this.space) {
      strokeTwice(() => pen.arc(...mouse, Math.max((this.width / 2) * view.scale, 2), 0, 7));
      if (this.straight && this.last && !this.stroking) strokeTwice(() => [view.onScreen(this.last), mouse].forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y))));
    }
    if (!this.corners.length) return;
    const points = this.corners.map((corner) => view.onScreen(corner)), closes = this.#inRing(mouse);
    strokeTwice(() => [...points, ...(mouse ? [closes ? points[0] : mouse] : [])].forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y))));
    pen.fillStyle = "rgb(255 255 255 / 85%)";
    if (closes) {
      pen.beginPath();
      pen.arc(...points[0], this.ring, 0, 7);
      pen.fill();
    }
    strokeTwice(() => pen.arc(...points[0], points.length > 2 ? this.ring : 2 * view.ratio, 0, 7));
  }

  // Draws the area that a click would paint, and the borders of superpixels.
  #areas(pen) {
    const { region, segmentation } = this.host;
    if (!this.#ready || !["smart", "segment"].includes(this.tool)) return;
    const pictures = [];
    if (this.tool === "segment" && segmentation) {
      if (this.lines?.segmentation !== segmentation) this.lines = { segmentation, picture: borders(region, segmentation) };
      pictures.push(this.lines.picture);
      if (this.shown?.segmentation === segmentation) pictures.push(this.shown.picture);
    } else if (this.tool === "smart" && this.smart.preview?.picture && !this.frame) pictures.push(this.smart.preview.picture);
    pen.imageSmoothingEnabled = false;
    for (const { canvas, bounds } of pictures) {
      const [x, y] = this.view.onScreen(bounds);
      pen.drawImage(canvas, x, y, canvas.width * this.view.scale, canvas.height * this.view.scale);
    }
  }
}

// The box of the screen that holds some places, with a margin.
function around(places, margin) {
  const xs = places.map(([x]) => x), ys = places.map(([, y]) => y);
  return [Math.min(...xs) - margin, Math.min(...ys) - margin, Math.max(...xs) + margin, Math.max(...ys) + margin];
}
